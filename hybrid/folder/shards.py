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
from operator import itemgetter
from typing import Any

import zstandard

from hybrid.canonical import MAX_RECORD, Json, decode, encode
from hybrid.errors import BadData, HybridError
from hybrid.folder.medium import Medium
from hybrid.folder.names import DIGEST, ShardName, allowed
from hybrid.machine.files import unpack
from hybrid.machine.terminal import some
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
OPTIONAL = {"trained", "thought"}
"""What a record has only when there is something to say."""
PLAIN = itemgetter("key", "task", "question", "view", "sample", "text", "error", "finish", "tokens")
WHOLE = 2**62
"""The largest whole number in a record."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A verified shard: its header and its records as decoded JSON objects."""

    name: ShardName
    sha256: str  # of the content before the footer
    header: Mapping[str, Any]
    records: tuple[dict[str, Any], ...]


def pack(header: Json, records: list[bytes], seq: int) -> tuple[ShardName, bytes]:
    """The name and the bytes of a shard; `records` are canonical JSON lines without their newline."""
    payload = b"\n".join([encode(header), *records, b""])
    sha256 = hashlib.sha256(payload).hexdigest()
    footer = encode({"count": len(records), "sha256": sha256})
    data = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(payload + footer + b"\n")
    return ShardName(seq, len(records), sha256[:16]), data


def verify_payload(path: str, data: bytes) -> tuple[ShardName, str, bytes]:
    """The parsed name of the shard at `path`, the sha256 of its header and records, and these: they fit each other.

    Raises BadData. It parses no record: most of what `verify_shard` takes is saved.
    """
    name = ShardName.parse(path.rpartition("/")[2])
    if name is None:
        raise BadData(f"{path}: not the name of a shard")
    payload, _, footer_line = unpack(data, MAX_PAYLOAD, path).rstrip(b"\n").rpartition(b"\n")
    payload += b"\n"
    try:
        footer = decode(footer_line, what="footer")
    except BadData as error:
        raise BadData(f"{path}: cut short, damaged or still on its way") from error
    sha256 = hashlib.sha256(payload).hexdigest()
    if not isinstance(footer, dict) or footer.get("sha256") != sha256 or not sha256.startswith(name.sha16):
        raise BadData(f"{path}: does not match its own sha256: truncated, damaged or still on its way")
    if payload.count(b"\n") != name.count + 1 or footer.get("count") != name.count:
        raise BadData(f"{path}: does not hold the {some(name.count, 'record')} of its name")
    return name, sha256, payload


def verify_shard(path: str, data: bytes) -> Shard:
    """The shard in the bytes of the file at `path`. Raises BadData that says what is wrong with it."""
    name, sha256, payload = verify_payload(path, data)
    header_line, *lines = payload[:-1].split(b"\n")
    header = decode(header_line, what=f"{path}: header")
    _check_header(header, path)
    return Shard(name, sha256, header, tuple(_record(line, f"{path}: record {n}") for n, line in enumerate(lines)))


def _check_header(header: Any, path: str) -> None:
    if not isinstance(header, dict) or set(header) != HEADER_KEYS or header["format"] != FORMAT:
        raise BadData(f"{path}: not a shard of this format")
    if header["version"] != 1:
        raise BadData(f"{path}: shard version {header['version']!r:.20}, this hybrid reads 1", hint="update hybrid")
    if not isinstance(header["model"], dict) or not DIGEST.fullmatch(str(header["model"].get("digest"))):
        raise BadData(f"{path}: its header names no model")


def _record(line: bytes, what: str) -> dict[str, Any]:
    """A shard can verify and still be made by anybody: what is not a record is refused with the whole file."""
    value = decode(line, what=what)
    if _is_plain(value):
        return value  # type: ignore[no-any-return]
    if not isinstance(value, dict) or set(value) - OPTIONAL != RECORD_KEYS or not DIGEST.fullmatch(str(value["key"])):
        raise BadData(f"{what}: not a record of this format")
    Output.from_json(value, what=what)
    return value


