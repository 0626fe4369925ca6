"""Model files that run code, lie about their size, never end or are no models."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hostile import Case, canary

HOST = ["--target", "host"]
Content = Callable[[Path], bytes]
Make = Callable[[Path], list[str]]


def given(content: bytes | Content, name: str = "model.pt", command: str = "inspect") -> Make:
    """A file of this content, and the command on it."""

    def make(folder: Path) -> list[str]:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content(folder))
        if command == "inspect":
            return ["inspect", str(folder / name)]
        return ["run", str(folder / name), *HOST, "-o", str(folder / "out")]

    return make


def instead(make: Callable[[Path], object]) -> Make:
    """Something else than a file under the model's name."""

    def made(folder: Path) -> list[str]:
        make(folder / "model.pt")
        return ["run", str(folder / "model.pt"), *HOST, "-o", str(folder / "out")]

    return made


def saved(content: Any, zipped: bool = True, protocol: int = 2) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def state() -> dict[str, Tensor]:
    return dict(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 10)).state_dict())


# -- pickles written instruction by instruction ---------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def storage(count: int, key: str = "0", legacy: bool = False) -> bytes:
    view = b"N" if legacy else b""
    kind = named("torch", "FloatStorage")
    return b"(" + text("storage") + kind + text(key) + text("cpu") + whole(count) + view + b"tQ"


def tensor(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, count: int = 1, legacy: bool = False
) -> bytes:
    laid = storage(count, legacy=legacy) + whole(offset) + numbers(*size) + numbers(*stride)
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + laid + b"\x89}tR"


def table(value: bytes, key: bytes = text("w")) -> bytes:
    return b"\x80\x02}(" + key + value + b"u."


def archive(pickled: bytes, more: Mapping[str, bytes] | None = None) -> bytes:
    """torch's zip format around a pickle, with four bytes of numbers."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "data/0": bytes(4), **(more or {})}.items():
            file.writestr(f"model/{name}", content)
    return out.getvalue()


def legacy(
    pickled: bytes, keys: bytes = b"\x80\x02](" + text("0") + b"e.", tail: bytes = struct.pack("<qf", 1, 0)
) -> bytes:
    """torch's format before 1.6 around a pickle, with one number."""
    first = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    machine = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
    return first + machine + pickled + keys + tail


def many(times: int) -> bytes:
    """A tuple that is twice itself, again and again: short to write, and for ever to hash."""
    return b"K\x01K\x02\x86" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))


# -- code -----------------------------------------------------------------------------------------


def shell(folder: Path) -> str:
    return f"touch '{canary(folder)}'"


def payload(folder: Path) -> bytes:
    """os.system, by name."""
    return named("posix", "system") + b"(" + text(shell(folder)) + b"tR"


def on_the_stack(folder: Path) -> bytes:
    return text("os") + text("system") + b"\x93(" + text(shell(folder)) + b"tR"


def evaluated(folder: Path) -> bytes:
    code = f"open({str(canary(folder))!r}, 'w')"
    return named("__builtin__", "eval") + b"(" + text(code) + b"tR"


def fetched(folder: Path) -> bytes:
    """getattr(__import__('os'), 'system'), made up of harmless-looking names."""
    module = named("__builtin__", "__import__") + b"(" + text("os") + b"tR"
    return named("__builtin__", "getattr") + b"(" + module + text("system") + b"tR(" + text(shell(folder)) + b"tR"


def loaded(folder: Path) -> bytes:
    """torch's own function that unpickles bytes."""
    inner = b"\x80\x02" + payload(folder) + b"."
    return named("torch.storage", "_load_from_bytes") + b"(B" + struct.pack("<I", len(inner)) + inner + b"tR"


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (shell(self.folder),)


