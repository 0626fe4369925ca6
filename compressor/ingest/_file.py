"""Reading a model file that may be hostile: nothing in it is ever run.

``torch.load(weights_only=True)`` does the reading. What it cannot judge is judged here: archives of
code, deflated archives (bombs), and errors that it raises alike for a payload and for a broken file.
"""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors.torch
import torch

from compressor.core import UnsafeInput, UsageError

_SAVE_AGAIN = "save the weights alone: torch.save(model.state_dict(), path), or as safetensors"
_CODE = f"{_SAVE_AGAIN}; and where the architecture is not a known one, give --arch package.module:callable"
_COPY_AGAIN = "copy or download it again, and compare its size and checksum with the original's"

# How torch words that a tensor is larger than the storage it was saved with.
_CLAIMS = (
    "does not match expected size",
    "not resizable",
    "wrong byte size",
    "allocate memory",
    "out of bounds for storage",
)


def read(path: Path) -> Any:
    """What a checkpoint holds, on the CPU: tensors in dicts, lists and plain values.

    Raises UnsafeInput for a file with code in it, and UsageError for one that cannot be read.
    """
    content = _bytes(path)
    if content[8:9] == b"{" and not content.startswith((b"PK", b"\x80")):
        return _safetensors(path, content)
    pickled = _pickle_of_archive(path, content) if content.startswith(b"PK\3\4") else content
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises EOFError, KeyError, IndexError, RuntimeError ... for broken files
        if name := _foreign_global(pickled):
            raise UnsafeInput(f"{path} holds code: pickled Python objects ({name})", mend=_CODE) from error
        if any(claim in str(error) for claim in _CLAIMS):
            raise UnsafeInput(f"{path} claims tensors larger than itself", mend=_SAVE_AGAIN) from error
        if content.startswith((b"PK", b"\x80")):
            raise UsageError(f"{path} is truncated or corrupt", mend=_COPY_AGAIN) from error
        raise UsageError(f"{path} is not a PyTorch checkpoint", mend=_SAVE_AGAIN) from error


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(f"{path} is a directory", mend="name the model file in it")
    if not path.is_file():
        raise UsageError(f"there is no file {path}", mend="name a .pt, .pth or .safetensors file")
    if path.suffix == ".onnx":
        raise UsageError(
            f"{path} is an ONNX file: compression starts from PyTorch",
            mend="give the checkpoint it was exported from; `compress bench` takes ONNX files",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", mend="check its permissions") from error
    if not content:
        raise UsageError(f"{path} is empty", mend=_COPY_AGAIN)
    return content


def _safetensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(content)  # type: ignore[no-any-return]
    except Exception as error:  # its own error class, or KeyError for a type of number that torch lacks
        raise UsageError(f"{path} is truncated or corrupt: {error}", mend=_COPY_AGAIN) from error


def _pickle_of_archive(path: Path, content: bytes) -> bytes:
    """The pickle inside torch's zip archive, once the archive is known to be one of plain weights."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            # All of it lies in one folder, named like the file.
            names = {PurePosixPath(*PurePosixPath(e.filename).parts[1:]).as_posix(): e for e in entries}
            tops = {name.split("/")[0] for name in names}
            if tops & {"code", "constants.pkl"}:
                raise UnsafeInput(f"{path} is a TorchScript archive: it holds code", mend=_CODE)
            if tops & {"archive_format", "models", "serialized_exported_program.json"}:
                raise UnsafeInput(f"{path} is a torch.export archive: it holds code", mend=_CODE)
            if "data.pkl" not in names:
                raise UsageError(f"{path} is a zip archive, but not a PyTorch checkpoint", mend=_SAVE_AGAIN)
            stored = all(e.compress_type == zipfile.ZIP_STORED and e.compress_size == e.file_size for e in entries)
            if not stored or sum(e.file_size for e in entries) > len(content):
                raise UnsafeInput(f"{path} is a compressed archive, which torch never writes", mend=_SAVE_AGAIN)
            return archive.read(names["data.pkl"])
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{path} is truncated or corrupt", mend=_COPY_AGAIN) from error


def _foreign_global(pickled: bytes) -> str | None:
    """The first class or function that a pickle names and that weights do not need.

    Reads the opcodes and runs none. An old torch file is four pickles in a row, then raw numbers.
    """
    stream = io.BytesIO(pickled)
    for _ in range(4):
        strings, found = ["?", "?"], []
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if "UNICODE" in opcode.name or "STRING" in opcode.name:
                    strings.append(str(argument))
                elif opcode.name == "STACK_GLOBAL":
                    found.append(".".join(strings[-2:]))
                elif opcode.name in ("GLOBAL", "INST"):
                    found.append(str(argument).replace(" ", "."))
            broken = False
        except Exception:  # noqa: BLE001 - whatever it raises, no more can be read
            # Text may look like a pickle for a while; what torch writes starts with this byte.
            broken = True
        foreign = [name for name in found if not _harmless(name)]
        if foreign and (not broken or pickled.startswith(b"\x80")):
            return foreign[0]
        if broken:
            break
    return None


def _harmless(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return module in ("torch", "torch._utils", "torch.storage", "torch.nn.parameter", "collections") and (
        attribute.endswith(("Storage", "Dict", "Parameter", "Counter")) or "_rebuild" in attribute
    )
