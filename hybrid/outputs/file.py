"""Open, check and write outputs files.

Files are written one record a line, a layout that is read fast; any other JSON layout of the same content is read too.
The sha256 is over the content, not the layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hybrid.errors import BadData
from hybrid.machine.replacing import replacing
from hybrid.machine.terminal import count_of
from hybrid.outputs.document import Document, read_document
from hybrid.outputs.header import FORMAT, HINT_AGAIN, VERSION, Header, RecordBlock, Trailer, canonical
from hybrid.outputs.lines import LayoutMismatch, read_head, read_json_lines
from hybrid.outputs.source import OutputsSource, open_source
from hybrid.records import Output

BEGINS = b'{"format":"%s"' % FORMAT.encode()
"""How every outputs file that hybrid wrote begins."""


class Reader(Protocol):
    """Reads the records of one layout."""

    def records(
        self, source: OutputsSource, skip: int = 0, *, exactly: bool = False
    ) -> Generator[RecordBlock, None, Trailer | None]:
        """Every record after the first `skip`; returns the trailer. `exactly` puts numbers into their canonical form.

        Raises LayoutMismatch for another layout, BadData.
        """
        ...


def grades_of(path: Path | str, grader: str) -> Path:
    """The default path of the grades of an outputs file: beside it, named after it.

    `grades.GRADER.json` for a file called outputs and for standard input, `NAME.grades.GRADER.json` for others, so that
    no file's grades take the place of another's. `grader` may be a pattern.
    """
    if str(path) == "-":
        return Path(f"grades.{grader}.json")
    return path_beside(Path(path), f"grades.{grader}.json")


def grades_beside(outputs: Path) -> dict[str, Path]:
    """Grader -> its grades beside an outputs file, by name; regular files alone, since a pipe would be waited for.

    Raises OSError.
    """
    before, after = grades_of(outputs, "*").name.split("*")
    most = len(before) + len(after)
    return {
        one.name[len(before) : -len(after)]: one
        for one in sorted(outputs.parent.iterdir())
        if one.name.startswith(before) and one.name.endswith(after) and len(one.name) > most and one.is_file()
    }


def path_beside(outputs: Path, name: str) -> Path:
    """The file `name` beside an outputs file: `name` itself for a file called outputs, `NAME.name` for others."""
    stem = outputs_stem(outputs)
    return outputs.with_name(name if stem == "outputs" else f"{stem}.{name}")


def outputs_stem(outputs: Path) -> str:
    """The name of an outputs file without its endings: `a-1.5` for `a-1.5.jsonl.zst`."""
    return outputs.name.removesuffix(".zst").removesuffix(".json").removesuffix(".jsonl")


class OutputsFile:
    """An open outputs file: the header is read, the records are a stream that can be read any number of times.

    `run` is the run's spec with its id, empty when the file has none (bare JSON lines). `tasks` maps task to its data,
    decoded when looked up. `sha256` and `count` are None until `records()` is exhausted.
    """

    def __init__(self, source: OutputsSource, reader: Reader, header: Header) -> None:
        self.path = source.path
        self.run: Mapping[str, Any] = header.run or {}
        self.models: Sequence[Any] = header.models
        self.tasks: Mapping[str, Any] = header.tasks
        self.sha256: str | None = None
        self.count: int | None = None
        self._source, self._reader, self._header = source, reader, header

    def records(self) -> Generator[Output, None, None]:
        """Every output in file order; count and sha256 are checked at the end. Raises BadData.

        Do not trust yielded outputs before the iterator is exhausted: a truncated or edited file is detected at the
        end.
        """
        hashed, plain = self._header.hashed(), Output.plain
        count = 0
        blocks = self._reader.records(self._source)
        while True:
            try:
                block = next(blocks)
            except StopIteration as stop:
                trailer: Trailer | None = stop.value
                break
            except LayoutMismatch:
                self._reader = Document()
                blocks = self._reader.records(self._source, skip=count)
                continue
            hashed.update(block.content)
            count += len(block.values)
            for number, value in enumerate(block.values):
                yield plain(value) or Output.from_json(value, what=block.where(number))
        self._finish(count, hashed.hexdigest(), trailer)

    def close(self) -> None:
        """Delete the temporary copy of standard input; does nothing for a file."""
        self._source.close()

    def _finish(self, count: int, sha256: str, trailer: Trailer | None) -> None:
        if trailer and trailer.count != count:
            raise BadData(
                f"{self._source.name}: holds {count_of(count, 'record')} and says {trailer.count!r:.40}",
                hint=HINT_AGAIN,
            )
        if trailer and trailer.sha256 != sha256 and trailer.sha256 != self._exact_digest():
            raise BadData(
                f"{self._source.name}: its content does not fit its sha256: edited or damaged after it was written",
                hint=HINT_AGAIN,
            )
        self.count, self.sha256 = count, trailer.sha256 if trailer else sha256

    def _exact_digest(self) -> str:
        """The digest with each number in canonical form (1e-05 and 0.00001 are the same number)."""
        hashed = self._header.hashed()
        for block in self._reader.records(self._source, exactly=True):
            hashed.update(block.content)
        return hashed.hexdigest()


def open_outputs(path: Path | str) -> OutputsFile:
    """Open an outputs.json in any layout, `.jsonl`, either of them as `.zst`, or `-` for standard input.

    Raises UsageError when there is no such file, BadData when it is not an outputs file or not of this version.
    """
    return outputs_in(open_source(path))


def outputs_in(source: OutputsSource) -> OutputsFile:
    """`open_outputs` for a source that is open already. Raises BadData."""
    return OutputsFile(source, *_read_header(source))


def _read_header(source: OutputsSource) -> tuple[Reader, Header]:
    """The header, and the reader of the records: hybrid's own layout, JSON lines, else any other layout."""
    if source.lines:
        return read_json_lines(source, sure=True)
    for attempt in (read_head, lambda source: read_json_lines(source, sure=False)):
        try:
            return attempt(source)
        except LayoutMismatch:
            continue
    return read_document(source)


