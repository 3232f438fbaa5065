"""Reads the prompts in a table or a folder of text files, row by row; bad rows are refused, or told and left out."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.canonical import MAX_RECORD, Json, encode
from hybrid.errors import BadData, UsageError
from hybrid.machine.files import explain_errors
from hybrid.machine.terminal import clean_line, count_of
from hybrid.machine.text_files import read_text_file, utf8
from hybrid.rows import Row, read_rows, unit_of
from pipelines.prompts.batches import is_batch, unpacked
from pipelines.prompts.columns import OF_BATCHES, Columns, SeenColumns
from pipelines.prompts.row import BadRow, Prompt, prompt_of, text_of
from pipelines.prompts.template import cell_text

LOG = logging.getLogger("hybrid")
MOST_TOLD = 5
"""Bad rows that are told one by one."""
MOST_FILES = 100_000
PROMPTS = frozenset({"prompt", "messages"})
"""Fields of which a row needs one."""
HINT = "correct it; or keep the good rows: --set skip_bad=true"


class Table:
    """The prompts at `path`.

    `shown` are the columns that templates show: a row needs a cell in each. Without `needs_prompt` a template makes the
    prompt. `check` raises BadRow for a prompt that cannot be asked. With `skip_bad` the bad rows are left out, counted
    by their reasons in `left_out`.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        shown: Sequence[str],
        check: Callable[[Prompt], object],
        *,
        needs_prompt: bool,
        skip_bad: bool,
    ) -> None:
        self.path, self._columns, self._shown, self._check = path, columns, shown, check
        self._needs_prompt, self._skip_bad = needs_prompt, skip_bad
        self._seen = SeenColumns(str(path))
        self._names: dict[str, str] = {}  # question -> place of its row
        self.left_out: Counter[str] = Counter()

    def prompts(self) -> Iterator[Prompt]:
        """The prompts in the order of the table; each has an id. Raises HybridError."""
        rows = read_files(self.path, self._bad) if self.path.is_dir() else read_rows(self.path, bad=self._bad_number)
        for row in rows:
            self._seen.add(row.values)
            try:
                yield self._prompt(row)
            except BadRow as error:
                self._bad(row.place, str(error))
        self._refuse_unread()

    def _prompt(self, row: Row) -> Prompt:
        """The prompt of a row. Raises BadRow, and UsageError for a column that no row so far has."""
        prompt = prompt_of(self._fields(row.values), self._cells(row.values))
        if self._needs_prompt and "messages" not in prompt.asked:
            raise self._without(row)
        named = Prompt(prompt.id or f"{row.number:05d}", prompt.group, prompt.reference, prompt.asked)
        self._check(named)
        first = self._names.setdefault(named.question, row.place)
        if first != row.place:
            raise BadRow(f"the id {named.id!r:.80} is that of {first}, too")
        return named

    def _fields(self, values: Mapping[str, Json]) -> dict[str, Any]:
        if not is_batch(values):
            return self._columns.read(values)
        body = unpacked(values)
        return self._columns.read(body) | {name: body[name] for name in OF_BATCHES if name in body}

    def _cells(self, values: Mapping[str, Json]) -> dict[str, str]:
        """What templates show of a row."""
        self._seen.refuse_unknown(self._shown)
        if missing := next((name for name in self._shown if values.get(name) is None), ""):
            raise BadRow(f"its column {missing!r:.80} is empty, and the template shows it")
        return {name: text_of(cell_text(values[name]), name) for name in self._shown}

    def _without(self, row: Row) -> Exception:
        """What is raised for a row without a prompt."""
        self._seen.refuse_unknown(self._columns.of[field] for field in sorted(self._columns.renamed & PROMPTS))
        wanted = [self._columns.of[field] for field in PROMPTS]
        if not any(name in row.values for name in wanted) and not is_batch(row.values) and len(self._names) == 0:
            return UsageError(
                f"{self.path}, {row.place}: no prompt; its columns are {self._seen.listed()}",
                hint="--set columns=prompt:COLUMN names its column, --set template='... {COLUMN}' makes it of columns",
            )
        return BadRow("no prompt")

    def _bad_number(self, number: int, reason: str) -> None:
        self._bad(f"{unit_of(self.path)} {number:,}", reason)

    def _bad(self, place: str, reason: str) -> None:
        """Leave a row out, or raise BadData."""
        if not self._skip_bad:
            raise BadData(f"{self.path}, {place}: {reason}", hint=HINT)
        if self.left_out.total() < MOST_TOLD:
            LOG.warning("left out: %s", clean_line(f"{self.path}, {place}: {reason}", 500))
        self.left_out[reason if len(self.left_out) < MOST_TOLD or reason in self.left_out else "others"] += 1

    def tell_left_out(self, kept: int) -> None:
        """Say how many rows were left out, beside how many were kept."""
        if left := self.left_out.total():
            LOG.warning("%s: %s left out, %s kept", self.path, count_of(left, "bad row"), f"{kept:,}")

    def _refuse_unread(self) -> None:
        """Raise for columns that no row has, and when there is no prompt."""
        self._seen.refuse_unknown(self._columns.of[field] for field in sorted(self._columns.renamed))
        if not self._names:
            left = f": {count_of(self.left_out.total(), 'bad row')} left out" if self.left_out else ""
            raise BadData(f"{self.path}: no prompt in it{left}", hint="docs/prompts.md shows what is read")


def read_files(folder: Path, bad: Callable[[str, str], None]) -> Iterator[Row]:
    """A row for each text file below the folder, by name: the file's is the id. Hidden files and links are passed over.

    `bad` is told of what is no text: the file, and why. Raises CannotRun for what cannot be read.
    """
    for number, path in enumerate(_files(folder), start=1):
        name = path.relative_to(folder).as_posix()
        try:
            text = utf8(read_text_file(path, MAX_RECORD, ""), name).decode()
        except BadData as error:
            bad(f"file {number:,}", error.message)
            continue
        yield Row(number, {"id": name, "prompt": text.rstrip("\n")})


def _files(folder: Path) -> list[Path]:
    """The text files below the folder, by name. Raises BadData for too many."""
    with explain_errors(folder, doing="listing it"):
        files = sorted(path for path in folder.rglob("*") if _is_prompt(path, folder))
    if len(files) > MOST_FILES:
        raise BadData(f"{folder}: {len(files):,} files, more than the {MOST_FILES:,} allowed")
    return files


def _is_prompt(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and not path.is_symlink() and path.is_file()


def provenance(path: Path) -> dict[str, str]:
    """Name -> sha256 of the file, of a folder that of all names and contents."""
    with explain_errors(path, doing="reading it"):
        if path.is_file():
            return {path.name: _digest(path)}
        found = {one.relative_to(path).as_posix(): _digest(one) for one in _files(path)}
        return {path.name: hashlib.sha256(encode(dict(found))).hexdigest()}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
