"""The fast readers: hybrid's own layout with one record a line, and bare JSON lines."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, BinaryIO

import orjson

from hybrid.canonical import MAX_DEPTH, MAX_RECORD, Json, decode, too_deep
from hybrid.errors import BadData, keys_of
from hybrid.outputs.header import (
    FORMAT,
    HEAD,
    HINT_FOREIGN,
    TAIL,
    VERSION,
    Header,
    RecordBlock,
    Trailer,
    canonical,
    checked,
    duplicates_refused,
    refuse_depth,
)
from hybrid.outputs.source import OutputsSource
from hybrid.records import NEEDS

LONGEST = MAX_RECORD + 2
"""Most bytes of one line: a record, a comma and a newline."""

SHALLOW = 2 * MAX_DEPTH
"""Most bytes of JSON that cannot have more than MAX_DEPTH levels: each level takes two bytes."""

FIRST = b'{"format":"%s","version":%d,\n' % (FORMAT.encode(), VERSION)


class LayoutMismatch(Exception):
    """A line is not in hybrid's layout: the file is damaged, or laid out in another way."""


@dataclass(frozen=True, slots=True)
class RecordLines:
    """Reads the layout that write_outputs writes. `start` is the number of lines before the first record."""

    start: int

    def records(
        self, source: OutputsSource, skip: int = 0, *, exactly: bool = False
    ) -> Generator[RecordBlock, None, Trailer | None]:
        """Every record after the first `skip`; returns the trailer. Raises LayoutMismatch, BadData.

        `exactly` puts each number into its canonical form, whatever the line has.
        """
        with source.open() as stream:
            for _ in range(self.start + skip):
                stream.readline(LONGEST)
            number, comma, place = self.start + skip, True, f"{source.name}, line"
            reader = BlockReader(stream, b",\n")
            while True:
                if comma and not exactly and (found := reader.block()):
                    yield RecordBlock(*found, place, number + 1)
                    number += len(found[0])
                    continue
                line = reader.line()
                if line == b"],\n":
                    break
                number += 1
                body = line[:-2] if line.endswith(b",\n") else line[:-1]
                if not comma or not body:
                    raise LayoutMismatch
                comma = len(line) - len(body) == 2
                try:
                    value = orjson.loads(body)
                except orjson.JSONDecodeError as error:
                    raise LayoutMismatch from error
                yield _single(value, body, place, number, exactly=exactly)
            if comma and number > self.start:
                raise LayoutMismatch
            return _trailer(stream, source)


def _trailer(stream: BinaryIO, source: OutputsSource) -> Trailer:
    try:
        values = orjson.loads(b"{" + stream.read(1024))
    except orjson.JSONDecodeError as error:
        raise LayoutMismatch from error
    if list(values) != list(TAIL) or stream.read(1):
        raise LayoutMismatch
    return Trailer.of(values, source.name)


def read_head(source: OutputsSource) -> tuple[RecordLines, Header]:
    """The header in hybrid's layout. Raises LayoutMismatch for another layout, BadData for wrong content."""
    header = Header()
    with source.open() as stream:
        if stream.readline(len(FIRST) + 1) != FIRST:
            raise LayoutMismatch
        for number, name in ((2, "run"), (3, "models")):
            member = _member(stream.readline(LONGEST), comma=True)
            if list(member) != [name]:
                raise LayoutMismatch
            header.put(name, member[name], f"{source.name}, line {number}")
        if stream.readline(32) != b'"tasks":{\n':
            raise LayoutMismatch
        number = 5
        comma = True
        while (line := stream.readline(LONGEST)) != b"},\n":
            if not comma:
                raise LayoutMismatch
            comma = line.endswith(b",\n")
            for name, task in _member(line, comma=comma).items():
                header.tasks.put(name, task, f"{source.name}, line {number}")
            number += 1
        if (comma and header.tasks) or stream.readline(32) != b'"records":[\n':
            raise LayoutMismatch
    return RecordLines(number + 1), header


