"""Members of a zip file that may be hostile: sizes bounded, names confined, zstd (method 93) as well as deflate.

The zipfile module of Python 3.11 reads the directory of any zip, but cannot unpack method 93, which inspect_ai writes.
Nothing is written to disk.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from hybrid.errors import BadData
from hybrid.formats.reading import LARGEST, BadRow
from hybrid.machine.files import explain_errors

LOCAL = struct.Struct("<4s5H3L2H")
"""The header before a member's bytes (APPNOTE 6.3.10, 4.3.7)."""

STORED, DEFLATED, ZSTD = 0, 8, 93
ENCRYPTED = 0x1
WINDOW = 64 * 1024 * 1024
"""Largest window of zstd, in bytes: the memory that unpacking takes."""

HINT = "is the file whole? copy it again"
ODD = re.compile(r"(^|/)\.\.?(/|$)|^/|\\|[\x00-\x1f\x7f]|^[A-Za-z]:")
"""Names that leave the folder into which a zip is unpacked, or that a terminal obeys."""


class Member(NamedTuple):
    """A member as the directory describes it."""

    name: str
    offset: int
    packed: int
    size: int
    method: int
    crc: int


def members_of(path: Path) -> list[Member]:
    """The directory of a zip, checked.

    Raises BadData for a cut file, a name twice, or a name that leaves its folder.
    """
    with explain_errors(path, doing="reading it"):
        total = path.stat().st_size
        try:
            with zipfile.ZipFile(path) as opened:
                infos = opened.infolist()
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error, ValueError) as error:
            raise BadData(f"{path}: not a whole zip file: {error!s:.100}", hint=HINT) from error
    seen: set[str] = set()
    for info in infos:
        place = f"{path}, member {info.filename!r:.120}"
        if info.filename in seen:
            raise BadData(f"{place}: is there twice", hint="only a damaged or forged file has it so")
        seen.add(info.filename)
        if ODD.search(info.orig_filename):
            raise BadData(f"{place}: no plain name", hint="only a damaged or forged file has it so")
        if info.flag_bits & ENCRYPTED:
            raise BadData(f"{place}: encrypted", hint="unpack it and pack it without a password")
    if sum(info.compress_size for info in infos) > total:
        raise BadData(f"{path}: its members overlap", hint="only a damaged or forged file has it so")
    return [
        Member(one.filename, one.header_offset, one.compress_size, one.file_size, one.compress_type, one.CRC)
        for one in infos
    ]


def read_member(stream: BinaryIO, member: Member) -> bytes:
    """The bytes of a member. Raises BadRow when they are damaged, or more than the directory says or LARGEST."""
    if member.size > LARGEST:
        raise BadRow(f"unpacks to {member.size:,} bytes, more than the {LARGEST:,} allowed")
    stream.seek(member.offset)
    head = stream.read(LOCAL.size)
    if len(head) < LOCAL.size or not head.startswith(b"PK\x03\x04"):
        raise BadRow("is not where the zip's directory says: damaged")
    name, extra = LOCAL.unpack(head)[-2:]
    stream.seek(name + extra, 1)
    packed = stream.read(member.packed)
    if len(packed) < member.packed:
        raise BadRow("ends in the middle")
    data = _unpacked(packed, member)
    if len(data) != member.size:
        more = "more" if len(data) > member.size else "less"
        raise BadRow(f"unpacks to {more} than the {member.size:,} bytes that the zip's directory says")
    if zlib.crc32(data) != member.crc:
        raise BadRow("damaged: its checksum does not match")
    return data


def _unpacked(packed: bytes, member: Member) -> bytes:
    """The content, at most one byte more than the directory says."""
    limit = member.size + 1
    try:
        if member.method == STORED:
            return packed[:limit]
        if member.method == DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit)
        if member.method == ZSTD:
            unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW)
            with unpacker.stream_reader(packed, read_across_frames=True) as reader:
                return reader.read(limit)
    except (zlib.error, zstandard.ZstdError) as error:
        raise BadRow(f"damaged: {error!s:.100}") from error
    raise BadRow(f"packed with method {member.method}, which is not read")
