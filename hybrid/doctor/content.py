"""Identify bytes whatever their file is called: whether they are whole, of which run, and where they belong."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any, Literal

import zstandard

from hybrid.canonical import decode
from hybrid.errors import BadData
from hybrid.folder.names import NOTES, NoteName, ShardName, checked, run_id
from hybrid.folder.notes import MAX_NOTE, verify_note
from hybrid.folder.shards import MAX_FILE, MAX_PAYLOAD, verify_shard
from hybrid.folder.spec import MAX_SPEC, check_spec

MAGIC = zstandard.FRAME_HEADER[:4]
MOST_BLOCKS = 100_000
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<error", b"{error", b'{"error', b'[{"error', b"http/1.")

Unpacked = Literal["whole", "cut", "damaged", "bomb"]


def is_page(data: bytes) -> bool:
    """Whether the bytes begin as the error message of a web service does, which some clients write into files."""
    start = b"".join(data[:400].lower().lstrip(b"\xef\xbb\xbf").split())
    return start.startswith(PAGES)


def unpacked(data: bytes, limit: int = MAX_PAYLOAD) -> tuple[Unpacked, bytes]:
    """The state of a zstd frame, and its content: empty when it is damaged or larger than `limit` bytes."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            content = reader.read(limit + 1)
    except (zstandard.ZstdError, MemoryError):
        return "damaged", b""
    if len(content) > limit:
        return "bomb", b""
    end = frame_length(data)
    return ("cut" if end is None or end > len(data) else "whole"), content


def frame_length(data: bytes) -> int | None:
    """The length in bytes of the zstd frame at the start of `data`, by its block headers; None when one is cut off."""
    try:
        place = int(zstandard.frame_header_size(data))
        tail = 4 * zstandard.get_frame_parameters(data).has_checksum
    except zstandard.ZstdError:
        return None
    for _ in range(MOST_BLOCKS):
        head = int.from_bytes(data[place : place + 3], "little")
        if len(data) < place + 3:
            return None
        place += 3 + (1 if head >> 1 & 3 == 1 else head >> 3)  # a run of one byte is stored as that byte
        if head & 1:
            return place + tail
    return None


def frame_oddities(data: bytes, content: bytes) -> list[str]:
    """How a frame with good content differs from the single zstd frame that hybrid writes."""
    end = frame_length(data)
    parameters = zstandard.get_frame_parameters(data)
    odd = {
        "the end of its zstd frame is missing": end is None or end > len(data),
        "bytes follow its zstd frame": end is not None and end < len(data),
        "its zstd frame has no checksum": not parameters.has_checksum,
        "its zstd frame does not tell its size": parameters.content_size != len(content),
        "its zstd frame has a bit set that means nothing": bool(data[4] & 0x10),
    }
    return [words for words, found in odd.items() if found]


def belongs(data: bytes) -> str:
    """The path at which these bytes would be a good shard, note or spec; "" when they are none of these."""
    with suppress(BadData, ValueError, LookupError, TypeError, RecursionError):
        if data.startswith(MAGIC):
            return _packed_place(data)
        if data.startswith(b"{") and len(data) <= MAX_SPEC:
            return _spec_place(decode(data, what="spec"))
    return ""


def header_of(data: bytes) -> dict[str, Any]:
    """The first JSON object in a packed file; empty when there is none."""
    _, content = unpacked(data)
    with suppress(BadData):
        value = decode(content.partition(b"\n")[0], what="header")
        return value if isinstance(value, dict) else {}
    return {}


def _packed_place(data: bytes) -> str:
    header = header_of(data)
    if header.get("format") == "hybrid/shard":
        path = shard_place(header, _shard_name(data, header["seq"]))
        verify_shard(path, data)
        return path
    kind, number = str(header.get("format")).removeprefix("hybrid/"), _number(header.get("number"), NoteName)
    if f"{kind}s" not in NOTES:
        raise ValueError("no note")
    run, by = (checked(str(header.get(part)), what=part) for part in ("run", "by"))
    name = NoteName(kind, number, hashlib.sha256(unpacked(data, MAX_NOTE)[1]).hexdigest()[:16])
    path = f"runs/{run}/{kind}s/{by}/{name.batch}/{name}"
    verify_note(path, data)
    return path


def shard_place(header: Any, name: ShardName) -> str:
    """Where a shard of that header and name belongs. Raises BadData when the header's names cannot stand in a path."""
    run, stage, attempt = (checked(str(header[part]), what=part) for part in ("run", "stage", "attempt"))
    return f"runs/{run}/{stage}/{attempt}/{name.batch}/{name}"


def _shard_name(data: bytes, seq: Any) -> ShardName:
    payload = unpacked(data)[1].rstrip(b"\n").rpartition(b"\n")[0] + b"\n"
    count = payload.count(b"\n") - 1
    return ShardName(_number(seq, ShardName), count, hashlib.sha256(payload).hexdigest()[:16])


def _number(value: Any, name: type[ShardName | NoteName]) -> int:
    most = 99_999 if name is ShardName else 999_999
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"not the number of a {name.__name__}")
    return value


def _spec_place(spec: Any) -> str:
    run = run_id(spec, str(spec["pipeline"]))
    check_spec(spec, run)
    return f"runs/{run}/run.json"


def looks(data: bytes) -> str:
    """Describe bytes in a few words."""
    if not data:
        return "it is empty"
    if is_page(data):
        return "it holds an error message of a web service"
    if not data.strip(b"\0"):
        return "it holds zeros only"
    if data.startswith(MAGIC):
        return "it is a zstd file"
    return f"it has {'at least ' if len(data) >= MAX_FILE else ''}{len(data):,} bytes"