def _member(line: bytes, *, comma: bool) -> dict[str, Any]:
    """The single member of an object on a line of its own."""
    if not line.endswith(b",\n" if comma else b"\n"):
        raise LayoutMismatch
    try:
        value = json.loads(
            b"{" + line[: -2 if comma else -1] + b"}", object_pairs_hook=duplicates_refused, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise LayoutMismatch from error
    if not isinstance(value, dict) or len(value) != 1:
        raise LayoutMismatch
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class JsonLines:
    """Reads bare records, one a line, without a digest; the first line may be a header (the members of HEAD)."""

    start: int

    def records(
        self, source: OutputsSource, skip: int = 0, *, exactly: bool = False
    ) -> Generator[RecordBlock, None, Trailer | None]:
        """Every record. Raises BadData. `exactly` puts each number into its canonical form."""
        with source.open() as stream:
            number, place = 0, f"{source.name}, line"
            reader = BlockReader(stream, b"\n")
            while True:
                if number >= self.start and not exactly and (found := reader.block()):
                    yield RecordBlock(*found, place, number + 1)
                    number += len(found[0])
                    continue
                if not (line := reader.line()):
                    return None
                number += 1
                if number > self.start and (body := line.strip()):
                    value = decode(body, what=f"{place} {number}")
                    yield _single(value, body, place, number, exactly=exactly)


def read_json_lines(source: OutputsSource, *, sure: bool) -> tuple[JsonLines, Header]:
    """The header of JSON lines: from the first line if it is one, else empty. `sure`: the file's name says JSON lines.

    Raises LayoutMismatch when the file is not JSON lines and not `sure`, BadData when its first line is bad.
    """
    with source.open() as stream:
        line = stream.readline(LONGEST).strip()
    where = f"{source.name}, line 1"
    try:
        first = decode(line, what=where) if line or not sure else {}
    except BadData:
        if sure:
            raise
        raise LayoutMismatch from None
    if not isinstance(first, dict) or (
        not sure and ({"records", *TAIL} & set(first) or not {"key", "format"} & set(first))
    ):
        if sure:
            raise BadData(f"{where}: not an output record: {keys_of(first)}; {NEEDS}", hint=HINT_FOREIGN)
        raise LayoutMismatch
    if "format" not in first:
        return JsonLines(0), Header()
    return JsonLines(1), _line_header(checked(_decode_exactly(line, where), dict, "header", where), where)


def _line_header(first: dict[str, Any], where: str) -> Header:
    header = Header()
    header.put("format", first["format"], where)
    header.put("version", first.get("version"), where)
    for name, value in first.items():
        if name not in HEAD:
            raise BadData(f"{where}: unknown key {name!r:.60} in the header", hint=f"known: {', '.join(HEAD)}")
        if name == "tasks":
            for task, data in checked(value, dict, "tasks", where).items():
                header.tasks.put(task, data, where)
        else:
            header.put(name, value, where)
    return header


class BlockReader:
    """Decodes all whole lines in the stream's buffer at once, which is faster than line by line.

    A line is a record and `ends`. When any line in the buffer is not the canonical JSON of one record, the caller reads
    all of them one by one.
    """

    def __init__(self, stream: BufferedReader, ends: bytes) -> None:
        self._stream, self._ends = stream, ends
        self._one_by_one = 0  # lines that could not be decoded as a block

    def line(self) -> bytes:
        """The next line, cut after LONGEST bytes; empty at the end of the stream."""
        self._one_by_one -= 1
        return self._stream.readline(LONGEST)

    def block(self) -> tuple[list[Any], bytes] | None:
        """The values of the lines in the buffer, and their canonical JSON with a newline after each."""
        if self._one_by_one > 0:
            return None
        ahead = self._stream.peek()
        size = ahead.rfind(self._ends)
        found = _decode_lines(ahead[:size], self._ends) if size > 0 else None
        if found:
            self._stream.read(size + len(self._ends))
        else:
            self._one_by_one = ahead.count(b"\n") + 1  # the last of them ends beyond the buffer
        return found


def _decode_lines(lines: bytes, between: bytes) -> tuple[list[Any], bytes] | None:
    """The values of lines and their canonical JSON, a newline after each; None when the lines are not canonical."""
    listed = lines if between == b",\n" else lines.replace(between, b",")
    try:
        values = orjson.loads(b"[%b]" % listed)
        records = [orjson.dumps(value, option=orjson.OPT_SORT_KEYS) for value in values]
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    if between.join(records) != lines:
        return None
    long = [number for number, record in enumerate(records) if len(record) > SHALLOW]
    if any(too_deep(values[number], records[number]) for number in long):
        return None
    return values, b"\n".join(records) + b"\n"


def _single(value: Any, line: bytes, place: str, number: int, *, exactly: bool) -> RecordBlock:
    """A block of one record: its value and its canonical bytes, which are nearly always the line. Raises BadData."""
    what = f"{place} {number}"
    refuse_depth(value, line, what)
    content = line
    if exactly or orjson.dumps(value, option=orjson.OPT_SORT_KEYS) != line:
        value = _decode_exactly(line, what)
        content = canonical(value, what)
    return RecordBlock([value], content + b"\n", place, number)


def _decode_exactly(line: bytes, what: str) -> Json:
    """The value in `line` with integers of any size. Raises BadData, also for a duplicate name in an object."""
    try:
        value: Json = json.loads(line, object_pairs_hook=duplicates_refused, parse_constant=_no_constant)
        return value
    except (ValueError, RecursionError) as error:
        raise BadData(f"{what}: {error}") from error
