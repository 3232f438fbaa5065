"""The general reader: an outputs document in any JSON layout, parsed event by event in bounded memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, BinaryIO

import ijson

from hybrid.canonical import MAX_DEPTH
from hybrid.errors import BadData
from hybrid.machine.bounded_stream import PIECE, BoundedStream
from hybrid.outputs.header import HEAD, HINT_AGAIN, HINT_FOREIGN, TAIL, Header, RecordBlock, Trailer, canonical
from hybrid.outputs.source import OutputsSource


class Document:
    """Reads the records of an outputs document in any JSON layout."""

    def records(
        self, source: OutputsSource, skip: int = 0, *, exactly: bool = True
    ) -> Generator[RecordBlock, None, Trailer | None]:
        """Every record after the first `skip`; returns the trailer. Always reads numbers `exactly`. Raises BadData."""
        tail: dict[str, Any] = {}
        with _events(source) as events:
            for name in events.members():
                if name == "records":
                    for number, value in enumerate(events.elements("records"), start=1):
                        if number > skip:
                            content = canonical(value, f"{source.name}, record {number}") + b"\n"
                            yield RecordBlock([value], content, f"{source.name}, record", number)
                elif name in TAIL:
                    tail[name] = events.value()
                elif name in HEAD:
                    events.skip()
                else:
                    raise _unknown(source, [name], ours=True)
        return Trailer.of(tail, source.name)


def read_document(source: OutputsSource) -> tuple[Document, Header]:
    """The header of a document. Reads past the records only when a part of the header comes after them."""
    header = Header()
    seen: dict[str, None] = {}
    with _events(source) as events:
        for name in events.members():
            if name not in (*HEAD, *TAIL, "records"):
                raise _unknown(source, [*seen, name], ours="format" in seen)
            seen[name] = None
            if name == "records" and seen.keys() >= set(HEAD):
                break
            if name == "tasks":
                for task in events.members("tasks"):
                    header.tasks.put(task, events.value(), events.where())
            elif name in HEAD:
                header.put(name, events.value(), events.where())
            else:
                events.skip()
    missing = [name for name in (*HEAD, "records") if name not in seen]
    if "format" in missing:
        raise BadData(f"{source.name}: not an outputs file: it has no 'format'", hint=HINT_FOREIGN)
    if missing:
        raise BadData(f"{source.name}: has no '{missing[0]}': not whole", hint=HINT_AGAIN)
    return Document(), header


def _unknown(source: OutputsSource, names: list[str], *, ours: bool) -> BadData:
    """The error for the last of `names`, a key that no outputs file has; a foreign file is not read to its end."""
    known = ", ".join((*HEAD, "records", *TAIL))
    if ours:
        return BadData(f"{source.name}: unknown key {names[-1]!r:.60}", hint=f"known: {known}")
    begins = " and ".join(f"{name!r:.60}" for name in names)
    what = f"it has a key {begins}" if len(names) == 1 else f"it begins with the keys {begins}"
    return BadData(f"{source.name}: not an outputs file: {what}; needed are {known}", hint=HINT_FOREIGN)


class _Events:
    """The parser events of one document, and methods that read whole values from them."""

    def __init__(self, source: OutputsSource, stream: BinaryIO) -> None:
        self._bytes = BoundedStream(stream, source.name, HINT_FOREIGN)
        self._source = source
        self._events: Iterator[tuple[str, Any]] = ijson.basic_parse(self._bytes, buf_size=PIECE)

    def where(self) -> str:
        return f"{self._source.name}, near line {self._bytes.line}"

    def members(self, name: str = "") -> Iterator[str]:
        """The names in an object. The caller reads or skips the value of each before it takes the next."""
        if (kind := self._next()[0]) != "start_map":
            found = "a list" if kind == "start_array" else "a single value"
            what = f"{name!r} is not an object" if name else f"not an outputs file: it is {found}, not an object"
            raise BadData(f"{self.where()}: {what}", hint=HINT_FOREIGN)
        seen: set[str] = set()
        while (event := self._next())[0] != "end_map":
            if event[1] in seen:
                raise BadData(f"{self.where()}: the key {event[1]!r:.60} is there twice", hint=HINT_AGAIN)
            seen.add(event[1])
            yield event[1]
        if not name:
            self._end()

    def elements(self, name: str) -> Iterator[Any]:
        """The values in an array."""
        if self._next()[0] != "start_array":
            raise BadData(f"{self.where()}: {name!r} is not an array", hint=HINT_FOREIGN)
        while (event := self._next())[0] != "end_array":
            yield self._build(event, 1)

    def value(self) -> Any:
        """The next value, whole."""
        return self._build(self._next(), 1)

    def skip(self) -> None:
        """Skip the next value, of any size."""
        depth = 0
        while True:
            event = self._next()[0]
            depth += (event in ("start_map", "start_array")) - (event in ("end_map", "end_array"))
            if depth == 0:
                return

    def _next(self) -> tuple[str, Any]:
        """The next event between values; the size limit of a value counts from here."""
        self._bytes.start = self._bytes.position
        return next(self._events)

    def _build(self, event: tuple[str, Any], depth: int) -> Any:
        kind, value = event
        if depth > MAX_DEPTH and kind in ("start_map", "start_array"):
            raise BadData(f"{self.where()}: more than {MAX_DEPTH} levels", hint=HINT_FOREIGN)
        if kind == "start_map":
            return self._object(depth)
        if kind == "start_array":
            found = []
            while (event := next(self._events))[0] != "end_array":
                found.append(self._build(event, depth + 1))
            return found
        return self._number(value) if isinstance(value, Decimal) else value

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (event := next(self._events))[0] != "end_map":
            if event[1] in found:
                raise BadData(f"{self.where()}: the key {event[1]!r:.60} stands twice in one object", hint=HINT_AGAIN)
            found[event[1]] = self._build(next(self._events), depth + 1)
        return found

    def _number(self, value: Decimal) -> float:
        number = float(value)
        if number in (float("inf"), float("-inf")):
            raise BadData(f"{self.where()}: a number that is too large", hint=HINT_FOREIGN)
        return number

    def _end(self) -> None:
        for _ in self._events:
            raise BadData(f"{self.where()}: goes on after the end of the document", hint=HINT_AGAIN)


@contextmanager
def _events(source: OutputsSource) -> Iterator[_Events]:
    """The events of `source`; errors of the parser become BadData."""
    with source.open() as stream:
        events = _Events(source, stream)
        try:
            yield events
        except (ijson.JSONError, UnicodeDecodeError, ArithmeticError, ValueError, StopIteration) as error:
            said = error.args[0] if error.args else ""
            text = said.decode("ascii", "replace") if isinstance(said, bytes) else str(said)
            early = "premature EOF" in text or isinstance(error, StopIteration)
            what = "ends in the middle" if early else f"not valid JSON: {text.partition(chr(10))[0]:.100}"
            raise BadData(f"{events.where()}: {what}", hint=HINT_AGAIN if early else HINT_FOREIGN) from error