def write_outputs(
    path: Path | str,
    run: Mapping[str, Any] | None,
    models: Sequence[Mapping[str, Any]],
    tasks: Mapping[str, Any],
    records: Iterable[Output],
    parts: Path | None = None,
) -> str:
    """Write outputs.json as a stream and return its sha256. The file appears whole or not at all.

    It is made in the folder `parts`, else beside its place. Raises Temporary on a full disk, CannotRun without
    permission, BadData for a record that JSON cannot hold.
    """
    with replacing(Path(path), BEGINS, parts) as stream:
        head = [canonical(run, f"{path}: the run"), canonical(models, f"{path}: the models")]
        stream.write(b'{"format":"%s","version":%d,\n' % (FORMAT.encode(), VERSION))
        stream.write(b'"run":%s,\n"models":%s,\n"tasks":{\n' % (head[0], head[1]))
        hashed = hashlib.sha256(head[0] + b"\n" + head[1] + b"\n")
        for number, task in enumerate(sorted(tasks)):
            where = f"{path}: the task {task!r:.80}"
            name, data = canonical(task, where), canonical(tasks[task], where)
            stream.write(b"%s%s:%s" % (b",\n" if number else b"", name, data))
            hashed.update(b"[%s,%s]\n" % (name, data))
        stream.write(b"\n},\n" if tasks else b"},\n")
        stream.write(b'"records":[\n')
        count = 0
        for count, output in enumerate(records, start=1):
            line = canonical(output.to_json(), f"{path}: the record {output.key!r:.80}")
            stream.write(b",\n" + line if count > 1 else line)
            hashed.update(line)
            hashed.update(b"\n")
        stream.write(b"\n],\n" if count else b"],\n")
        stream.write(b'"count":%d,"sha256":"%s"}\n' % (count, hashed.hexdigest().encode()))
    return hashed.hexdigest()
