"""Checks that the tensors of an ONNX file have all their values, and in which file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath

from onnx import GraphProto, TensorProto

from compressor.core import UnsafeInput, UsageError

_OUTSIDE = (2 << 30) - 1

_BITS = {
    **dict.fromkeys((TensorProto.UINT2, TensorProto.INT2), 2),
    **dict.fromkeys((TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1), 4),
    **dict.fromkeys((TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL, TensorProto.STRING), 8),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2), 8),
    **dict.fromkeys((TensorProto.FLOAT8E5M2FNUZ, TensorProto.FLOAT8E8M0), 8),
    **dict.fromkeys((TensorProto.UINT16, TensorProto.INT16, TensorProto.FLOAT16, TensorProto.BFLOAT16), 16),
    **dict.fromkeys((TensorProto.UINT32, TensorProto.INT32, TensorProto.FLOAT), 32),
    **dict.fromkeys((TensorProto.UINT64, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.COMPLEX64), 64),
    TensorProto.COMPLEX128: 128,
}
"""Bits of one element; a string counts as one byte."""

_INSIDE = "save it as one file: onnx.save(onnx.load(path), new_path)"


def value_bytes(type: int, dims: list[int]) -> int:
    """Return the bytes of a tensor of this type and shape; elements of an unknown type count as eight."""
    return -(-prod(dims) * _BITS.get(type, 64) // 8)


def tensors(graph: GraphProto, path: Path) -> Iterator[TensorProto]:
    """Yield each tensor of one graph, without those of graphs inside its nodes.

    Raises UnsafeInput for sparse ones: they claim far more than they hold by their nature.
    """
    sparse = bool(graph.sparse_initializer)
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            sparse |= attribute.HasField("sparse_tensor") or bool(attribute.sparse_tensors)
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
    if sparse:
        raise UnsafeInput(f"{path} has sparse tensors", hint="export it with dense weights")


def check_tensor(tensor: TensorProto, path: Path) -> None:
    """Check one tensor. Raises UnsafeInput where it has fewer values than its shape says or they lie in another file,
    UsageError where it has more."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise UnsafeInput(f"{path}: {tensor.name!r} lies in another file", hint=_INSIDE)
    bits = _BITS.get(tensor.data_type)
    if bits is None or tensor.HasField("segment") or min(tensor.dims, default=0) < 0:
        raise UsageError(f"{path}: {tensor.name!r} is no tensor that is known", hint="export it again")
    fields = (
        (tensor.float_data, 4), (tensor.double_data, 8), (tensor.int64_data, 8), (tensor.string_data, 1),
        (tensor.int32_data, max(1, bits // 8)), (tensor.uint64_data, bits // 8),
    )  # fmt: skip
    held = len(tensor.raw_data) + sum(len(values) * width for values, width in fields)
    claimed = value_bytes(tensor.data_type, list(tensor.dims))
    if claimed > held:
        raise UnsafeInput(
            f"{path}: {tensor.name!r} claims {claimed:,} bytes ({'x'.join(map(str, tensor.dims))}), and holds {held:,}",
            hint="export it again, with its weights whole",
        )
    if claimed < held:
        raise UsageError(f"{path}: {tensor.name!r} holds {held:,} bytes for {claimed:,}", hint="export it again")


def with_outside_data(graph: GraphProto, path: Path, beside: Path | None) -> int:
    """Read into ``graph`` the weights that lie in other files of the folder ``beside``, and return how many bytes.

    Raises UnsafeInput for any of them where ``beside`` is None, and for whatever is no regular file inside of that
    folder, has another name elsewhere (a hard link) or is shorter than claimed; UsageError where one is missing.
    """
    total = 0
    for tensor in graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        if beside is None:
            raise UnsafeInput(f"{path}: {tensor.name!r} lies in another file", hint=_INSIDE)
        total += (claimed := value_bytes(tensor.data_type, list(tensor.dims)))
        if total > _OUTSIDE:
            raise UnsafeInput(f"{path} claims more than 2 GiB of weights in other files", hint="give a smaller model")
        tensor.raw_data = _outside(tensor, claimed, path, beside)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return total


def _outside(tensor: TensorProto, claimed: int, path: Path, beside: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"{path}: {tensor.name!r} in {location!r}"
    parts = PurePosixPath(location.replace("\\", "/")).parts
    folder = beside.resolve()
    try:
        within = bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in location
        # What a link leads to counts, not where it stands.
        file = (folder / location).resolve() if within else folder
        if not (within and file.is_relative_to(folder)):
            raise UnsafeInput(f"{where} is outside of the model's folder", hint=_INSIDE)
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", claimed))
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise UnsafeInput(f"{where} is no regular file, or a hard link", hint="copy it, as a file of its own")
            if length != claimed or offset < 0 or offset + length > found.st_size:
                raise UnsafeInput(
                    f"{where} claims {claimed:,} bytes, of {found.st_size - offset:,} there", hint="copy it again"
                )
            opened.seek(offset)
            return opened.read(length)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {where}: {error}", hint="copy the model with the files beside it") from error
