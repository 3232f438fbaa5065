"""Tasks in files: the small ones of GLUE, in whatever of its layouts, and one's own. Nothing is shipped.

Rows of the train set that stand twice, or stand in the dev set, are left out and counted. Without a dev set, a fifth of
the texts is the dev set, chosen by a hash of the text, so that equal texts are on one side. docs/atlas.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from hybrid.errors import BadData, CannotRun, UsageError, listed, nearest
from hybrid.machine.late_imports import import_object
from pipelines.atlas.generated import TASKS
from pipelines.atlas.tables import ENDINGS, Table, read_table
from pipelines.atlas.task_data import Metric, Row, TaskData

MOST_LABELS = 100
TRAIN = ("train",)
DEV = ("dev", "validation", "val", "test_labelled", "test")
"""How the files of a task are named, the first that is there first."""
FIFTHS = 5

LONGEST_LABEL = 100  # characters


class Columns(NamedTuple):
    """Names of columns, of each the first that a file has. `headerless`: all those of a file without a header.

    `named`: by the setting `columns`, so that one which is not there is a wrong setting.
    """

    text: Sequence[str]
    pair: Sequence[str]
    label: Sequence[str] = ("label",)
    headerless: Sequence[str] = ()
    pair_optional: bool = False
    named: bool = False


OWN = Columns(
    ("text", "sentence", "sentence1", "content", "review"),
    ("pair", "text_pair", "text2", "sentence2"),
    ("label", "class", "target"),
    pair_optional=True,
)


@dataclass(frozen=True, slots=True)
class GlueTask:
    """A task of GLUE, with its labels as the hub numbers them, and the rows that GLUE has to train on."""

    columns: Columns
    labels: tuple[str, str]
    metric: Metric
    rows: int


ENTAILED = "entailment", "not_entailment"

GLUE: Mapping[str, GlueTask] = {
    "sst2": GlueTask(Columns(("sentence", "content"), ()), ("negative", "positive"), "accuracy", 67_349),
    "mrpc": GlueTask(
        Columns(("sentence1", "#1 String"), ("sentence2", "#2 String"), ("label", "Quality")),
        ("not_equivalent", "equivalent"),
        "f1",
        3_668,
    ),
    "cola": GlueTask(
        Columns(("sentence",), (), headerless=("source", "label", "mark", "sentence")),
        ("unacceptable", "acceptable"),
        "mcc",
        8_551,
    ),
    "qnli": GlueTask(Columns(("question",), ("sentence",)), ENTAILED, "accuracy", 104_743),
    "rte": GlueTask(Columns(("sentence1",), ("sentence2",)), ENTAILED, "accuracy", 2_490),
}


class _Read(NamedTuple):
    """A row as it stands in a file, its label as a text, and its line in the file."""

    text: str
    pair: str | None
    label: str
    place: str


def read(name: str, data: str = "", columns: Sequence[str] = (), *, train: int = 0, dev: int = 0) -> TaskData:
    """A task of GLUE, whose files are in the folder `data`, or that of one's own file or folder `name`.

    `columns`: of one's own file, the text, perhaps the second text, and the label. At most `train` and `dev` rows are
    taken, drawn at random with a fixed seed; 0: all. Raises UsageError for a name that is neither and for
    `columns` that a file lacks, CannotRun for what cannot be read, BadData for what is in a file.
    """
    glue = GLUE.get(name)
    if glue:
        rows, tests, source = _glue_files(name, data, glue) if data else _hub(name, glue)
    else:
        rows, tests, source = _own(Path(name), _own_columns(columns))
    if not tests:
        rows, tests = _parted(name, rows)
        source += "; a fifth of its texts, by hash, are the dev set"
    labels = glue.labels if glue else _labels([*rows, *tests])
    numbered = [_numbered(row, labels) for row in tests]
    learned, left_out = _distinct([_numbered(row, labels) for row in rows], numbered)
    _check_labels(name, learned, labels, left_out[1])
    chosen = _drawn(learned, train, "train"), _drawn(numbered, dev, "dev")
    return TaskData(task_name(name), *chosen, labels, glue.metric if glue else "accuracy", source, *left_out)


def _own_columns(names: Sequence[str]) -> Columns:
    if len(names) not in (0, 2, 3):
        raise UsageError(
            f"columns={','.join(names)}: {len(names)} names", hint="text and label, or text, second text and label"
        )
    return Columns(names[:1], names[1:-1], names[-1:], named=True) if names else OWN


def task_name(name: str) -> str:
    """What a task is called in results: the name of a file without its folder and ending, and without `train`."""
    if name in GLUE:
        return name
    path = Path(name)
    stem = path.stem if path.suffix.lower() in ENDINGS else path.name
    for part in TRAIN:
        shorter = stem[: -len(part)].rstrip("_-. ") if stem.lower().endswith(part) else stem
        stem = shorter or path.absolute().parent.name
    return stem[:60] or "task"


def _glue_files(name: str, data: str, task: GlueTask) -> tuple[list[_Read], list[_Read], str]:
    folder = Path(data)
    if not folder.is_dir():
        raise UsageError(f"{data}: not a folder", hint="data=FOLDER names the folder with the files of GLUE")
    places = [folder, *(one for one in _entries(folder) if one.is_dir() and _plain(one.name) == name)]
    files = [path for place in places for path in _entries(place) if path.suffix.lower() in ENDINGS]
    own = [path for path in files if path.parent != folder or _plain(path.stem).startswith(name)]
    learned, tests = _train_file(own), _part(own, DEV)
    if learned is None:
        learned, tests = tests, None
    if learned is None:
        raise CannotRun(
            f"{data}: no file of {name} in it; there are {listed(one.name for one in files) or 'no files of a task'}",
            hint=f"such as {name}_train.tsv and {name}_dev.tsv, or {name}/train.tsv",
        )
    rows, found, source = _both(learned, tests, task.columns)
    if tests and len(rows) != task.rows:
        source += f"; GLUE has {task.rows:,} to train on"
    return rows, found, source


def _both(learned: Path, tests: Path | None, columns: Columns) -> tuple[list[_Read], list[_Read], str]:
    """The rows of the train and the dev file, and where they came from."""
    rows = _rows(learned, columns)
    source = f"{learned.name}, {len(rows):,} rows"
    if tests is None:
        return rows, [], source
    found = _rows(tests, columns)
    return rows, found, f"{source}; {tests.name}, {len(found):,} rows"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise CannotRun(f"{folder}: cannot be read: {error.strerror}") from error


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _part(files: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The file of a part: the first whose stem ends with the first of `names` that one ends with."""
    return next((path for name in names for path in files if path.stem.lower().endswith(name)), None)


