"""Data that lies, runs code, never ends or is broken."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from places import TEACHER

from hostile import Case, canary


def run(folder: Path, data: object) -> list[str]:
    """``compress run`` on this data."""
    return ["run", str(TEACHER), "--target", "host", "--data", str(data), "-o", str(folder / "out")]


def png(seed: int = 0, size: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)).save(out, "PNG")
    return out.getvalue()


def images() -> dict[str, bytes]:
    """Ten classes of four images: good data for the teacher."""
    return {f"{label}/{i}.png": png(10 * label + i) for label in range(10) for i in range(4)}


def good(folder: Path) -> Path:
    for name, data in images().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def with_file(name: str, content: bytes | Callable[[], bytes]) -> Callable[[Path], list[str]]:
    """A folder of good data with one file more; ``content`` may be what makes it, where that takes long."""

    def make(folder: Path) -> list[str]:
        path = good(folder / "data") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content() if callable(content) else content)
        return run(folder, folder / "data")

    return make


def with_entry(change: Callable[[Path], Any]) -> Callable[[Path], list[str]]:
    """A folder of good data, and what ``change`` does to it."""

    def make(folder: Path) -> list[str]:
        change(good(folder / "data"))
        return run(folder, folder / "data")

    return make


def zipped(*members: tuple[zipfile.ZipInfo | str, bytes]) -> Callable[[Path], list[str]]:
    """A zip of good data with some members more."""

    def make(folder: Path) -> list[str]:
        with zipfile.ZipFile(folder / "data.zip", "w") as out:
            for name, data in (*images().items(), *members):
                out.writestr(name, data)
        return run(folder, folder / "data.zip")

    return make


def npz(members: Callable[[Path], Mapping[str, bytes]], kind: int = zipfile.ZIP_STORED) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        with zipfile.ZipFile(folder / "data.npz", "w", kind, compresslevel=1) as out:
            for name, data in members(folder).items():
                out.writestr(f"{name}.npy", data)
        return run(folder, folder / "data.npz")

    return make


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """The head of an array file that says what it likes."""
    told = len(text) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", told) + text.encode()


X, Y = npy(np.zeros((40, 8, 8), np.uint8)), npy(np.arange(40) % 10)


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._path = canary(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def pickled(folder: Path) -> bytes:
    """An array of one object, with a payload for a pickle."""
    return npy(np.array([None], dtype=object)).split(b"\n", 1)[0] + b"\n" + pickle.dumps(Payload(folder))


def raw_pickle(folder: Path) -> list[str]:
    (folder / "data.npz").write_bytes(pickle.dumps(Payload(folder)))
    return run(folder, folder / "data.npz")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width: int, height: int) -> bytes:
    """A few bytes that claim so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def png_of_text(bytes: int) -> bytes:
    """An image with a comment that unpacks to so many bytes; it has no end, so that it is decoded at once."""
    whole = png()
    return whole[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * bytes)) + whole[33:-12]


def circles(data: Path) -> None:
    """Folders that each lead to all others: more ways through them than there is time."""
    places = [data / "0" / f"place{i}" for i in range(10)]
    for place in places:
        place.mkdir()
        for other in places:
            (place / f"to{other.name}").symlink_to(other)


def link_member() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("0/link.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


def encrypted(folder: Path) -> list[str]:
    arguments = zipped()(folder)
    content = bytearray((folder / "data.zip").read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1
    (folder / "data.zip").write_bytes(content)
    return arguments


def packed(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = kind
    return info


def nested(folder: Path) -> list[str]:
    zipped()(folder)
    with zipfile.ZipFile(folder / "outer.zip", "w") as out:
        out.write(folder / "data.zip", "inner.zip")
    return run(folder, folder / "outer.zip")


OVERCLAIM = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }\n"
CODE = "{'descr': __import__('os').mkdir('CANARY'), 'fortran_order': False, 'shape': (1,), }\n"
DEEP = "{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 5000 + ")" * 5000 + ", }\n"
ZEROS = header("{'descr': '|u1', 'fortran_order': False, 'shape': (5000000, 8, 8), }\n") + bytes(5_000_000 * 64)

