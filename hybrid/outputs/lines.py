"""The fast way in: our own layout with one record a line, and bare JSON lines."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from hybrid.canonical import MAX_RECORD, Json, decode
from hybrid.errors import BadData
from hybrid.outputs.header import (
    FOREIGN,
    FORMAT,
    HEAD,
    TAIL,
    VERSION,
    Entry,
    Header,
    Trailer,
    canonical,
    checked,
    duplicates_refused,
    refuse_depth,
)
from hybrid.outputs.source import Source

LONGEST = MAX_RECORD + 2
"""Most bytes of one line: a record, a comma and a newline."""

FIRST = b'{"format":"%s","version":%d,\n' % (FORMAT.encode(), VERSION)


class OtherLayout(Exception):
    """The lines stop being ours. Perhaps the file is damaged, perhaps it is only laid out in another way."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Reads the layout that write_outputs writes. `start` is the number of lines before the first record."""

    start: int

    def records(self, source: Source, skip: int = 0) -> Generator[Entry, None, Trailer | None]:
        """Every record as (where, value, its line); returns the trailer. Raises OtherLayout."""
        with source.open() as stream:
            for _ in range(self.start + skip):
                stream.readline(LONGEST)
            number, comma, readline, loads = self.start + skip, True, stream.readline, orjson.loads
            while (line := readline(LONGEST)) != b"],\n":
                number += 1
                body = line[:-2] if line.endswith(b",\n") else line[:-1]
                if not comma or not body:
                    raise OtherLayout
                comma = len(line) - len(body) == 2
                try:
                    value = loads(body)
                except orjson.JSONDecodeError as error:
                    raise OtherLayout from error
                yield f"{source.name}, line {number}", value, body
            if comma and number > self.start:
                raise OtherLayout
            return _trailer(stream, source)


def _trailer(stream: BinaryIO, source: Source) -> Trailer:
    try:
        values = orjson.loads(b"{" + stream.read(1024))
    except orjson.JSONDecodeError as error:
        raise OtherLayout from error
    if list(values) != list(TAIL) or stream.read(1):
        raise OtherLayout
    return Trailer.of(values, source.name)


def read_head(source: Source) -> tuple[Lines, Header]:
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
    return Lines(number + 1), header


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

    def records(self, source: Source, skip: int = 0) -> Generator[Entry, None, Trailer | None]:
        """Every record as (where, value, its line). Raises BadData."""
        with source.open() as stream:
            number = 0
            while line := stream.readline(LONGEST):
                number += 1
                body = line.strip()
                if number <= self.start or not body:
                    continue
                where = f"{source.name}, line {number}"
                yield where, decode(body, what=where), body
        return None


def read_json_lines(source: Source, *, sure: bool) -> tuple[JsonLines, Header]:
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
            raise BadData(f"{where}: not an output record", hint=FOREIGN)
        raise OtherLayout
    if "format" not in first:
        return JsonLines(0), Header()
    return JsonLines(1), _line_header(first, where)


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


def exact(value: Any, line: bytes | None, what: str) -> tuple[Any, bytes]:
    """The value of a line and its canonical bytes, which almost always are the line itself. Raises BadData."""
    if line is None:
        return value, canonical(value, what)
    refuse_depth(value, line, what)
    if orjson.dumps(value, option=orjson.OPT_SORT_KEYS) == line:
        return value, line
    value = slowly(line, what)
    return value, canonical(value, what)


def slowly(line: bytes, what: str) -> Json:
    """The value in `line` with whole numbers of any size, and no name twice. Raises BadData."""
    try:
        value: Json = json.loads(line, object_pairs_hook=duplicates_refused, parse_constant=_no_constant)
        return value
    except (ValueError, RecursionError) as error:
        raise BadData(f"{what}: {error}") from error
