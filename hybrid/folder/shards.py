"""Shards: immutable files of records that prove their own completeness.

A shard is one zstd frame of JSON lines: a header, the records, a footer with their count and the sha256 of every
byte before it. Its name repeats the count and 16 digits of that hash. What does not verify is not there.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import zstandard

from hybrid.canonical import MAX_RECORD, Json, decode, encode
from hybrid.errors import BadData
from hybrid.folder.files import speaking, unpack, write_once
from hybrid.folder.names import DIGEST, NAME, ShardName
from hybrid.records import Output, Record

FORMAT = "hybrid/shard"
MAX_FILE = 64 * 1024 * 1024
MAX_PAYLOAD = 64 * 1024 * 1024
HEADER_KEYS = {"format", "version", "run", "stage", "attempt", "seq", "model"}
RECORD_KEYS = {"key", "task", "question", "view", "sample", "text", "error", "finish", "tokens"} | {
    "cached",
    "logprob",
    "seconds",
}


@dataclass(frozen=True, slots=True)
class Shard:
    """A verified shard: its header and its records as decoded JSON objects."""

    name: ShardName
    header: Mapping[str, Any]
    records: tuple[dict[str, Any], ...]


def pack(header: Json, records: list[bytes], seq: int) -> tuple[ShardName, bytes]:
    """The name and the bytes of a shard; `records` are canonical JSON lines without their newline."""
    payload = b"\n".join([encode(header), *records, b""])
    sha256 = hashlib.sha256(payload).hexdigest()
    footer = encode({"count": len(records), "sha256": sha256})
    data = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(payload + footer + b"\n")
    return ShardName(seq, len(records), sha256[:16]), data


def read_shard(path: Path) -> Shard:
    """Read and verify a shard. Raises BadData saying what is wrong: name, truncation, count, hash, format."""
    name = ShardName.parse(path.name)
    if name is None:
        raise BadData(f"{path}: not the name of a shard")
    payload, _, footer_line = unpack(path, MAX_FILE, MAX_PAYLOAD).rstrip(b"\n").rpartition(b"\n")
    payload += b"\n"
    try:
        footer = decode(footer_line, what="footer")
    except BadData as error:
        raise BadData(f"{path}: cut short, damaged or still on its way") from error
    sha256 = hashlib.sha256(payload).hexdigest()
    if not isinstance(footer, dict) or footer.get("sha256") != sha256 or not sha256.startswith(name.sha16):
        raise BadData(f"{path}: does not match its own sha256: truncated, damaged or still on its way")
    if payload.count(b"\n") != name.count + 1:
        raise BadData(f"{path}: does not hold the {name.count} records of its name")
    header_line, *lines = payload[:-1].split(b"\n")
    header = decode(header_line, what=f"{path}: header")
    if not isinstance(header, dict) or set(header) != HEADER_KEYS or header["format"] != FORMAT:
        raise BadData(f"{path}: not a shard of this format")
    if header["version"] != 1:
        raise BadData(f"{path}: shard version {header['version']!r}, this hybrid reads 1", hint="update hybrid")
    if footer.get("count") != name.count:
        raise BadData(f"{path}: {name.count} records where the footer says {footer.get('count')!r:.20}")
    if not isinstance(header["model"], dict) or not isinstance(header["model"].get("digest"), str):
        raise BadData(f"{path}: its header names no model")
    return Shard(name, header, tuple(_record(line, f"{path}: record {n}") for n, line in enumerate(lines)))


def _record(line: bytes, what: str) -> dict[str, Any]:
    """A shard can verify and still be made by anybody: what is not a record is refused with the whole file."""
    value = decode(line, what=what)
    if not isinstance(value, dict) or set(value) != RECORD_KEYS or not DIGEST.fullmatch(str(value["key"])):
        raise BadData(f"{what}: not a record of this format")
    Output.from_json(value, what=what)
    return value


class ShardWriter:
    """Gathers records and closes a shard when it is `seconds` old or `size` bytes large, also while nothing arrives.

    One writer owns one attempt's folder. Use as a context manager: leaving it closes the open shard.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        *,
        seconds: float,
        size: int = 1024 * 1024,
        on_close: Callable[[Path, int], None] = lambda path, count: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._header, self._seconds, self._size = folder, header, seconds, size
        self._on_close, self._clock = on_close, clock
        self._lines: list[bytes] = []
        self._bytes = 0
        self._opened = 0.0
        self._seq = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._timer = threading.Thread(target=self._watch, name="shard-timer", daemon=True)

    def __enter__(self) -> Self:
        with speaking(self._folder, doing="making it"):  # told before anything is computed for it
            self._folder.mkdir(parents=True, exist_ok=True)
        self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._timer.join()
        with self._lock:
            self._close_shard()

    def add(self, record: Record) -> None:
        """Keep one record. Raises what closing a shard raised, here or in the timer's thread; BadData if too large."""
        line = encode(record.to_json())
        if len(line) > MAX_RECORD:
            raise BadData(f"the record of {record.question} has {len(line):,} bytes, {MAX_RECORD:,} are allowed")
        with self._lock:
            if self._failure:
                raise self._failure
            if not self._lines:
                self._opened = self._clock()
            self._lines.append(line)
            self._bytes += len(line)
            if self._bytes >= self._size or self._due():
                self._close_shard()

    def _due(self) -> bool:
        return bool(self._lines) and self._clock() - self._opened >= self._seconds

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._seconds)):
            with self._lock:
                try:
                    if self._due():
                        self._close_shard()
                except BaseException as error:  # noqa: BLE001 - handed to the writing thread, which raises it
                    self._failure = error
                    return

    def _close_shard(self) -> None:
        if not self._lines:
            return
        name, data = pack({**self._header, "seq": self._seq}, self._lines, self._seq)
        path = self._folder / name.batch / str(name)
        write_once(path, data)
        count = len(self._lines)
        self._lines, self._bytes = [], 0
        self._seq += 1
        self._on_close(path, count)


def shard_paths(stage_folder: Path, refused: list[str] | None = None) -> Iterator[Path]:
    """Every file below a stage's folder that has a shard's name, sorted by attempt and name.

    Links and names that are not ours are passed over; folders that cannot be listed are told in `refused`.
    """
    for attempt in _folders(stage_folder, refused):
        for batch in _folders(attempt, refused):
            yield from (path for path in _listed(batch, refused) if ShardName.parse(path.name))


def _folders(place: Path, refused: list[str] | None) -> Iterator[Path]:
    for entry in _listed(place, refused):
        if NAME.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
            yield entry


def _listed(place: Path, refused: list[str] | None) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        if refused is not None:
            refused.append(f"{place}: {error.strerror or error} while listing it")
        return []