CASES = [
    # pickles
    Case("npz of objects", npz(lambda folder: {"x": pickled(folder), "y": Y}), 7, "pickle"),
    Case("npz labels of objects", npz(lambda folder: {"x": X, "y": pickled(folder)}), 7, "pickle"),
    Case("pickle called npz", raw_pickle, 7, "data.npz is a pickle"),
    Case("npz with code in its header", npz(lambda _: {"x": header(CODE), "y": Y}), 2, "data.npz"),
    # arrays that are not what they say
    Case("npz that overclaims", npz(lambda _: {"x": header(OVERCLAIM) + b"1234", "y": Y}), 7, "claims"),
    Case("npz bomb", npz(lambda _: {"x": ZEROS, "y": Y}, zipfile.ZIP_DEFLATED), 7, "claims"),
    Case("npz with a nested header", npz(lambda _: {"x": header(DEEP), "y": Y}), 2, "data.npz"),
    Case("npz with a long header", npz(lambda _: {"x": header("{", (2, 0), 2**31), "y": Y}), 2, "data.npz"),
    Case("npz of text", npz(lambda _: {"x": X, "y": npy(np.array(["a"] * 40))}), 2, "not of numbers"),
    Case("npz of too few labels", npz(lambda _: {"x": X, "y": npy(np.arange(39) % 10)}), 2, "39"),
    Case("npz of NaN", npz(lambda _: {"x": npy(np.full((40, 8, 8), np.nan)), "y": Y}), 2, "nan"),
    # zips
    Case("zip that climbs", zipped(("../evil/x.png", png())), 2, "outside of the zip"),
    Case("zip with absolute names", zipped(("/tmp/evil/x.png", png())), 2, "outside of the zip"),
    Case("zip with Windows names", zipped(("..\\evil\\x.png", png())), 2, "outside of the zip"),
    Case("zip bomb", zipped((packed("0/x.png", zipfile.ZIP_DEFLATED), bytes((256 << 20) + 1))), 7, "unpacks to"),
    Case("zip with a link", zipped((link_member(), b"/etc/passwd")), 2, "0/link.png is a link"),
    Case("zip with a member twice", zipped(("./0/0.png", png(99))), 2, "0/0.png is in the zip twice"),
    Case("encrypted zip", encrypted, 2, "encrypted"),
    Case("zip of LZMA", zipped((packed("0/x.png", zipfile.ZIP_LZMA), png())), 2, "0/x.png"),
    Case("zip in a zip", nested, 2, "holds no images"),
    # images
    Case("image of 60,000 x 60,000", with_file("0/x.png", huge_png(60_000, 60_000)[:-12]), 7, "0/x.png"),
    Case("image of 9,000 x 9,000", with_file("0/x.png", huge_png(9_000, 9_000)[:-12]), 7, "0/x.png"),
    Case("image with a bomb of text", with_file("0/x.png", lambda: png_of_text(300 << 20)), 2, "0/x.png"),
    Case("truncated image", with_file("0/x.png", png(1, 30)[:200]), 2, "0/x.png"),
    Case("empty image", with_file("0/x.png", b""), 2, "0/x.png"),
    Case("text called png", with_file("0/x.png", b"no picture\n"), 2, "0/x.png"),
    Case(
        "image with escape codes in its name", with_file("0/\x1b[31m\nx.png", b"no picture\n"), 2, "\\x1b[31m\\nx.png"
    ),
    # folders
    Case("class with a line break in its name", with_file("0\n1/x.png", png()), 2, "cannot be printed"),
    Case("pipe among images", with_entry(lambda data: os.mkfifo(data / "0" / "x.png")), 2, "no regular file"),
    Case("endless image", with_entry(lambda data: (data / "0" / "x.png").symlink_to("/dev/zero")), 2, "no regular"),
    Case("link to nothing", with_entry(lambda data: (data / "0" / "x.png").symlink_to("nothing")), 2, "0/x.png"),
    Case("link to itself", with_entry(lambda data: (data / "0" / "x.png").symlink_to("x.png")), 2, "0/x.png"),
    Case("links in circles", with_entry(circles), 2, "circles"),
    Case("enormous image", with_entry(lambda data: os.truncate(good(data) / "0" / "0.png", 1 << 40)), 2, "0/0.png"),
]