def _train_file(files: Sequence[Path]) -> Path | None:
    """The first train file, or that of its folder with the shortest name, since the folder of MRPC has `train.tsv` and
    `msr_paraphrase_train.txt`, which holds the dev set, too.
    """
    first = _part(files, TRAIN)
    beside = [path for path in files if first and path.parent == first.parent and path.stem.lower().endswith(TRAIN)]
    return min(beside, key=lambda path: len(path.stem), default=None)


def _own(path: Path, columns: Columns) -> tuple[list[_Read], list[_Read], str]:
    learned: Path | None = path
    tests = None
    if path.is_dir():
        files = [one for one in _entries(path) if one.suffix.lower() in ENDINGS]
        learned, tests = _train_file(files), _part(files, DEV)
    elif not path.is_file():
        raise _nowhere(path)
    elif path.stem.lower().endswith(TRAIN):
        begin = path.stem[: -len(TRAIN[0])].lower()
        others = [one for one in _entries(path.parent) if one.suffix.lower() == path.suffix.lower()]
        tests = next((one for part in DEV for one in others if one.stem.lower() == begin + part), None)
    if learned is None:
        raise CannotRun(f"{path}: no file in it whose name ends with train", hint="such as train.csv and dev.csv")
    return _both(learned, tests, columns)


def _nowhere(path: Path) -> UsageError:
    """What is neither a task nor a file: a misspelt name of a task, or a file that is not there."""
    endings = ", ".join(ENDINGS)
    if path.suffix.lower() in ENDINGS or len(path.parts) > 1:
        return UsageError(f"{path}: no such file or folder", hint=f"files of a task end in {endings}")
    known = nearest(str(path), {*GLUE, *TASKS})
    return UsageError(f"{path}: neither a task nor a file", hint=f"{known}, and files that end in {endings}")


def _rows(path: Path, columns: Columns) -> list[_Read]:
    table = read_table(path, columns.headerless)
    fault = UsageError if columns.named else BadData
    first, target = _needed(table, columns.text, fault), _needed(table, columns.label, fault)
    second = table.column(columns.pair)
    if columns.pair and not columns.pair_optional:
        second = _needed(table, columns.pair, fault)
    found = []
    for line, cells in table.rows:
        row = _Read(
            cells[first].strip(),
            None if second is None else cells[second].strip(),
            cells[target].strip(),
            f"{path}: line {line}",
        )
        if not row.text or row.pair == "":
            empty = table.columns[first if not row.text else second or 0]
            raise BadData(f"{row.place}: no text in {empty!r}", hint="write one, or delete the line")
        if not 0 < len(row.label) <= LONGEST_LABEL:
            raise BadData(
                f"{row.place}: {table.columns[target]!r} has no label of 1 to {LONGEST_LABEL} characters",
                hint="write one, or delete the line; a test set without labels is of no use",
            )
        found.append(row)
    return found


