"""The scan of a model file, before torch is imported or opens it. Standard library only."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from compressor.core import UnsafeInput, UsageError
from compressor.frontend._archive import Member, members
from compressor.frontend._claims import Broken, FalseClaim
from compressor.frontend._header import check_header
from compressor.frontend._pickle import Reader

__all__ = ["COPY_AGAIN", "Contents", "scan"]

COPY_AGAIN = "copy or download it again, and compare its size and checksum with the original's"
_SAVE_AGAIN = "save the weights alone: torch.save(model.state_dict(), path), or as safetensors"

_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle in a file of torch before 1.6."""
_LARGEST = 1 << 40
"""Most bytes of a storage."""
_LONGEST = 64 << 20
"""Most bytes of the pickles in a file, and of a program's sources once unpacked."""


@dataclass(frozen=True, slots=True)
class Contents:
    """How to open a file, and what code it holds."""

    form: Literal["safetensors", "checkpoint", "torchscript", "export"]
    code: str | None = None
    """The code in it, as a predicate of the file; None where it holds only weights and plain values."""


class _Code(Exception):
    """The pickle names a class or function that weights do not need."""


def scan(file: BinaryIO, path: Path) -> Contents:
    """Tell what a file is from its claims, without reading its numbers.

    Raises UnsafeInput for a file that claims more than it holds, and UsageError for one that is no checkpoint.
    """
    if path.suffix == ".onnx":
        raise UsageError(
            f"{path} is an ONNX graph, and a PyTorch network is needed here",
            hint="give the checkpoint it was exported from; `compress run` and `compress bench` take ONNX files",
        )
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(512)
    file.seek(0)
    try:
        if head.startswith(b"PK\3\4"):
            return _archive(file, size, path)
        if head.startswith(b"\x80"):
            return _pickles(file, size, path)
        if head[8:9] == b"{":
            check_header(file, size)
            return Contents("safetensors")
        _bare(file)
    except _Code as code:
        return Contents("checkpoint", f"holds code: pickled Python objects ({code})")
    except FalseClaim as claim:
        raise UnsafeInput(f"{path} {claim}", hint=_SAVE_AGAIN) from claim
    except Broken as error:
        raise UsageError(f"{path} is truncated or corrupt", hint=COPY_AGAIN) from error
    raise _not_a_checkpoint(head, path)


def _archive(file: BinaryIO, size: int, path: Path) -> Contents:
    """Scan torch's format since 1.6: a zip archive with a pickle, and a member for the numbers of each storage."""
    found = members(file, size)
    folder = next(iter(found)).partition("/")[0] + "/"
    inside = {name.removeprefix(folder): member for name, member in found.items() if name.startswith(folder)}
    tops = {name.partition("/")[0] for name in inside}
    kind = Contents("checkpoint")
    if tops & {"code", "constants.pkl"}:
        kind = Contents("torchscript", "is a TorchScript archive: it holds code")
    elif tops & {"archive_format", "models", "serialized_exported_program.json"}:
        kind = Contents("export", "is a torch.export archive: it holds code")
    elif "data.pkl" not in inside:
        raise UsageError(f"{path} is a zip archive, but not a PyTorch checkpoint", hint=_SAVE_AGAIN)
    odd = [n for n in found if not n.startswith(folder) or "\\" in n or {"", ".", ".."} & set(n.rstrip("/").split("/"))]
    if odd:
        raise FalseClaim(f"is an archive with a member outside its folder ({odd[0][:100]!r})")
    packed = sum(member.size for member in found.values() if member.packed)
    if packed > (0 if kind.form == "checkpoint" else _LONGEST):
        raise FalseClaim("is a compressed archive, which torch never writes")
    if kind.form == "checkpoint":
        reader = Reader()
        _value(reader, _stream(file, inside["data.pkl"]))
        _check_known(reader, path)
        _check_members(reader, inside)
    return kind


def _stream(file: BinaryIO, member: Member) -> BinaryIO:
    if member.size > _LONGEST:
        raise FalseClaim(f"has a pickle of {member.size:,} bytes")
    file.seek(member.begin)
    return io.BytesIO(file.read(member.size))


def _check_members(reader: Reader, inside: Mapping[str, Member]) -> None:
    for key, storage in reader.storages.items():
        if (member := inside.get(f"data/{key}")) is None:
            raise Broken
        if (claimed := storage.count * storage.width) > member.size:
            raise FalseClaim(f"claims {claimed:,} bytes for a storage that has {member.size:,}")


def _pickles(file: BinaryIO, size: int, path: Path) -> Contents:
    """Scan torch's older format: pickles of a magic number, protocol, machine, content and keys, then the numbers."""
    reader, stream = Reader(), io.BytesIO(file.read(_LONGEST))
    if _value(reader, stream) != _MAGIC:
        raise UsageError(f"{path} is a pickle, but not a PyTorch checkpoint", hint=_SAVE_AGAIN)
    *_, keys = [_value(reader, stream) for _ in range(4)]
    _check_known(reader, path)
    if not isinstance(keys, list) or {str(key) for key in keys} != reader.storages.keys():
        raise Broken
    at = stream.tell()
    for key in keys:
        storage = reader.storages[str(key)]
        file.seek(at)
        if len(field := file.read(8)) < 8:
            raise Broken
        if (count := int.from_bytes(field, "little")) != storage.count:
            raise FalseClaim(f"claims a storage of {storage.count:,} numbers that has {count:,}")
        at += 8
        claimed, left = count * storage.width, size - at
        if claimed > max(left, _LARGEST):  # no file is that much: it is not broken off, but lies
            raise FalseClaim(f"claims {claimed:,} bytes for a storage, and has {left:,} left")
        if claimed > left:
            raise Broken
        at += claimed
    return Contents("checkpoint")


def _value(reader: Reader, stream: BinaryIO) -> Any:
    try:
        value = reader.read(stream)
    except (Broken, FalseClaim):
        if reader.code is None:
            raise
    if reader.code is not None:
        raise _Code(reader.code[:100])
    return value


def _bare(file: BinaryIO) -> None:
    """Raise for a bare pickle with code. Text can begin like a pickle of protocol 0; only a whole pickle is one."""
    reader = Reader()
    try:
        reader.read(io.BytesIO(file.read(_LONGEST)))
    except (Broken, FalseClaim):
        return
    if reader.code is not None:
        raise _Code(reader.code[:100])


def _check_known(reader: Reader, path: Path) -> None:
    if reader.unread is not None:
        raise UsageError(
            f"{path} is pickled in a way that PyTorch's safe loader does not read ({reader.unread})",
            hint="if you trust whoever made it, save it again with torch.save's own pickle protocol: "
            "torch.save(torch.load(path, weights_only=False), new_path)",
        )


def _not_a_checkpoint(head: bytes, path: Path) -> UsageError:
    """Return an error that names what the file is instead."""
    if not head:
        return UsageError(f"{path} is empty", hint=COPY_AGAIN)
    if head.startswith(b"version https://git-lfs"):
        return UsageError(f"{path} is a Git LFS pointer, not the model itself", hint="git lfs pull")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return UsageError(f"{path} is a web page, not a model: its download failed", hint="download the file itself")
    return UsageError(f"{path} is not a PyTorch checkpoint", hint=_SAVE_AGAIN)
