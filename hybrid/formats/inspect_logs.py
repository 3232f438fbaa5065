"""inspect_ai logs: `.eval` (a zip with a member for each sample) and `.json`, versions 1 and 2 of the format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import BadData
from hybrid.formats.inspect_header import InspectHeader
from hybrid.formats.inspect_samples import record_of
from hybrid.formats.json_stream import JsonStream
from hybrid.formats.reading import BadRow, Found, object_in, parsed
from hybrid.formats.zip_members import Member, members_of, read_member
from hybrid.machine.files import explain_errors
from hybrid.outputs.source import OutputsSource

HEADER, START = "header.json", "_journal/start.json"
SAMPLE = re.compile(r"samples/(.*)_epoch_(\d{1,9})\.json", re.DOTALL)
HEAD = frozenset({"version", "status", "eval", "plan", "results", "stats", "error"})


class InspectLog:
    """What both layouts have in common."""

    def __init__(self, header: InspectHeader) -> None:
        self._header = header
        self._model, self._scorer = header.model, header.scorer
        self.run: Mapping[str, Json] = header.run()
        self.models = header.models()

    def records(self, content: Any) -> list[dict[str, Json]]:
        """The record of a sample. Raises BadRow."""
        return [record_of(content, self._model, self._scorer)]

    def lacks(self, rows: int) -> str:
        """The samples that the header counts and the file does not hold."""
        return self._header.lacks(rows)


class InspectJson(InspectLog):
    """A log that is one JSON document."""

    def __init__(self, source: OutputsSource) -> None:
        self._source = source
        super().__init__(InspectHeader.of(self._head(), source.name))

    def rows(self) -> Iterator[Found]:
        """The samples, and then the rest of the document, so that a cut one is noticed."""
        with self._source.open() as stream:
            document = JsonStream(stream, self._source.name)
            for name in document.members():
                if name == "samples" and document.begins() == "[":
                    for number, value in enumerate(document.elements(), start=1):
                        yield Found(f"sample {number:,}", value)
            document.end()

    def _head(self) -> dict[str, Any]:
        """The members before the samples, and those after them when the log has its header there."""
        found: dict[str, Any] = {}
        with self._source.open() as stream:
            document = JsonStream(stream, self._source.name)
            for name in document.members():
                if name in HEAD:
                    found[name] = document.value()
                elif name == "samples" and "eval" in found:
                    break
        return found


class InspectEval(InspectLog):
    """A log that is a zip."""

    def __init__(self, source: OutputsSource) -> None:
        if str(source.path) == "-":
            raise BadData("an inspect log in a zip cannot be read from standard input", hint="name the file")
        self._path = source.path
        members = members_of(source.path)
        named = {one.name: one for one in members if one.name in (HEADER, START)}
        if any(one.name.startswith("xl/") for one in members):
            raise BadData(f"{self._path}: a workbook of Excel", hint="save the sheet with the answers as CSV (UTF-8)")
        if not named:
            raise BadData(
                f"{self._path}: a zip file, but no inspect log: it has no {HEADER}", hint="name the .eval file"
            )
        self._samples = _samples(members)
        super().__init__(InspectHeader.of(self._head(named), str(self._path)))

    def rows(self) -> Iterator[Found]:
        """The samples, all epochs of one after the other."""
        with explain_errors(self._path, doing="reading it"), self._path.open("rb") as stream:
            for member in self._samples:
                try:
                    yield Found(f"member {member.name}", read_member(stream, member))
                except BadRow as error:
                    yield Found(f"member {member.name}", error)

    def records(self, content: Any) -> list[dict[str, Json]]:
        """The record of a sample. Raises BadRow."""
        return super().records(parsed(content))

    def _head(self, named: Mapping[str, Member]) -> dict[str, Any]:
        """The header; of a log whose run was killed, what was written when it began."""
        name = HEADER if HEADER in named else START
        try:
            with explain_errors(self._path, doing="reading it"), self._path.open("rb") as stream:
                found = object_in(parsed(read_member(stream, named[name])), "it")
        except BadRow as error:
            raise BadData(f"{self._path}, member {name}: {error}", hint="is the file whole? copy it again") from error
        return found if name == HEADER else {"status": "started", **found}


def _samples(members: list[Member]) -> list[Member]:
    """The members that hold samples, all epochs of one after the other."""
    found = [(match[1], int(match[2]), one) for one in members if (match := SAMPLE.fullmatch(one.name))]
    return [one for _, _, one in sorted(found)]
