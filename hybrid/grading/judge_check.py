"""Measure a grader: its verdicts on rows with known labels, beside rules that need no model.

A row is a JSON object on one line: `question`, `gold` (a text or a list of acceptable ones), `answer`, `correct`, and
`title`, the cluster of the intervals.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid.canonical import Json, decode_once
from hybrid.errors import BadData, UsageError, keys_of
from hybrid.grading import calibration
from hybrid.grading.answers import RULES
from hybrid.grading.grade_file import prepared
from hybrid.grading.references import acceptable
from hybrid.grading.summary import Reasons
from hybrid.machine.files import explain_errors
from hybrid.machine.terminal import count_of
from hybrid.machine.text_files import utf8_stream
from hybrid.plugins.faults import attributed_to
from hybrid.protocols import Grader, OutputGrader, ReadyGrader, Watcher
from hybrid.records import Completion, Grade, Output
from hybrid.statistics.agreement import ConfusionTable, Estimate, accuracy, estimate, kappa
from hybrid.statistics.intervals import ClusteredMean

LONGEST = 1_000_000
"""Bytes of a row, at most."""
FOLDS = 5
ROW = 'a row is {"question": "...", "gold": "...", "answer": "...", "correct": true, "title": "..."}'
FEWEST_ROWS = 30
"""Rows with a verdict that are needed to say what a judge is worth."""
MOST_UNGRADED = 0.2
"""With a larger share of rows without a verdict a judge is not worth running, whatever its kappa."""


@dataclass(frozen=True, slots=True)
class GradedRow:
    """A labelled answer: an output with its question, and whether it is right."""

    output: Output
    correct: bool


class GradedRows:
    """The rows of a JSON Lines file, all with `limit` 0; every iteration starts at the first, and raises BadData."""

    def __init__(self, path: Path, limit: int = 0) -> None:
        self.path, self._limit = path, limit

    def __iter__(self) -> Iterator[GradedRow]:
        return (_row(value, what, number) for value, what, number in rows_in(self.path, self._limit))

    def outputs(self) -> Iterable[Output]:
        """The answers alone; every iteration starts at the first."""
        return _Outputs(self)

    @property
    def sha256(self) -> str:
        return sha256_of(self.path)


def rows_in(path: Path, limit: int = 0) -> Iterator[tuple[Any, str, int]]:
    """The value of each line that is not blank, its place in words, and the number of the line; all with `limit` 0.

    Raises BadData for a line that is no JSON, or longer than LONGEST bytes.
    """
    with explain_errors(path, doing="reading it"), utf8_stream(path.open("rb"), str(path)) as file:
        number = count = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if not line.strip():
                continue
            count += 1
            what = f"{path}: line {number}"
            yield decode_once(line, what=what, limit=LONGEST), what, number
            if count == limit:
                return


def sha256_of(path: Path) -> str:
    """The digest of a file of rows."""
    with explain_errors(path, doing="reading it"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Outputs:
    def __init__(self, rows: GradedRows) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Output]:
        return (row.output for row in self._rows)


def _row(value: Any, what: str, number: int) -> GradedRow:
    if not isinstance(value, dict):
        raise BadData(f"{what}: {keys_of(value)}", hint=ROW)
    question, gold, answer, correct = (value.get(name) for name in ("question", "gold", "answer", "correct"))
    title = str(number if value.get("title") in (None, "") else value["title"])  # else all rows would be one cluster
    for name, right, form in (
        ("question", isinstance(question, str), "a text"),
        ("answer", isinstance(answer, str), "a text"),
        ("correct", isinstance(correct, bool), "true or false"),
        ("gold", gold is not None and bool(acceptable(gold)), "a text, or a list of texts that is not empty"),
    ):
        if not right:
            there = f"'{name}' is not {form}" if name in value else f"has no '{name}', {form}: {keys_of(value)}"
            raise BadData(f"{what}: {there}", hint=ROW)
    key = hashlib.sha256(f"{number}".encode()).hexdigest()
    said: dict[str, Any] = {"text": answer, "reference": gold, "view": {"question": question}}
    said |= {"key": key, "task": title, "question": f"{title}/{number}"}
    return GradedRow(Output.from_json(said, what=what), correct is True)


Measured = tuple[float, bool, str]
"""The measured figure of a row, its label, and its cluster."""


@dataclass
class CheckCounts:
    """The counts of a check: one confusion table for the judge and one for each rule, over rows with a verdict."""

    clusters: dict[str, list[ConfusionTable]] = field(default_factory=dict)
    rows: int = 0
    ungraded: Reasons = field(default_factory=Reasons)
    measured: list[Measured | None] = field(default_factory=list)

    def add(self, row: GradedRow, verdict: bool) -> None:
        """Count one row with a verdict."""
        wanted, answer = acceptable(row.output.reference), row.output.text or ""
        said = [verdict, *(rule(answer, wanted) for rule in RULES.values())]
        own = self.clusters.get(row.output.task) or [ConfusionTable()] * len(said)
        self.clusters[row.output.task] = [
            table.plus(ConfusionTable.of(one, row.correct)) for table, one in zip(own, said, strict=True)
        ]

    def table(self, which: int = 0) -> ConfusionTable:
        """The counts of the judge (0) or of a rule, over all clusters."""
        total = ConfusionTable()
        for own in self.clusters.values():
            total = total.plus(own[which])
        return total


class TimedWatcher:
    """A watcher that passes everything on, and counts and times the model calls."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.calls, self.seconds, self._start = 0, 0.0, 0.0

    def started(self, stage: str, total: int, done: int) -> None:
        self._watcher.started(stage, total, done)

    def working(self) -> None:
        self._start = time.monotonic()
        self._watcher.working()

    def finished_item(self, completion: Completion) -> None:
        self.calls += 1
        self._watcher.finished_item(completion)

    def ended(self) -> None:
        if self._start:
            self.seconds += time.monotonic() - self._start
        self._start = 0.0
        self._watcher.ended()


