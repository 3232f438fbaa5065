"""A foreign file as an outputs file: its rows as records, bad ones refused or counted, inputs joined."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import orjson

from hybrid.canonical import MAX_RECORD, Json
from hybrid.errors import BadData
from hybrid.formats.inputs import Inputs
from hybrid.formats.reading import BadRow, Format, Found, Reading
from hybrid.machine.terminal import count_of
from hybrid.outputs import OutputsFile
from hybrid.outputs.header import Header, RecordBlock, Trailer, canonical, refuse_depth
from hybrid.outputs.source import OutputsSource
from hybrid.records import NO_RECORD

MOST_REASONS = 20
"""Distinct reasons for bad rows that are kept; of the others only the number is known."""

UNSURE = re.compile(rb"[0-9][eE][-+0-9]|\.0000|[0-9]{16}\.")
"""Numbers that are very small or very large, or texts that look like one: encoders write these in different forms."""


@dataclass(slots=True)
class Skipped:
    """Rows that were left out: how many, and the place and reason of the first ones."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str, reason: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < MOST_REASONS:
            self.first.append(f"{place}: {reason}"[:300])


class ImportedOutputs(OutputsFile):
    """Outputs made of a foreign file. `skipped` and `lacks` are known when `records()` is exhausted."""

    def __init__(self, source: OutputsSource, name: str, made: Format, reading: Reading) -> None:
        header = Header()
        for member, value in (("run", dict(made.run)), ("models", made.models)):
            header.put(member, value, source.name)
        self._imported = _Records(source.name, made, reading)
        self.format = name
        super().__init__(source, self._imported, header)

    @property
    def skipped(self) -> Skipped:
        """The bad rows that were left out."""
        return self._imported.skipped

    @property
    def lacks(self) -> str:
        """What the file should hold and does not, such as the samples that its header counts; "" for nothing."""
        return self._imported.lacks


class _Records:
    """Reads the rows of a foreign file as blocks of records."""

    def __init__(self, name: str, made: Format, reading: Reading) -> None:
        self._name, self._made, self._reading = name, made, reading
        self.skipped = Skipped()
        self.lacks = ""

    def records(
        self, source: OutputsSource, skip: int = 0, *, exactly: bool = False
    ) -> Generator[RecordBlock, None, Trailer | None]:
        """The records of each row. Raises BadData at the first bad row, unless these are to be skipped."""
        self.skipped, self.lacks = Skipped(), ""
        seen = Seen()
        rows = read = 0
        with Inputs.of(self._reading) as inputs:
            for found in self._made.rows():
                rows += 1
                block = self._block(found, inputs, seen)
                if block is not None:
                    read += 1
                    yield block
            if self.skipped.count and not read:
                told = f"{self._name}: every row is bad, {self.skipped.count:,} in all"
                raise BadData(told, hint=f"the first: {self.skipped.first[0]}")
            self.lacks = self._made.lacks(rows)
            for number, id in enumerate(inputs.unanswered(), start=1):
                place = f"{inputs.path}, unanswered input"
                value = inputs.missing(id, NO_RECORD, f"{self._name} has no output for it")
                yield RecordBlock([value], canonical(value, place) + b"\n", place, number)
        return None

    def _block(self, found: Found, inputs: Inputs, seen: Seen) -> RecordBlock | None:
        place = f"{self._name}, {found.place}"
        try:
            if isinstance(found.content, BadRow):
                raise found.content
            values = [inputs.joined(one) for one in self._made.records(found.content)]
            content = b"".join(_checked(one, place) for one in values)
            seen.refuse_twice(values)
        except BadRow as error:
            if not self._reading.skip_bad:
                raise BadData(f"{place}: {error}", hint="--skip-bad leaves such rows out and counts them") from error
            self.skipped.add(found.place, str(error))
            return None
        return RecordBlock(values, content, place, 1) if values else None


class Seen:
    """The keys that were read, eight bytes of a digest each."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def refuse_twice(self, values: list[dict[str, Json]]) -> None:
        """Remember the keys of a row. Raises BadRow, and remembers none, when one of them was there before."""
        new: dict[bytes, str] = {}
        for value in values:
            key = str(value["key"])
            digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            if digest in self._digests or digest in new:
                raise BadRow(f"the id {value['question']!r:.80} is there twice" + _repeat(value))
            new[digest] = key
        self._digests.update(new)


def _repeat(value: dict[str, Json]) -> str:
    return f" (sample {value['sample']})" if value["sample"] else ""


def _checked(value: dict[str, Json], place: str) -> bytes:
    """The canonical JSON of a record and a newline. Raises BadRow for what JSON cannot hold, or a too large one."""
    try:
        line = _quickly(value) or canonical(value, place)
        refuse_depth(value, line, place)
    except BadData as error:
        raise BadRow(error.message.removeprefix(f"{place}: ")) from error
    if len(line) > MAX_RECORD:
        raise BadRow(f"{len(line):,} bytes of text, more than the {MAX_RECORD:,} allowed")
    return line + b"\n"


def _quickly(value: dict[str, Json]) -> bytes:
    """The canonical JSON by the fast encoder; empty where that may write a number in another form, or refuses."""
    try:
        line = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return b""
    return b"" if UNSURE.search(line) else line


def told(outputs: OutputsFile) -> Iterator[str]:
    """Lines for people about rows that were left out, after the records were read."""
    if isinstance(outputs, ImportedOutputs) and outputs.skipped.count:
        skipped = outputs.skipped
        yield f"left out: {count_of(skipped.count, 'bad row')}"
        yield from (f"  {one}" for one in skipped.first)
        if skipped.count > len(skipped.first):
            yield f"  and {skipped.count - len(skipped.first):,} more"
