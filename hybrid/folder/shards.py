"""Shards: immutable, self-verifying files of records.

A shard is one zstd frame of JSON lines: a header, the records, a footer with their count and the sha256 of every
byte before it. Its name repeats the count and 16 digits of that hash. A shard that does not verify counts as missing.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import zstandard

from hybrid.canonical import MAX_RECORD, Json, decode, encode
from hybrid.errors import BadData, HybridError
from hybrid.folder.journal import Journal
from hybrid.folder.medium import Medium
from hybrid.folder.names import DIGEST, ShardName, allowed
from hybrid.machine.files import unpack
from hybrid.machine.terminal import count_of
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
OPTIONAL = {"trained", "thought", "vector", "history"}
"""The optional members of a record."""
TEXT = rb'"[^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+"'
INTEGER = rb"(?:0|-?[1-9][0-9]{0,17}+)"
NUMBER = rb"-?(?:0|[1-9][0-9]{0,17}+)(?:\.[0-9]{1,30}+)?+(?:[eE][+-]?[0-9]{1,2}+)?+"
VALUE = rb"(?:%b|%b|true|false|null)" % (TEXT, NUMBER)
MEMBER = rb"%b:(?:%b|\[(?:%b(?:,%b)*+)?+\])" % (TEXT, VALUE, VALUE, VALUE)
ANSWER = (
    rb'\{"cached":%b,"error":null,"finish":%b,(?:"history":%b,)?+"key":"(.{64})","logprob":(?:null|%b),"question":%b,"sample":%b,'
    rb'"seconds":%b,"task":%b,"text":%b,(?:"thought":%b,)?+"tokens":\[(%b,%b)\],"view":\{(?:%b(?:,%b)*+)?+\}\}'
) % (INTEGER, TEXT, TEXT, NUMBER, TEXT, INTEGER, NUMBER, TEXT, TEXT, TEXT, INTEGER, INTEGER, MEMBER, MEMBER)
LINE = re.compile(rb"^(?:%b|(.*))$" % ANSWER, re.MULTILINE)
"""Matches the key and the tokens of an answer in the layout of `ShardWriter`, else the whole line, which has to be
decoded.