def check(
    grader: Grader, name: str, rows: GradedRows, watcher: Watcher
) -> tuple[Mapping[str, Json], Mapping[str, Json]]:
    """Grade the rows and compare the verdicts with their labels: (identity, result).

    Raises UsageError for a grader that judges whole questions, BadData when there is no row.
    """
    figure = calibration.calibrates(grader)
    open_threshold = bool(figure) and getattr(grader, "threshold", None) is None
    timed = TimedWatcher(watcher)
    asked: Any = grader.uncalibrated() if open_threshold else grader  # type: ignore[union-attr]
    with prepared(asked, rows.outputs(), timed) as judge:
        if not isinstance(judge, OutputGrader):
            raise UsageError(f"the grader '{name}' judges whole questions: rows of single answers say nothing of it")
        counted = _graded(judge, rows, figure if open_threshold else "")
        about = judge.about() if isinstance(judge, ReadyGrader) else {}
    threshold = _calibrate(counted, rows) if open_threshold else None
    result = {**_result(counted, name), "data": {"file": rows.path.name, "sha256": rows.sha256}, "about": about}
    result["calls"] = {"made": timed.calls, "seconds": round(timed.seconds, 3)}
    if threshold is not None:
        result["threshold"] = threshold
    return calibration.identity(name, grader, about), result


def _graded(judge: OutputGrader, rows: GradedRows, figure: str) -> CheckCounts:
    """Counts of the verdicts; for a grader without a threshold, its measured figures."""
    counted = CheckCounts()
    for row in rows:
        counted.rows += 1
        with attributed_to(judge, f"judging row {counted.rows}"):
            grade = judge.grade(row.output) if row.output.error is None else Grade(None, row.output.error.kind)
        if grade.score is None:
            counted.ungraded.count(grade.reason)
        elif not figure:
            counted.add(row, grade.score >= 0.5)
        if figure:
            value = grade.score
            counted.measured.append(None if value is None else (value, row.correct, row.output.task))
    if not counted.rows:
        raise BadData(f"{rows.path}: holds no row", hint=ROW)
    return counted


def best_threshold(measured: list[Measured]) -> float:
    """The threshold with the highest kappa; of equal ones the highest."""
    rows = sorted(((value, truth) for value, truth, _ in measured), reverse=True)
    right = sum(truth for _, truth in rows)
    table = ConfusionTable(0, 0, right, len(rows) - right)
    best, chosen = -2.0, 1.0
    for place, (value, truth) in enumerate(rows):
        table = ConfusionTable(
            table.true_right + truth, table.false_right + (not truth),
            table.false_wrong - truth, table.true_wrong - (not truth),
        )  # fmt: skip
        last = place + 1 == len(rows) or rows[place + 1][0] != value
        if last and (now := kappa(table)) > best:
            best, chosen = now, value
    return chosen


