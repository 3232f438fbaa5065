"""Measure a judge of criteria or pairs: its verdicts on rows with known labels, beside rules that need no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from hybrid.canonical import Json
from hybrid.errors import BadData, keys_of
from hybrid.grading import calibration
from hybrid.grading.grade_file import prepared
from hybrid.grading.judge_check import TimedWatcher, rows_in, sha256_of, worth
from hybrid.grading.summary import Reasons
from hybrid.protocols import ModelGrader, Watcher
from hybrid.records import Output, Question
from hybrid.statistics.agreement import Crosstab, estimate, label_kappa
from hybrid.statistics.intervals import ClusteredMean


@dataclass(frozen=True, slots=True)
class KindOfError:
    """A way to be wrong: rows whose label it can happen to, and whether it has (what was said, the truth)."""

    name: str
    can: Callable[[int], bool]
    has: Callable[[int, int], bool]


@dataclass(frozen=True, slots=True)
class LabelScale:
    """Labels in their order, `weighted` when farther ones are worse; rules that label a row without a model."""

    labels: tuple[str, ...]
    weighted: bool
    rules: Mapping[str, Callable[[Question], int]]
    errors: tuple[KindOfError, ...]


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """What is judged, on which scale, and the place of the right label on it."""

    question: Question
    scale: str
    label: int


@runtime_checkable
class JudgesLabels(Protocol):
    """A grader that is checked on rows with labels of its own."""

    scales: ClassVar[Mapping[str, LabelScale]]
    sample: ClassVar[str]
    """The file in the package `graders` that comes along."""
    row: ClassVar[str]
    """What a row looks like."""

    def labelled(self, value: Mapping[str, Any], task: str, number: int) -> LabelledRow:
        """The row in a JSON object, of the cluster `task`. Raises ValueError, which says what is wrong."""
        ...

    def of_rows(self) -> ModelGrader:
        """The grader for what `labelled` gives; when it is ready it is a `GivesLabels`."""
        ...


@runtime_checkable
class GivesLabels(Protocol):
    """A grader that knows all that it needs from its model."""

    def label_of(self, question: Question) -> int | str:
        """The place of the label that it gives a row, or why it gives none."""
        ...

    def about(self) -> Mapping[str, Json]:
        """As of a `ReadyGrader`."""
        ...


class LabelledRows:
    """The rows of a JSON Lines file, all with `limit` 0; every iteration starts at the first, and raises BadData."""

    def __init__(self, grader: JudgesLabels, path: Path, limit: int = 0) -> None:
        self._grader, self._limit, self.path = grader, limit, path

    def __iter__(self) -> Iterator[LabelledRow]:
        for value, what, number in rows_in(self.path, self._limit):
            if not isinstance(value, dict):
                raise BadData(f"{what}: {keys_of(value)}", hint=self._grader.row)
            title = value.get("title")
            task = str(number if title in (None, "") else title)  # else all rows would be one cluster
            try:
                yield self._grader.labelled(value, task, number)
            except ValueError as error:
                raise BadData(f"{what}: {error}: {keys_of(value)}", hint=self._grader.row) from error


class _Outputs:
    def __init__(self, rows: LabelledRows) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Output]:
        return (output for row in self._rows for output in row.question.outputs)


@dataclass(slots=True)
class ScaleCounts:
    """Of one scale: a table for the judge and one for each rule, by cluster, over rows with a verdict."""

    scale: LabelScale
    rows: int = 0
    clusters: dict[str, list[Crosstab]] = field(default_factory=dict)

    def add(self, row: LabelledRow, said: int) -> None:
        """Count one row with a verdict."""
        size, task = len(self.scale.labels), row.question.task
        given = [said, *(rule(row.question) for rule in self.scale.rules.values())]
        own = self.clusters.get(task) or [Crosstab.empty(size)] * len(given)
        self.clusters[task] = [
            table.plus(Crosstab.of(size, one, row.label)) for table, one in zip(own, given, strict=True)
        ]

    def table(self, which: int) -> Crosstab:
        """The counts of the judge (0) or of a rule, over all clusters."""
        total = Crosstab.empty(len(self.scale.labels))
        for own in self.clusters.values():
            total = total.plus(own[which])
        return total


def check_labels(
    grader: Any, name: str, data: Path, limit: int, watcher: Watcher
) -> tuple[Mapping[str, Json], Mapping[str, Json]]:
    """Judge the rows of a file and compare the verdicts with their labels: (identity, result). Raises BadData."""
    rows, timed = LabelledRows(grader, data, limit), TimedWatcher(watcher)
    counted = {scale: ScaleCounts(one) for scale, one in grader.scales.items()}
    ungraded = Reasons()
    if next(iter(rows), None) is None:
        raise BadData(f"{data}: holds no row", hint=grader.row)
    with prepared(grader.of_rows(), _Outputs(rows), timed) as judge:
        if not isinstance(judge, GivesLabels):
            raise TypeError(f"{type(judge).__name__} gives no labels")
        for row in rows:
            own = counted[row.scale]
            own.rows += 1
            said = judge.label_of(row.question)
            if isinstance(said, str):
                ungraded.count(said)
            else:
                own.add(row, said)
        about = judge.about()
    scales = {scale: _result(one, name) for scale, one in counted.items() if one.rows}
    given = sum(one.rows for one in counted.values())
    result: dict[str, Any] = {"rows": given, "graded": given - sum(ungraded.counts.values()), "scales": scales}
    result |= {"ungraded": ungraded.summary(), "data": {"file": data.name, "sha256": sha256_of(data)}, "about": about}
    result |= {"calls": {"made": timed.calls, "seconds": round(timed.seconds, 3)}}
    result["worth"] = "; ".join(str(one["worth"]) for one in scales.values())
    return calibration.identity(name, grader, about), result


def _result(counted: ScaleCounts, name: str) -> Mapping[str, Json]:
    rules = list(counted.scale.rules)
    graded = counted.table(0).n if counted.clusters else 0
    result: dict[str, Any] = {"rows": counted.rows, "graded": graded, "labels": list(counted.scale.labels)}
    if not graded:
        none: dict[str, Any] = dict.fromkeys(("accuracy", "kappa", "errors"))
        return {**result, **none, "worth": f"'{name}' gave no verdict at all: it cannot be used"}
    measured = [_measures(counted, which) for which in range(len(rules) + 1)]
    mine, of_rules = measured[0], dict(zip(rules, measured[1:], strict=True))
    best = max(rules, key=lambda rule: of_rules[rule]["kappa"][0])
    which, weighted = rules.index(best) + 1, counted.scale.weighted

    def ahead(tables: Sequence[Crosstab]) -> float:
        return label_kappa(tables[0], weighted=weighted) - label_kappa(tables[which], weighted=weighted)

    gain = estimate(counted.clusters, ahead)
    told = worth(name, (counted.rows, graded), mine["kappa"][0], best, of_rules[best]["kappa"][0], gain)
    result |= {**mine, "weighted": weighted, "rules": of_rules, "best_rule": best, "gain": list(gain)}
    return {**result, "worth": told}


def _measures(counted: ScaleCounts, which: int) -> dict[str, Any]:
    """Counts, accuracy and kappa with intervals, and the share of each kind of error (None without such rows)."""
    scale, table = counted.scale, counted.table(which)

    def kappa(tables: Sequence[Crosstab]) -> float:
        return label_kappa(tables[which], weighted=scale.weighted)

    share = ClusteredMean()
    for own in counted.clusters.values():
        share.add_cluster(own[which].n, float(own[which].agreed))
    return {
        "table": list(table.counts),
        "accuracy": [share.mean, *(share.interval() or (0.0, 1.0))],
        "kappa": list(estimate(counted.clusters, kappa)),
        "errors": {kind.name: _share(kind, table) for kind in scale.errors},
    }


def _share(kind: KindOfError, table: Crosstab) -> float | None:
    possible = sum(count for _, truth, count in table.cells() if kind.can(truth))
    found = sum(count for said, truth, count in table.cells() if kind.can(truth) and kind.has(said, truth))
    return found / possible if possible else None
