"""Files beside outputs.json in the form of the guide: a JSON file per experiment, and tables of results and of tests.

What is not measured is null or an empty cell. Times and memory are those of the machine that computed a round, beside
its record: without them the same run gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from hybrid.metrics import UNKNOWN, UNTESTED
from hybrid.records import Output
from hybrid.statistics.paired import PairedComparison, holm
from pipelines.atlas.comparison import (
    ACCURACY,
    CONTROLS,
    F1,
    MAJORITY,
    MCC,
    MEGABYTE,
    TENTH,
    TRAFFIC,
    WORST,
    Comparison,
)
from pipelines.atlas.results import SeriesResult, read_series

MOST_FILES = 60
"""Series that get a JSON file of their own; all are in the tables."""
DIGITS = 6
LONGEST_NAME = 1000  # characters of the model's
SUMMARY = (
    "Experiment", "Task", "Model", "LoRA", "Rounds", "Final Accuracy", "Final Loss", "Time (min)", "Avg Memory (MB)",
    "Avg Comm (MB)", "Method", "Seed", "Most frequent label", "F1", "MCC", "Worst client", "10th percentile",
    "Total Comm (MB)", "Compared",
)  # fmt: skip
"""The guide's columns, then those that it lacks."""
TESTS = (
    "Method", "Control", "Seeds", "Mean difference", "95 % low", "95 % high", "t", "p (paired t)", "p (Holm)",
    "p (Wilcoxon)", "least p of Wilcoxon", "bootstrap low", "bootstrap high", "Cohen's d", "Verdict", "Caveat",
)  # fmt: skip

Cell = str | float | int | None


def pages(tasks: Mapping[str, Any], outputs: Iterable[Output], models: Sequence[str]) -> Mapping[str, str]:
    """The files of a run: name -> text. `tasks` are those of the run, which say what the data are; `models` are named
    as outputs.json names them, several where workers had different ones.
    """
    model = ", ".join(models)[:LONGEST_NAME] or None
    data = tasks.get("data")
    named = data.get("tasks") if isinstance(data, Mapping) else None
    known: Mapping[str, Any] = named if isinstance(named, Mapping) else {}
    metrics = {str(name): str(one.get("metric", "")) for name, one in known.items() if isinstance(one, Mapping)}
    comparison = Comparison(read_series(outputs), _same_as(tasks), metrics)
    names = {one.name: _experiment(place, one) for place, one in enumerate(comparison.series, start=1)}
    experiments = {
        f"{names[one.name]}.json": _experiment_json(names[one.name], one, list(known), comparison, model)
        for one in comparison.series[:MOST_FILES]
    }
    return {
        "experiment_summary.csv": _table(
            SUMMARY, [_summary(names[one.name], one, list(known), comparison, model) for one in comparison.series]
        ),
        "statistical_tests.csv": _table(TESTS, _tests(comparison)),
        **experiments,
    }


def _same_as(tasks: Mapping[str, Any]) -> dict[str, str]:
    """Methods that are the same as others at the run's settings, as its series say it."""
    series = [one for one in tasks.values() if isinstance(one, Mapping)]
    return {str(one["method"]): str(one["same_as"]) for one in series if one.get("same_as") and "method" in one}


def _experiment(place: int, one: SeriesResult) -> str:
    return f"exp{place}_{one.method.replace('-', '_')}_seed{one.seed}"[:41]


