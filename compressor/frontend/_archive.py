"""The directory of a zip archive that torch will open; one that two readers could read differently is refused."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from compressor.frontend._claims import Broken, FalseClaim

__all__ = ["Member", "members"]

_MOST = 50_000
"""Most members of an archive; a checkpoint has one for each of its tensors."""
_ENTRY = 128
"""Bytes of a member's entry in the directory: its name and 46 more."""
_END, _END64, _LOCATOR = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_TAIL = (1 << 16) + 98
"""Bytes at the end of the file in which both end records of the directory, and a comment, can lie."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive."""

    begin: int
    """Offset of its first byte in the file."""
    stored: int
    """Bytes that it takes in the file."""
    size: int
    """Bytes that it claims to have once unpacked."""
    packed: bool


def members(file: BinaryIO, size: int) -> dict[str, Member]:
    """Return the members by name, in the archive's order.

    Checks that no two members overlap. Raises Broken where the archive is damaged, and FalseClaim where two readers
    could see different archives.
    """
    _check_ends(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            begins = [entry.header_offset for entry in entries] + [archive.start_dir]
            found = [_member(file, entry) for entry in entries]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
        raise Broken from error
    if not found or begins[0] != 0:
        raise Broken
    for entry, member, following in zip(entries, found, begins[1:], strict=True):
        if member.begin + member.stored > following:
            raise FalseClaim(f"is an archive whose members overlap ({entry.filename!r})")
    # torch finds a member by its name in any case of letters.
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise FalseClaim("is an archive with two members of one name")
    return {entry.filename: member for entry, member in zip(entries, found, strict=True)}


def _check_ends(file: BinaryIO, size: int) -> None:
    """Check that the directory is short, and that its two end records (32 and 64 bits) agree."""
    start = max(0, size - _TAIL)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        raise Broken
    count, length, offset = struct.unpack_from("<HLL", tail, at + 10)
    if tail[max(0, at - 20) : at].startswith(_LOCATOR):
        (place,) = struct.unpack_from("<Q", tail, at - 12)
        if at < 76 or place != start + at - 76 or not tail.startswith(_END64, at - 76):
            raise FalseClaim("is an archive with two ends")
        short, long = (count, length, offset), struct.unpack_from("<QQQ", tail, at - 76 + 32)
        if any(s not in (n, full) for s, n, full in zip(short, long, (0xFFFF, *[0xFFFFFFFF] * 2), strict=True)):
            raise FalseClaim("is an archive with two ends")
        count, length, _ = long
    if count > _MOST or length > _MOST * _ENTRY:
        raise FalseClaim(f"is an archive of more than {_MOST:,} members")


def _member(file: BinaryIO, entry: zipfile.ZipInfo) -> Member:
    """Return a member, having checked that its own header agrees with the directory."""
    file.seek(entry.header_offset)
    signature, flags, method, length, extra = struct.unpack("<4s2x2H16x2H", file.read(30))
    if signature != b"PK\3\4":
        raise Broken
    named = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
    if file.read(length) != named or method != entry.compress_type or entry.filename != entry.orig_filename:
        raise FalseClaim(f"is an archive whose headers differ ({entry.filename!r})")
    if (flags | entry.flag_bits) & 0x41:
        raise FalseClaim(f"is an archive with an encrypted member ({entry.filename!r})")
    packed = method != zipfile.ZIP_STORED or entry.compress_size != entry.file_size
    return Member(entry.header_offset + 30 + length + extra, entry.compress_size, entry.file_size, packed)