def _is_plain(value: Any) -> bool:
    """Whether it is an answer as we write it, which most records are: the same is asked of it as below, but quicker."""
    if type(value) is not dict or value.keys() != RECORD_KEYS:
        return False
    key, task, question, view, sample, text, error, finish, tokens = PLAIN(value)
    return (
        type(key) is type(task) is type(question) is type(text) is type(finish) is str
        and type(view) is dict
        and error is None
        and type(tokens) is list
        and len(tokens) == 2
        and type(sample) is type(tokens[0]) is type(tokens[1]) is int
        and -WHOLE <= sample <= WHOLE
        and -WHOLE <= tokens[0] <= WHOLE
        and -WHOLE <= tokens[1] <= WHOLE
        and DIGEST.fullmatch(key) is not None
    )


class ShardWriter:
    """Gathers records and closes a shard when it is `seconds` old or `size` bytes large.

    One writer owns one attempt's place. Somebody has to call `tick` now and then, so that a shard closes while nothing
    arrives. A shard that cannot be written stays open with all of its records, and the next call tries again.
    """

    def __init__(
        self,
        medium: Medium,
        place: str,
        header: Mapping[str, Any],
        *,
        seconds: float,
        size: int = 1024 * 1024,
        first_seq: int = 0,
        on_close: Callable[[str, int], None] = lambda path, count: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._medium, self._place, self._header, self._seconds, self._size = medium, place, header, seconds, size
        self._on_close, self._clock = on_close, clock
        self._lines: list[bytes] = []
        self._bytes = 0
        self._opened = 0.0
        self.seq = first_seq
        self._lock = threading.Lock()

    @property
    def open_records(self) -> int:
        """How many records are in no file yet."""
        return len(self._lines)

    def add(self, record: Record) -> None:
        """Keep one record. Raises what writing a shard raises, with the record kept; BadData if it is too large."""
        line = encode(record.to_json())
        if len(line) > MAX_RECORD:
            raise BadData(f"the record of {record.question} has {len(line):,} bytes, {MAX_RECORD:,} are allowed")
        with self._lock:
            if not self._lines:
                self._opened = self._clock()
            self._lines.append(line)
            self._bytes += len(line)
        self.tick()

    def tick(self) -> None:
        """Close the open shard when it is due. Raises what writing it raises."""
        with self._lock:
            if self._lines and (self._bytes >= self._size or self._clock() - self._opened >= self._seconds):
                self._close_shard()

    def close(self) -> None:
        """Close the open shard now; more may be added to a next one."""
        with self._lock:
            self._close_shard()

    def _close_shard(self) -> None:
        if not self._lines:
            return
        name, data = pack({**self._header, "seq": self.seq}, self._lines, self.seq)
        path = f"{self._place}/{name.batch}/{name}"
        self._medium.write(path, data)
        count = len(self._lines)
        self._lines, self._bytes = [], 0
        self.seq += 1
        self._on_close(path, count)


def shard_paths(medium: Medium, stage_place: str, refused: list[str] | None = None) -> Iterator[str]:
    """The path of every file below a stage's place that has a shard's name, sorted by attempt, batch and name.

    Links and names that are not ours are passed over; what cannot be listed is told in `refused`.
    """
    for attempt in _names(medium, stage_place, "folder", refused):
        for batch in _names(medium, f"{stage_place}/{attempt}", "folder", refused):
            place = f"{stage_place}/{attempt}/{batch}"
            yield from (f"{place}/{name}" for name in _names(medium, place, "file", refused) if ShardName.parse(name))


def _names(medium: Medium, place: str, kind: str, refused: list[str] | None) -> list[str]:
    try:
        found = medium.entries(place)
    except HybridError as error:
        if refused is not None:
            refused.append(error.message)
        return []
    return sorted({entry.name for entry in found if entry.kind == kind and allowed(entry.name)})
