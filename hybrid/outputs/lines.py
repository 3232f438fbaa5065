"""The fast way in: our own layout with one record a line, and bare JSON lines."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, BinaryIO

import orjson

from hybrid.canonical import DEEPEST, MAX_RECORD, Json, decode, too_deep
from hybrid.errors import BadData, keys_of
from hybrid.outputs.header import (
    FOREIGN,
    FORMAT,
    HEAD,
    TAIL,
    VERSION,
    Block,
    Header,
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

SHALLOW = 2 * DEEPEST
"""Bytes of JSON that cannot hold more than DEEPEST levels: each takes two."""

FIRST = b'{"format":"%s","version":%d,\n' % (FORMAT.encode(), VERSION)


class OtherLayout(Exception):
    """The lines stop being ours. Perhaps the file is damaged, perhaps it is only laid out in another way."""


@dataclass(frozen=True, slots=True)
class RecordLines:
    """Reads the layout that write_outputs writes. `start` is the number of lines before the first record."""

    start: int

    def records(
        self, source: OutputsSource, skip: int = 0, *, exactly: bool = False
    ) -> Generator[Block, None, Trailer | None]:
        """Every record after the first `skip`; returns the trailer. Raises OtherLayout, BadData.

        `exactly` trusts no line in how it writes its numbers.
        """
        with source.open() as stream:
            for _ in range(self.start + skip):
                stream.readline(LONGEST)
            number, comma, place = self.start + skip, True, f"{source.name}, line"
            ahead = Ahead(stream, b",\n")
            while True:
                if comma and not exactly and (found := ahead.block()):
                    yield Block(*found, place, number + 1)
                    number += len(found[0])
                    continue
                line = ahead.line()
                if line == b"],\n":
                    break
                number += 1
                body = line[:-2] if line.endswith(b",\n") else line[:-1]
                if not comma or not body:
                    raise OtherLayout
                comma = len(line) - len(body) == 2
                try:
                    value = orjson.loads(body)
                except orjson.JSONDecodeError as error:
                    raise OtherLayout from error
                yield _alone(value, body, place, number, exactly=exactly)
            if comma and number > self.start:
                raise OtherLayout
            return _trailer(stream, source)


def _trailer(stream: BinaryIO, source: OutputsSource) -> Trailer:
    try:
        values = orjson.loads(b"{" + stream.read(1024))
    except orjson.JSONDecodeError as error:
        raise OtherLayout from error
    if list(values) != list(TAIL) or stream.read(1):
        raise OtherLayout
    return Trailer.of(values, source.name)


def read_head(source: OutputsSource) -> tuple[RecordLines, Header]:
    """The header in our layout. Raises OtherLayout when it is not, BadData when it is but says something wrong."""
    header = Header()
    with source.open() as stream:
        if stream.readline(len(FIRST) + 1) != FIRST:
            raise OtherLayout
        for number, name in ((2, "run"), (3, "models")):
            member = _member(stream.readline(LONGEST), comma=True)
            if list(member) != [name]:
                raise OtherLayout
            header.put(name, member[name], f"{source.name}, line {number}")
        if stream.readline(32) != b'"tasks":{\n':
            raise OtherLayout
        number = 5
        comma = True
        while (line := stream.readline(LONGEST)) != b"},\n":
            if not comma:
                raise OtherLayout
            comma = line.endswith(b",\n")
            for name, task in _member(line, comma=comma).items():
                header.tasks.put(name, task, f"{source.name}, line {number}")
            number += 1
        if (comma and header.tasks) or stream.readline(32) != b'"records":[\n':
            raise OtherLayout
    return RecordLines(number + 1), header


def _member(line: bytes, *, comma: bool) -> dict[str, Any]:
    """The member of an object that stands alone on a line."""
    if not line.endswith(b",\n" if comma else b"\n"):
        raise OtherLayout
    try:
        value = json.loads(
            b"{" + line[: -2 if comma else -1] + b"}", object_pairs_hook=duplicates_refused, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise OtherLayout from error
    if not isinstance(value, dict) or len(value) != 1:
        raise OtherLayout
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class JsonLines:
    """Reads bare records, one a line, with no digest; a first line may be a header (the members of HEAD)."""

    start: int

    def records(
        self, source: OutputsSource, skip: int = 0, *, exactly: bool = False
    ) -> Generator[Block, None, Trailer | None]:
        """Every record. Raises BadData. `exactly` trusts no line in how it writes its numbers."""
        with source.open() as stream:
            number, place = 0, f"{source.name}, line"
            ahead = Ahead(stream, b"\n")
            while True:
                if number >= self.start and not exactly and (found := ahead.block()):
                    yield Block(*found, place, number + 1)
                    number += len(found[0])
                    continue
                if not (line := ahead.line()):
                    return None
                number += 1
                if number > self.start and (body := line.strip()):
                    value = decode(body, what=f"{place} {number}")
                    yield _alone(value, body, place, number, exactly=exactly)


def read_json_lines(source: OutputsSource, *, sure: bool) -> tuple[JsonLines, Header]:
    """The header of JSON lines, from a first line that is one, else empty. `sure`: the file's name says JSON lines.

    Raises OtherLayout when it is not JSON lines and not `sure`, BadData when it is but should not be.
    """
    with source.open() as stream:
        line = stream.readline(LONGEST).strip()
    where = f"{source.name}, line 1"
    try:
        first = decode(line, what=where) if line or not sure else {}
    except BadData:
        if sure:
            raise
        raise OtherLayout from None
    if not isinstance(first, dict) or (
        not sure and ({"records", *TAIL} & set(first) or not {"key", "format"} & set(first))
    ):
        if sure:
            raise BadData(f"{where}: not an output record: {keys_of(first)}; {NEEDS}", hint=FOREIGN)
        raise OtherLayout
    if "format" not in first:
        return JsonLines(0), Header()
    return JsonLines(1), _line_header(checked(_slowly(line, where), dict, "header", where), where)


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


class Ahead:
    """Looks at all whole lines that the stream's buffer holds at once, which is quicker than line by line.

    A line is a record and `ends`. Where any line of the buffer is not the canonical JSON of one record, all of them are
    to be read one by one.
    """

    def __init__(self, stream: BufferedReader, ends: bytes) -> None:
        self._stream, self._ends = stream, ends
        self._singly = 0  # lines that were looked at in vain

    def line(self) -> bytes:
        """The next line, cut after LONGEST bytes; empty at the end of the stream."""
        self._singly -= 1
        return self._stream.readline(LONGEST)

    def block(self) -> tuple[list[Any], bytes] | None:
        """The values of the lines in the buffer, and their canonical JSON with a newline after each."""
        if self._singly > 0:
            return None
        ahead = self._stream.peek()
        size = ahead.rfind(self._ends)
        found = _together(ahead[:size], self._ends) if size > 0 else None
        if found:
            self._stream.read(size + len(self._ends))
        else:
            self._singly = ahead.count(b"\n") + 1  # the last of them goes on behind the buffer
        return found


def _together(lines: bytes, between: bytes) -> tuple[list[Any], bytes] | None:
    """The values of lines, and their canonical JSON with a newline after each; None when they are not canonical."""
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


def _alone(value: Any, line: bytes, place: str, number: int, *, exactly: bool) -> Block:
    """One record by itself: its value and its canonical bytes, which almost always are the line. Raises BadData."""
    what = f"{place} {number}"
    refuse_depth(value, line, what)
    content = line
    if exactly or orjson.dumps(value, option=orjson.OPT_SORT_KEYS) != line:
        value = _slowly(line, what)
        content = canonical(value, what)
    return Block([value], content + b"\n", place, number)


def _slowly(line: bytes, what: str) -> Json:
    """The value in `line` with whole numbers of any size, and no name twice. Raises BadData."""
    try:
        value: Json = json.loads(line, object_pairs_hook=duplicates_refused, parse_constant=_no_constant)
        return value
    except (ValueError, RecursionError) as error:
        raise BadData(f"{what}: {error}") from error
