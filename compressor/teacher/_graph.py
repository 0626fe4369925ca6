"""An ONNX file as a teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.core import GivenInput, Json, Session, Signature, TorchSource, UsageError
from compressor.feeds import random_feeds, sizes_given
from compressor.frontend import load_onnx

if TYPE_CHECKING:
    import onnx

    from compressor.core.signature import Feeds, Outputs
    from compressor.data import AnySource

__all__ = ["GraphNetwork", "load_graph"]

_SIDES = ((224, 224), (256, 256), (320, 320), (64, 64), (32, 32), (48, 192), (640, 640))
"""Heights and widths that a network is tried with, where it leaves them free and nothing says more."""
_LENGTHS = (1, 16, 64, 128, 256, 1024, 16000)
"""Sizes that other free axes are tried with."""


@dataclass(frozen=True, eq=False)
class GraphNetwork:
    """An ONNX graph in memory. Satisfies `compressor.teacher._network.Network`."""

    content: bytes = field(repr=False)
    """The scanned file, its weights inside, as its maker exported it."""
    session: Session
    signature: Signature
    sizes: Mapping[str, int]
    ranges: Mapping[str, tuple[int, int]]
    params: int
    macs: int
    notes: tuple[str, ...]

    family: str = "onnx"
    settings: Mapping[str, Json] = field(default_factory=dict)
    task: None = None
    default_normalization: None = None
    divisor: int = 1

    def __call__(self, feeds: Feeds) -> Outputs:
        """The outputs in floats, by name."""
        return self.session(feeds)

    def write(self, folder: Path) -> tuple[TorchSource | None, Path | None, str]:
        """Keep the file in ``folder``; the first process of a run writes."""
        from compressor.atomic import write
        from compressor.train import workers

        path = folder / "model.onnx"
        if workers.is_main_process() and not (path.is_file() and path.read_bytes() == self.content):
            write(path, self.content)
        return None, path, hashlib.sha256(self.content).hexdigest()


def load_graph(path: Path, given: tuple[GivenInput, ...], source: AnySource | None) -> GraphNetwork:
    """Read an ONNX file, clean it, find the sizes of its free axes and count what it costs.

    Arrays of ``source`` tell those sizes where ``given`` does not.
    Raises UnsafeInput or UsageError as `load_onnx` and `clean_graph` do, UsageError where a size must be given.
    """
    import onnx_ir as ir

    from compressor import catalog
    from compressor.data import FeedSource
    from compressor.lowering.clean_onnx import clean_graph
    from compressor.lowering.save import save
    from compressor.lowering.signature import signature_of

    proto = load_onnx(path)
    content = proto.SerializeToString(deterministic=True)
    _check_opset(path, proto, content)
    graph = clean_graph(proto, _OPSET)
    signature = signature_of(graph)
    with TemporaryDirectory() as folder:
        saved = save(graph, Path(folder) / "model.onnx", "fp32")
        try:
            session = catalog.find("backends", "onnxruntime")().open(saved.path, threads=1)
        except Exception as error:  # the runtime raises its own C++ types, all of them meaning "no"
            reason = str(error).strip().splitlines()[0]
            raise UsageError(
                f"ONNX Runtime cannot load {path}: {reason}", hint="try the file in ONNX Runtime itself"
            ) from error
    sizes, ranges = sizes_given(signature, given)
    if isinstance(source, FeedSource):
        sizes = {**source.sizes(signature), **sizes}
    found, notes = _found_sizes(signature, sizes, session)
    params, macs = _cost(ir.to_proto(graph), signature, found)
    told = f"an ONNX file of opset {proto.opset_import[0].version}, made by {proto.producer_name or 'an unknown tool'}"
    return GraphNetwork(content, session, signature, found, ranges, params, macs, (told, *notes))


def _check_opset(path: Path, proto: onnx.ModelProto, content: bytes) -> None:
    """Raise UsageError for a file that ONNX Runtime is too new for: nothing would tell what its operators computed."""
    import onnxruntime

    opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 1)
    if opset >= _OLDEST_RUN:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so nothing needs to be printed
    try:
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UsageError(
            f"{path} is of opset {opset}, and ONNX Runtime no longer runs it: {str(error).strip().splitlines()[0]}",
            hint=f"export the network again in opset {_OLDEST_RUN} or later",
        ) from error


_OLDEST_RUN = 7
"""ONNX Runtime runs every operator from this opset on, and some of older ones."""
_OPSET = 21
"""The opset in which a graph is looked at; it is lowered for its target's own."""


def _found_sizes(
    signature: Signature, given: Mapping[str, int], session: Session
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The usual size of each free axis: the batch's is 1, others are as given, else the first that it runs with."""
    known = {**({} if signature.batch is None else {signature.batch: 1}), **given}
    free = [axis for axis in signature.free if axis not in known]
    reason = ""
    for sizes in _tries(signature, free):
        try:
            session(random_feeds(signature, {**known, **sizes}, None, 0))
        except Exception as error:  # noqa: BLE001 - the runtime raises its own C++ types, all of them meaning "not of this size"
            reason = reason or str(error).strip().splitlines()[0]
            continue
        notes = tuple(
            f"axis {axis!r} is free, and taken as {size}: --input says otherwise" for axis, size in sizes.items()
        )
        return {**known, **sizes}, notes
    if not free:
        raise UsageError(f"the network does not run: {reason}", hint="try the file in ONNX Runtime itself")
    raise UsageError(
        f"the sizes of {', '.join(free)} are free, and the network runs with none that was tried: {reason}",
        hint=f"--input {signature.input.name}=SIZExSIZE, the sizes of one sample",
    )


def _tries(signature: Signature, free: list[str]) -> Iterator[dict[str, int]]:
    """Sizes for the free axes, the likeliest first: 1 of an axis that stands first, as one that counts does."""
    sides = [axis for spec in signature.inputs if spec.is_image for axis in spec.shape[2:] if axis in free]
    others = [axis for axis in free if axis not in sides]
    counts = [axis for axis in others if any(len(s.shape) > 1 and s.shape[0] == axis for s in signature.inputs)]
    for ones in (dict.fromkeys(counts, 1), {}) if counts else ({},):
        for length in _LENGTHS if others else _LENGTHS[:1]:
            for height, width in _SIDES if sides else _SIDES[:1]:
                image = dict(zip(sides, (height, width) * len(sides), strict=False))
                yield {**image, **dict.fromkeys(others, length), **ones}


def _cost(proto: onnx.ModelProto, signature: Signature, sizes: Mapping[str, int]) -> tuple[int, int]:
    """The floats in its constants, and the multiplications of a sample's convolutions and matrix products."""
    import onnx

    from compressor.quant.audit import audit

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT8)
    sizes_of: Any = (np.prod(t.dims, dtype=np.int64) for t in proto.graph.initializer if t.data_type in floats)
    params = int(sum(sizes_of))
    counted = audit(proto, signature.feeds_of(sizes))
    return params, counted.macs // (signature.samples or 1)
