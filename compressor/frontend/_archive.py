"""Reading the directory of a zip archive that torch is to open, and refusing what could be read in two ways."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from compressor.frontend._claims import Broken, Lie

__all__ = ["Member", "members"]

_MOST = 50_000
"""Members; a checkpoint has one for each of its tensors."""
_ENTRY = 128
"""Bytes of a member's entry in the directory: its name, and 46 more."""
_END, _END64, _LOCATOR = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_TAIL = (1 << 16) + 98
"""Where the ends of a directory can be: both of them, and a comment."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive."""

    begin: int
    """Where its bytes begin."""
    stored: int
    """How many they are."""
    size: int
    """How many they claim to be once unpacked."""
    packed: bool


def members(file: BinaryIO, size: int) -> dict[str, Member]:
    """The members by name, the archive's first one first.

    All that the directory claims lies in the file, in one place each. Raises Broken where it does not
    hold together, and Lie where it would not be the same archive to every reader.
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
            raise Lie(f"is an archive whose members overlap ({entry.filename!r})")
    # torch finds a member by its name in any case of letters.
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise Lie("is an archive with two members of one name")
    return {entry.filename: member for entry, member in zip(entries, found, strict=True)}


def _check_ends(file: BinaryIO, size: int) -> None:
    """The directory must be short, and its two ends, of 32 and of 64 bits, must say the same."""
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
            raise Lie("is an archive with two ends")
        short, long = (count, length, offset), struct.unpack_from("<QQQ", tail, at - 76 + 32)
        if any(s not in (n, full) for s, n, full in zip(short, long, (0xFFFF, *[0xFFFFFFFF] * 2), strict=True)):
            raise Lie("is an archive with two ends")
        count, length, _ = long
    if count > _MOST or length > _MOST * _ENTRY:
        raise Lie(f"is an archive of more than {_MOST:,} members")


def _member(file: BinaryIO, entry: zipfile.ZipInfo) -> Member:
    """A member by its own header, which must agree with the directory."""
    file.seek(entry.header_offset)
    signature, flags, method, length, extra = struct.unpack("<4s2x2H16x2H", file.read(30))
    if signature != b"PK\3\4":
        raise Broken
    named = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
    if file.read(length) != named or method != entry.compress_type or entry.filename != entry.orig_filename:
        raise Lie(f"is an archive whose headers differ ({entry.filename!r})")
    if (flags | entry.flag_bits) & 0x41:
        raise Lie(f"is an archive with an encrypted member ({entry.filename!r})")
    packed = method != zipfile.ZIP_STORED or entry.compress_size != entry.file_size
    return Member(entry.header_offset + 30 + length + extra, entry.compress_size, entry.file_size, packed)