class Rebuilt:
    """A tensor that is rebuilt by something else than torch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._tensor._rebuild_from_type_v2, (os.system, torch.Tensor, (shell(self.folder),), {})


def script(folder: Path) -> bytes:
    out = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), out)
    return out.getvalue()


def script_with_payload(folder: Path) -> bytes:
    return archive(b"\x80\x02" + payload(folder) + b".", {"constants.pkl": b"\x80\x02" + payload(folder) + b"."})


def program(folder: Path) -> bytes:
    """What torch.export.load unpickles to have an example input."""
    sample = archive(b"\x80\x02" + payload(folder) + b".")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in {
            "archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little", ".data/version": b"3\n",
            "models/model.json": b"{}", "data/sample_inputs/model.pt": sample,
        }.items():  # fmt: skip
            file.writestr(f"model/{name}", content)
    return out.getvalue()


def trusting(folder: Path) -> list[str]:
    """A compress.toml beside the model that would switch trust on."""
    (folder / "compress.toml").write_text('target = "host"\ntrust = true\n')
    return given(archive(table(payload(folder))), command="run")(folder)


def shadowed(folder: Path) -> list[str]:
    """Modules in the working directory under the names of those that the reading needs."""
    for name in ("torch", "safetensors", "json", "compressor", "sitecustomize", "numpy"):
        (folder / f"{name}.py").write_text(f"open({str(canary(folder))!r}, 'w')\n")
    return given(saved(state()))(folder)


# -- archives -------------------------------------------------------------------------------------


def repacked(content: bytes, kind: int = zipfile.ZIP_STORED, more: Mapping[str, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", kind) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name, data in (more or {}).items():
            new.writestr(name, data)
    return out.getvalue()


def overlapping(sizes: tuple[str, ...]) -> bytes:
    """Members that each hold those behind them, too; or, by their own headers, only themselves."""
    content = bytearray(archive(table(tensor((1,), (1,))), {f"data/{i}": bytes(1000) for i in range(1, 9)}))
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries, directory = file.infolist(), file.start_dir
    at = directory
    for entry in entries:
        claimed = struct.pack("<2L", *[directory - entry.header_offset - 30 - len(entry.filename)] * 2)
        if entry.filename.startswith("model/data/"):
            content[at + 20 : at + 28] = claimed
            if "local" in sizes:
                content[entry.header_offset + 18 : entry.header_offset + 26] = claimed
        at += 46 + len(entry.filename)
    return bytes(content)


def aliases() -> bytes:
    """A thousand names in the directory for one member."""
    content = archive(table(tensor((1,), (1,))), {"data/1": bytes(100_000)})
    begin, end = content.index(b"PK\1\2"), content.rindex(b"PK\5\6")
    entries = content[begin:end]
    last = entries[entries.rindex(b"PK\1\2") :]
    directory = entries + b"".join(last.replace(b"data/1", f"dat{i:03}".encode()) for i in range(1000))
    count = content.count(b"PK\1\2") + 1000
    return (
        content[:begin] + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), begin, 0)
    )


def flagged(content: bytes) -> bytes:
    """The first member, said to be encrypted."""
    changed = bytearray(content)
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        changed[changed.index(signature) + flags] |= 1
    return bytes(changed)


def two_ends(content: bytes) -> bytes:
    """A 64-bit end of the directory that says something else than the other."""
    end = content.rindex(b"PK\5\6")
    long = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 46, 0)
    return content[:end] + long + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1) + content[end:]


def crowded(count: int) -> bytes:
    out = io.BytesIO()
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    out.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a")
    at = out.tell()
    out.write(entry * count)
    out.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entry) * count, at))
    out.write(struct.pack("<4sLQL", b"PK\6\7", 0, at + len(entry) * count, 1))
    full = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    out.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *full, 0))
    return out.getvalue()


# -- safetensors ----------------------------------------------------------------------------------


def plain(header: str, numbers: bytes = bytes(16), length: int | None = None) -> bytes:
    head = header.encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + numbers


def entry(name: str, shape: list[int], begin: int, end: int) -> str:
    return f'"{name}": {{"dtype": "F32", "shape": {json.dumps(shape)}, "data_offsets": [{begin}, {end}]}}'


# -- files that are none --------------------------------------------------------------------------


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


GOOD, OLD = saved(state()), saved(state(), zipped=False)
BAD = {**state(), "0.weight": torch.full((8, 3, 3, 3), float("nan"))}
HUGE, LINE = (10**6, 10**6), (10**6, 1)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
BOTH = {"zip": archive, "legacy": legacy}


def in_both(name: str, pickled: Callable[[bool], bytes], exit: int, says: str) -> list[Case]:
    """The same pickle in either of torch's formats."""
    return [
        Case(f"{name} ({kind})", given(wrap(table(pickled(wrap is legacy)))), exit, says) for kind, wrap in BOTH.items()
    ]


def code(name: str, made: Content, says: str) -> list[Case]:
    def of(wrap: Callable[[bytes], bytes]) -> Content:
        return lambda folder: wrap(table(made(folder)))

    return [Case(f"{name} ({kind})", given(of(wrap)), 7, says) for kind, wrap in BOTH.items()]