It matches nothing that a decoder would refuse: no long number, no `\\u`. The caller checks that the key is hex.
Takes a fifth of the time of decoding.
"""


@dataclass(frozen=True, slots=True)
class Shard:
    """A verified shard: its header as a decoded JSON object, and the outcome of each item.

    `answered` are the keys of the answers, 32 bytes each, `failed` those of the failures with their kinds. `tokens` are
    the sums of prompt and completion tokens over all records.
    """

    name: ShardName
    sha256: str  # of `content`
    header: Mapping[str, Any]
    answered: tuple[bytes, ...]
    failed: tuple[tuple[bytes, str], ...]
    content: bytes  # the header and the records, a line each
    tokens: tuple[int, int] = (0, 0)

    @property
    def lines(self) -> list[bytes]:
        """The records as JSON, in order."""
        return self.content.split(b"\n")[1:-1]

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        """The records as decoded JSON objects, in order; decoded each time."""
        return tuple(decode(line, what=str(self.name)) for line in self.lines)


def pack(header: Json, records: list[bytes], seq: int) -> tuple[ShardName, bytes]:
    """The name and the bytes of a shard; `records` are canonical JSON lines without their newline."""
    payload = b"\n".join([encode(header), *records, b""])
    sha256 = hashlib.sha256(payload).hexdigest()
    footer = encode({"count": len(records), "sha256": sha256})
    data = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(payload + footer + b"\n")
    return ShardName(seq, len(records), sha256[:16]), data


def verify_payload(path: str, data: bytes) -> tuple[ShardName, str, bytes]:
    """The parsed name of the shard at `path`, the sha256 of its payload (header and records), and the payload.

    Raises BadData when they do not agree. Parses no record, which saves most of the time of `verify_shard`.
    """
    name = ShardName.parse(path.rpartition("/")[2])
    if name is None:
        raise BadData(f"{path}: not the name of a shard")
    raw = unpack(data, MAX_PAYLOAD, path)
    stop = len(raw) - 1 if raw[-1:] == b"\n" != raw[-2:-1] else len(raw.rstrip(b"\n"))
    payload = raw[: raw.rfind(b"\n", 0, stop) + 1]
    try:
        footer = decode(raw[len(payload) : stop], what="footer")
    except BadData as error:
        raise BadData(f"{path}: cut short, damaged or still on its way") from error
    sha256 = hashlib.sha256(payload).hexdigest()
    if not isinstance(footer, dict) or footer.get("sha256") != sha256 or not sha256.startswith(name.sha16):
        raise BadData(f"{path}: does not match its own sha256: truncated, damaged or still on its way")
    if payload.count(b"\n") != name.count + 1 or footer.get("count") != name.count:
        raise BadData(f"{path}: does not hold the {count_of(name.count, 'record')} of its name")
    return name, sha256, payload


def verify_shard(path: str, data: bytes) -> Shard:
    """The shard in the bytes of the file at `path`. Raises BadData that says what is wrong with it."""
    name, sha256, payload = verify_payload(path, data)
    first = payload.find(b"\n") + 1
    header = decode(payload[: first - 1], what=f"{path}: header")
    _check_header(header, path)
    answered, tokens, odd = _answers(payload, first) or (
        b"",
        (0, 0),
        list(enumerate(payload[first:].split(b"\n")[:-1])),
    )
    records = [_record(line, f"{path}: record {n}") for n, line in odd]
    answered += bytes.fromhex("".join(record["key"] for record in records if not record["error"]))
    failed = tuple((bytes.fromhex(one["key"]), str(one["error"]["kind"])) for one in records if one["error"])
    keys = tuple(answered[at : at + 32] for at in range(0, len(answered), 32))
    decoded = [record["tokens"] or (0, 0) for record in records]  # a record may say null, which is none
    prompt, completion = (tokens[at] + sum(one[at] for one in decoded) for at in (0, 1))
    return Shard(name, sha256, header, keys, failed, payload, (prompt, completion))


def _answers(payload: bytes, first: int) -> tuple[bytes, tuple[int, int], list[tuple[int, bytes]]] | None:
    """Of the answers that LINE matches from offset `first` on the keys and the sums of tokens; all other lines with
    their numbers.

    None when every line has to be decoded.
    """
    if first == len(payload) or len(payload) > MAX_RECORD or not _is_text(payload):
        return None
    matches = LINE.findall(payload, first, len(payload) - 1)
    found, pairs, others = zip(*matches, strict=True)
    keys = b"".join(found)
    try:
        packed = bytes.fromhex(keys.decode())
    except ValueError:
        return None
    if packed.hex().encode() != keys:  # a space or a capital
        return None
    numbers = list(map(int, b",".join(filter(None, pairs)).split(b","))) if packed else []
    return (
        packed,
        (sum(numbers[::2]), sum(numbers[1::2])),
        [(n, line) for n, (key, line) in enumerate(zip(found, others, strict=True)) if not key],
    )


def _is_text(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def _check_header(header: Any, path: str) -> None:
    if not isinstance(header, dict) or set(header) != HEADER_KEYS or header["format"] != FORMAT:
        raise BadData(f"{path}: not a shard of this format")
    if header["version"] != 1:
        raise BadData(f"{path}: shard version {header['version']!r:.20}, this hybrid reads 1", hint="update hybrid")
    if not isinstance(header["model"], dict) or not DIGEST.fullmatch(str(header["model"].get("digest"))):
        raise BadData(f"{path}: its header names no model")


def _record(line: bytes, what: str) -> dict[str, Any]:
    """The record in a line. A shard that verifies is still untrusted: one bad record refuses the whole file."""
    value = decode(line, what=what)
    if not isinstance(value, dict) or set(value) - OPTIONAL != RECORD_KEYS or not DIGEST.fullmatch(str(value["key"])):
        raise BadData(f"{what}: not a record of this format")
    if not isinstance(value.get("vector", ""), str) or not isinstance(value.get("history", ""), str):
        raise BadData(f"{what}: not a record of this format: its vector or its history is no text")
    Output.from_json(value, what=what)
    return value


class ShardWriter:
    """Collects records and writes a shard when the oldest is `seconds` old or they have `size` bytes.

    One writer owns one attempt's folder. The caller has to call `tick` regularly, so that a shard is closed while no
    record arrives. A shard that cannot be written stays open with all of its records; the next call tries again.
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
        self.journal: Journal | None = None
        """Where the records of the open shard are kept for when this process is killed."""
        self._lines: list[bytes] = []
        self._put: set[str] = set()  # keys of records that were put and are to be added yet
        self._bytes = 0
        self._opened = 0.0
        self.seq = first_seq
        self._lock = threading.Lock()

    @property
    def open_records(self) -> int:
        """How many records are in no file yet."""
        return len(self._lines)

    def add(self, record: Record) -> None:
        """Add one record. Raises what writing a shard raises (the record is kept then), BadData if it is too large."""
        if record.key in self._put:
            self._put.remove(record.key)
        else:
            self._append(record)
        self.tick()

    def put(self, record: Record) -> None:
        """Keep a record that will be added: in any thread, and no shard is closed for it. Raises BadData as `add`."""
        self._put.add(record.key)
        self._append(record)

    def _append(self, record: Record) -> None:
        line = encode(record.to_json())
        if len(line) > MAX_RECORD:
            raise BadData(f"the record of {record.question} has {len(line):,} bytes, {MAX_RECORD:,} are allowed")
        with self._lock:
            if not self._lines:
                self._opened = self._clock()
            self._lines.append(line)
            self._bytes += len(line)
            if self.journal:
                self.journal.add(self._numbered, line)
                self.journal.flush()

    @property
    def _numbered(self) -> dict[str, Any]:
        """The header of the open shard."""
        return {**self._header, "seq": self.seq}

    def tick(self) -> None:
        """Close the open shard when it is due. Raises what writing it raises."""
        with self._lock:
            if self._lines and (self._bytes >= self._size or self._clock() - self._opened >= self._seconds):
                self._close_shard()
            elif self.journal:
                self.journal.flush()

    def close(self) -> None:
        """Close the open shard now; later records go into the next one."""
        with self._lock:
            self._close_shard()
            if self.journal:
                self.journal.close()

    def _close_shard(self) -> None:
        if not self._lines:
            return
        name, data = pack(self._numbered, self._lines, self.seq)
        path = f"{self._place}/{name.batch}/{name}"
        self._medium.write(path, data)
        count = len(self._lines)
        self._lines, self._bytes = [], 0
        self.seq += 1
        if self.journal:
            self.journal.clear()
        self._on_close(path, count)


def shard_paths(medium: Medium, stage_place: str, refused: list[str] | None = None) -> Iterator[str]:
    """The path of every file below a stage's folder that has a shard's name, sorted by attempt, batch and name.

    Links and other names are skipped; the errors of listings are appended to `refused`.
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