def _needed(table: Table, names: Sequence[str], fault: type[UsageError | BadData]) -> int:
    place = table.column(names)
    if place is None:
        raise fault(
            f"{table.path}: no column {' or '.join(map(repr, names))}; there are {listed(table.columns)}",
            hint="columns=TEXT,LABEL names those of a file of your own; a test set without labels is of no use",
        )
    return place


def _hub(name: str, task: GlueTask) -> tuple[list[_Read], list[_Read], str]:
    hint = "data=FOLDER names the folder with its files"
    try:
        load = import_object("datasets:load_dataset", needed_for=name)
    except ModuleNotFoundError as error:
        raise CannotRun(
            f"{name}: no file is named, and `datasets` is not installed", hint=f"{hint}; or install `datasets`"
        ) from error
    try:
        parts = load("nyu-mll/glue", name)
    except (OSError, ValueError, RuntimeError) as error:
        raise CannotRun(f"{name}: `datasets` could not load it: {error}", hint=hint) from error
    rows, tests = (_of_hub(parts[part], task.columns, f"{name}, {part}") for part in ("train", "validation"))
    return rows, tests, f"nyu-mll/glue, {len(rows):,} and {len(tests):,} rows"


def _of_hub(rows: Iterable[Mapping[str, Any]], columns: Columns, what: str) -> list[_Read]:
    return [
        _Read(
            row[columns.text[0]].strip(),
            row[columns.pair[0]].strip() if columns.pair else None,
            str(row["label"]),
            f"{what}: row {number}",
        )
        for number, row in enumerate(rows, 1)
    ]


def _parted(name: str, rows: Sequence[_Read]) -> tuple[list[_Read], list[_Read]]:
    """Rows to train on, and those whose text has a hash in the last fifth."""
    parts: tuple[list[_Read], list[_Read]] = [], []
    for row in rows:
        parts[hashlib.sha256(row.text.encode()).digest()[0] * FIFTHS >= 256 * (FIFTHS - 1)].append(row)
    if not all(parts):
        raise BadData(f"{name}: {len(rows)} rows are too few to part", hint="name a train and a dev file, or more rows")
    return parts


def _labels(rows: Sequence[_Read]) -> tuple[str, ...]:
    """The labels of one's own file: numbers in their order, or else texts in theirs."""
    found = {row.label for row in rows}
    if len(found) > MOST_LABELS:
        raise BadData(f"{rows[0].place.rpartition(':')[0]}: more than {MOST_LABELS} labels, such as {listed(found)}")
    try:
        return tuple(sorted(found, key=float))
    except ValueError:
        return tuple(sorted(found))


def _numbered(row: _Read, labels: Sequence[str]) -> Row:
    """The row with the number of its label, which stands there as a name or as a number."""
    if row.label in labels:
        return Row(row.text, row.pair, labels.index(row.label))
    if row.label in map(str, range(len(labels))):
        return Row(row.text, row.pair, int(row.label))
    hint = "the labels of a test set are secret: name a train and a dev set" if row.label in ("-1", "") else ""
    raise BadData(f"{row.place}: the label {row.label!r:.60} is none of {listed(labels)}", hint=hint)


def _distinct(rows: Sequence[Row], tests: Sequence[Row]) -> tuple[list[Row], tuple[int, int]]:
    """The rows to train on without repeats and without those of the dev set; how many were the one and the other."""
    known = {(row.text, row.pair) for row in tests}
    kept: dict[tuple[str, str | None], Row] = {}
    overlaps = 0
    for row in rows:
        key = (row.text, row.pair)
        overlaps += key in known
        if key not in known:
            kept.setdefault(key, row)
    return list(kept.values()), (len(rows) - overlaps - len(kept), overlaps)


def _check_labels(name: str, rows: Sequence[Row], labels: Sequence[str], overlaps: int) -> None:
    found = {row.label for row in rows}
    if len(found) < 2:
        only = f"only the label {labels[found.pop()]!r}" if found else "no row"
        in_dev = f"name another train file: all its rows ({overlaps:,}) stand in the dev set"
        hint = "a task has two labels or more" if found or not overlaps else in_dev
        raise BadData(f"{name}: {only} to train on: nothing can be learned", hint=hint)


def _drawn(rows: list[Row], most: int, key: str) -> list[Row]:
    """`rows` in an order of no meaning, since files may be sorted; at most `most`, 0: all."""
    return Random(f"drawn {key}").sample(rows, min(most or len(rows), len(rows)))