def _calibrate(counted: CheckCounts, rows: GradedRows) -> float:
    """The best threshold of all rows. The counted verdicts are cross-validated: thresholds come from other folds."""
    measured = [one for one in counted.measured if one is not None]
    if not measured:
        raise BadData(f"{rows.path}: nothing could be measured: {dict(counted.ungraded.counts)}")
    folds: dict[int, list[Measured]] = {}
    for one in measured:
        folds.setdefault(_fold(one[2]), []).append(one)
    limits = {
        fold: best_threshold([one for other, part in folds.items() if other != fold for one in part] or mine)
        for fold, mine in folds.items()
    }
    for row, found in zip(rows, counted.measured, strict=True):
        if found is not None:
            counted.add(row, found[0] >= limits[_fold(found[2])])
    return best_threshold(measured)


def _fold(cluster: str) -> int:
    return hashlib.sha256(cluster.encode()).digest()[0] % FOLDS


def _result(counted: CheckCounts, name: str) -> dict[str, Any]:
    graded = int(counted.table().n)
    result: dict[str, Any] = {"rows": counted.rows, "graded": graded, "ungraded": counted.ungraded.summary()}
    if not graded:
        return {**result, "worth": f"'{name}' gave no verdict at all: it cannot be used"}
    right = {rule: _measures(counted, which) for which, rule in enumerate(RULES, start=1)}
    best = max(RULES, key=lambda rule: right[rule]["kappa"][0])
    which = list(RULES).index(best) + 1
    gain = estimate(counted.clusters, lambda tables: kappa(tables[0]) - kappa(tables[which]))
    mine = _measures(counted, 0)
    told = worth(name, (counted.rows, graded), mine["kappa"][0], best, right[best]["kappa"][0], gain)
    return {**result, **mine, "rules": right, "best_rule": best, "gain": list(gain), "worth": told}


def _measures(counted: CheckCounts, which: int) -> dict[str, Any]:
    """Counts, accuracy and kappa with intervals, and both error rates (None without such rows)."""
    table = counted.table(which)
    right, wrong = table.true_right + table.false_wrong, table.true_wrong + table.false_right
    return {
        "table": {name: int(value) for name, value in table._asdict().items()},
        "accuracy": _accuracy(counted, which),
        "kappa": list(estimate(counted.clusters, lambda tables: kappa(tables[which]))),
        "right_called_wrong": table.false_wrong / right if right else None,
        "wrong_called_right": table.false_right / wrong if wrong else None,
    }


def _accuracy(counted: CheckCounts, which: int) -> list[float]:
    """Accuracy with a clustered Wilson interval."""
    share = ClusteredMean()
    for name, own in counted.clusters.items():
        table = own[which]
        for same in (True, False):
            for _ in range(int(table.true_right + table.true_wrong if same else table.false_right + table.false_wrong)):
                share.add(name, float(same))
    interval = share.interval() or (0.0, 1.0)
    return [accuracy(counted.table(which)), *interval]


def worth(name: str, rows: tuple[int, int], kappa: float, best: str, other: float, gain: Estimate) -> str:
    """Whether the judge is worth running, as a sentence; `rows` are all of them and those with a verdict."""
    given, graded = rows
    known = f"kappa {kappa:.2f} against {other:.2f} of the rule '{best}', which needs no model"
    by = f"{gain.value:+.2f}, 95 % interval {gain.low:+.2f} to {gain.high:+.2f}"
    if 1 - graded / given > MOST_UNGRADED:
        silent = 100 * (1 - graded / given)
        return f"'{name}' is not worth running: {silent:.0f} % of the rows got no verdict ({known} on the rest)"
    if graded < FEWEST_ROWS:
        return f"whether '{name}' is worth running cannot be told from {count_of(graded, 'row')}: {known}"
    if gain.low > 0:
        return f"'{name}' is worth running: {known} ({by})"
    if gain.high < 0:
        return f"'{name}' is not worth running: {known} ({by})"
    return f"whether '{name}' is worth running cannot be told from {count_of(given, 'row')}: {known} ({by})"