def _experiment_json(
    name: str, one: SeriesResult, tasks: Sequence[str], comparison: Comparison, model: str | None
) -> str:
    """An experiment with the guide's keys. The first line is constant, so that the file is known again."""
    spent = [0.0, *one.spent().values()]
    sent = [after - before for before, after in pairwise(spent)]
    rounds = [
        {
            "round": number + 1, "accuracy": metrics.get("accuracy"), "loss": metrics.get("loss"),
            "train_loss": metrics.get("train_loss"), "time_seconds": one.costs.get(number, {}).get("round_seconds"),
            "memory_mb": _megabytes(one.costs.get(number, {}).get("peak_bytes")),
            "communication_mb": round(sent[place] / MEGABYTE, DIGITS) if place < len(sent) else None,
            **({"virtual_seconds": metrics["virtual_seconds"]} if "virtual_seconds" in metrics else {}),
        }
        for place, (number, metrics) in enumerate(sorted(one.rounds.items()))
    ]  # fmt: skip
    value = {
        "experiment_name": name, "model_name": model, "task_name": ", ".join(tasks), "num_rounds": one.records,
        "num_clients": len(one.clients), "use_lora": one.method != "fedavg", "lora_rank": _rank(one),
        "total_time_minutes": _minutes(one), "final_accuracy": _of(one, "dev_accuracy"),
        "final_loss": _of(one, "dev_loss"),
        "method": one.method, "seed": one.seed, "majority_accuracy": _of(one, "dev_majority"),
        "not_compared": comparison.void.get(one.name),
        "notes": (
            "accuracy and loss of a round: on clients' own held-out rows; the final ones: on the tasks' dev rows; "
            "communication_mb are the files sent and fetched, both ways; time_seconds and memory_mb: of the machine "
            "that trained all clients side by side; virtual_seconds: "
            "of the devices"
        ),
        "round_results": rounds,
    }  # fmt: skip
    body = json.dumps(value, indent=1, ensure_ascii=True)
    return f'{{"made_by": "hybrid, pipeline atlas",{body.removeprefix("{")}\n'


def _summary(
    name: str, one: SeriesResult, tasks: Sequence[str], comparison: Comparison, model: str | None
) -> Sequence[Cell]:
    total = TRAFFIC.of(one)
    average = total / len(one.rounds) if total is not None and one.rounds else None
    return (
        name, " ".join(tasks), model, "no" if one.method == "fedavg" else "yes", len(one.rounds),
        ACCURACY.of(one), _of(one, "dev_loss"), _minutes(one), _memory(one), average, one.method, one.seed,
        MAJORITY.of(one), F1.of(one),
        MCC.of(one), WORST.of(one), TENTH.of(one), total, comparison.void.get(one.name, "yes"),
    )  # fmt: skip


def _minutes(one: SeriesResult) -> float | None:
    """Of all rounds together, where they were computed."""
    seconds = one.cost("round_seconds")
    return None if seconds is None else sum(seconds) / 60


def _memory(one: SeriesResult) -> float | None:
    """The mean of the rounds' peaks in MB."""
    peaks = one.cost("peak_bytes")
    return None if peaks is None else fmean(peaks) / MEGABYTE


def _megabytes(size: float | None) -> float | None:
    return None if size is None else round(size / MEGABYTE, DIGITS)


def _tests(comparison: Comparison) -> list[Sequence[Cell]]:
    """Each method against each control, by the accuracy of the last round, paired by seed. Each pair stands once."""
    found = [
        (method, control, paired)
        for place, control in enumerate(CONTROLS)
        for method in comparison.methods
        if method not in CONTROLS[:place] and (paired := comparison.paired(method, control))
    ]
    known = [paired.t_p for _, _, paired in found if paired.t_p is not None]
    corrected = iter(holm(known))
    return [
        _test(method, control, paired, None if paired.t_p is None else next(corrected))
        for method, control, paired in found
    ]


def _test(method: str, control: str, found: PairedComparison, p: float | None) -> Sequence[Cell]:
    low, high = found.interval or (None, None)
    least, most = found.bootstrap or (None, None)
    return (
        method, control, found.n, found.mean, low, high, found.t, found.t_p, p, found.wilcoxon_p,
        found.least_wilcoxon_p, least, most, found.cohens_d, verdict(found), found.caveat,
    )  # fmt: skip


def verdict(found: PairedComparison | None) -> str:
    """Better or worse where the 95 % interval of Student's t does not hold 0; "" without a comparison."""
    if found is None:
        return ""
    if found.interval is None:
        return UNTESTED
    if found.interval[0] <= 0 <= found.interval[1]:
        return UNKNOWN
    return "better" if found.mean > 0 else "worse"


def _rank(one: SeriesResult) -> float | int | None:
    value = one.mean("rank") if one.method != "fedavg" else None
    return int(value) if value is not None and value == int(value) else value


def _of(one: SeriesResult, name: str) -> float | None:
    return one.mean(name) if one.whole else None


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """CSV. A cell that a spreadsheet would take for a formula is quoted as text."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_cell(one) for one in row] for row in rows)
    return written.getvalue()


def _cell(value: Cell) -> Cell:
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t"):
        return f"'{value}"
    return value