CASES = [
    # code
    *code("os.system by name", payload, "posix.system"),
    *code("os.system on the stack", on_the_stack, "os.system"),
    *code("eval under its old name", evaluated, "builtins.eval"),
    *code("getattr of an import", fetched, "builtins.getattr"),
    *code("torch's own unpickling", loaded, "torch.storage._load_from_bytes"),
    Case("payload among weights", given(lambda f: saved({"state_dict": state(), "x": Payload(f)})), 7, "system"),
    Case("payload among old weights", given(lambda f: saved({**state(), "x": Payload(f)}, False)), 7, "system"),
    Case("payload to run", given(lambda f: saved(Payload(f)), command="run"), 7, "--trust"),
    Case("payload as a rebuilt tensor", given(lambda f: saved({"w": Rebuilt(f)})), 7, "system"),
    Case("payload in a bare pickle", given(lambda f: pickle.dumps({"w": Payload(f)}, 4)), 7, "system"),
    Case("payload in a pickle of text", given(lambda f: pickle.dumps({"w": Payload(f)}, 0)), 7, "system"),
    Case("payload before a broken end", given(lambda f: b"\x80\x02" + payload(f) + b"\xff\xff"), 7, "system"),
    Case("payload as magic number", given(lambda f: b"\x80\x02" + payload(f) + b"." + OLD), 7, "system"),
    Case(
        "payload in the keys", given(lambda f: legacy(table(b"N"), b"\x80\x02" + payload(f) + b".")), 7, "posix.system"
    ),
    Case("payload by INST", given(lambda f: b"\x80\x02(" + text(shell(f)) + b"ios\nsystem\n."), 7, "os.system"),
    Case("payload by an extension code", given(archive(table(b"\x82\x01"))), 7, "extension"),
    Case("whole module", given(saved(nn.Linear(2, 2)), command="run"), 7, "torch.nn.modules.linear.Linear"),
    Case("TorchScript", given(script), 7, "TorchScript"),
    Case("TorchScript with a payload", given(script_with_payload), 7, "TorchScript"),
    Case("torch.export program with a payload", given(program, "model.pt2", "run"), 7, "torch.export"),
    Case("trust in a file beside the model", trusting, 2, "trust"),
    Case("modules in the working directory", shadowed, 2, "not recognised"),
    # pickles that ask for too much
    *in_both("a million times a million", lambda old: tensor(HUGE, LINE, legacy=old), 7, "1,000,000,000,000 numbers"),
    *in_both("one number as many", lambda old: tensor(HUGE, (0, 0), legacy=old), 7, "over a storage of 1"),
    *in_both("negative size", lambda old: tensor((-1, 1), (1, 1), legacy=old), 7, "negative"),
    *in_both("negative stride", lambda old: tensor((1, 1), (-1, 1), legacy=old), 7, "negative"),
    *in_both("offset out of range", lambda old: tensor((1,), (1,), 9, legacy=old), 7, "claims a tensor of 10"),
    *in_both("sizes beyond 64 bits", lambda old: tensor((2**70, 1), (1, 1), legacy=old), 7, "impossible"),
    *in_both("storage of terabytes", lambda old: tensor((2**45,), (1,), 0, 2**45, old), 7, "claims"),
    *in_both("storage larger than its bytes", lambda old: tensor((1,), (1,), 0, 300, old), 7, "claims"),
    *in_both(
        "bytearray of terabytes", lambda _: named("__builtin__", "bytearray") + numbers(10**12) + b"R", 7, "bytes"
    ),
    *in_both(
        "tensor out of nothing", lambda _: named("torch", "FloatTensor") + numbers(*HUGE) + b"R", 7, "out of nothing"
    ),
    *in_both("storage out of nothing", lambda _: named("torch", "FloatStorage") + numbers(10**12) + b"R", 7, "calls"),
    *in_both(
        "dict without methods",
        lambda _: named("collections", "OrderedDict") + b")R}" + text("keys") + b"Nsb",
        7,
        "dict",
    ),
    Case(
        "old storage of terabytes, in every place",
        given(legacy(table(tensor((2**45,), (1,), 0, 2**45, True)), tail=struct.pack("<qf", 2**45, 0))),
        7,
        "claims 140,737,488,355,328 bytes for a storage, and has 4 left",
    ),
    Case("keys that take for ever", given(archive(table(b"N", many(100)))), 7, "keys"),
    Case(
        "set that takes for ever",
        given(archive(table(named("__builtin__", "set") + b"](" + many(100) + b"e\x85R"))),
        7,
        "keys",
    ),
    Case("memo of gigabytes", given(archive(b"\x80\x02}r\xff\xff\xff\x7f.")), 7, "remembers"),
    Case("two million instructions", given(lambda _: archive(table(b"N" + b"0N" * 10**6))), 7, "instructions"),
    Case("a hundred thousand levels", given(lambda _: archive(table(b"N" + b"\x85" * 100_000))), 2, "no weights"),
    Case(
        "slow codec",
        given(archive(table(named("_codecs", "encode") + b"(" + text("a") + text("idna") + b"tR"))),
        7,
        "text",
    ),
    # archives
    Case("deflated", given(repacked(GOOD, zipfile.ZIP_DEFLATED)), 7, "compressed"),
    Case(
        "deflated bomb",
        given(lambda _: repacked(GOOD, zipfile.ZIP_DEFLATED, {"archive/data/9": bytes(200 << 20)})),
        7,
        "compressed",
    ),
    Case("overlapping members", given(overlapping(("local", "directory"))), 7, "overlap"),
    Case("overlapping members by the directory", given(overlapping(("directory",))), 7, "overlap"),
    Case("a thousand names for one member", given(aliases()), 7, "headers differ"),
    Case("member outside", given(archive(table(b"N"), {"../../evil": b"x"})), 7, "outside"),
    Case("second folder", given(repacked(archive(table(b"N")), more={"other/data.pkl": b"x"})), 7, "outside"),
    Case("data.pkl twice", given(archive(table(b"N"), {"./data.pkl": b"x"})), 7, "outside"),
    Case("DATA.PKL beside data.pkl", given(archive(table(b"N"), {"DATA.PKL": b"x"})), 7, "one name"),
    Case("encrypted", given(flagged(GOOD)), 7, "encrypted"),
    Case("two ends", given(two_ends(archive(table(b"N")))), 7, "two ends"),
    Case("half a million members", given(lambda _: crowded(500_000)), 7, "members"),
    Case(
        "images", given(repacked(archive(table(b"N")), more={}).replace(b"data.pkl", b"cats.png")), 2, "not a PyTorch"
    ),
    # safetensors
    Case("header of exabytes", given(plain("{}", length=2**60), "m.safetensors"), 2, "truncated"),
    Case("nested header", given(plain('{"a": ' + "[" * 10**6), "m.safetensors"), 2, "truncated"),
    Case(
        "overlapping tensors",
        given(plain("{" + entry("a", [4], 0, 16) + "," + entry("b", [2], 8, 16) + "}")),
        7,
        "overlap",
    ),
    Case("shape of terabytes", given(plain("{" + entry("a", list(HUGE), 0, 16) + "}")), 7, "claims 4,000,000,000,000"),
    Case("negative shape", given(plain("{" + entry("a", [-4], 0, 16) + "}")), 7, "impossible"),
    Case("place beyond the file", given(plain("{" + entry("a", [99], 0, 396) + "}")), 2, "truncated"),
    Case(
        "tensor named twice",
        given(plain("{" + entry("a", [4], 0, 16) + "," + entry("a", [4], 0, 16) + "}")),
        7,
        "twice",
    ),
    # broken off
    *(Case(f"zip cut to {n}/8", given(GOOD[: len(GOOD) * n // 8]), 2, "truncated") for n in (1, 4, 7)),
    *(Case(f"old format cut to {n}/8", given(OLD[: len(OLD) * n // 8]), 2, "truncated") for n in (1, 4, 7)),
    Case("safetensors cut", given(safetensors.torch.save(state())[:900], "m.safetensors"), 2, "truncated"),
    # no models
    Case("empty", given(b"", command="run"), 2, "empty"),
    Case("random bytes", given(bytes(range(255, 0, -1)) * 40, command="run"), 2, "not a PyTorch checkpoint"),
    Case("text", given(b"not a model\n" * 100), 2, "not a PyTorch checkpoint"),
    Case("web page", given(b"<!DOCTYPE html>\n<html><body>404</body></html>"), 2, "web page"),
    Case("Git LFS pointer", given(LFS), 2, "git lfs pull"),
    Case("ONNX", given(b"\x08\x09\x12\x07pytorch", "model.onnx", "run"), 2, "ONNX"),
    Case("plain pickle", given(pickle.dumps({"w": 1}, 2)), 2, "is a pickle"),
    Case("newer pickle", given(saved(state(), protocol=4)), 2, "safe loader"),
    Case("not a number", given(saved(BAD)), 2, "not recognised"),
    Case("directory", instead(Path.mkdir), 2, "is a directory"),
    Case("named pipe", instead(os.mkfifo), 2, "named pipe"),
    Case("socket", instead(listening), 2, "socket"),
    Case("endless device", instead(lambda path: path.symlink_to("/dev/zero")), 2, "device"),
    Case("link to nothing", instead(lambda path: path.symlink_to("nothing")), 2, "no file"),
    Case("link to itself", instead(lambda path: path.symlink_to(path)), 2, "cannot read"),
    Case("file of terabytes", instead(sparse), 2, "memory"),
    Case("name of a thousand letters", lambda folder: ["inspect", str(folder / ("a" * 1000))], 2, "cannot read"),
]
