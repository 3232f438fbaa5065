"""`hybrid judge check`: measure how good a judge is, and whether it is worth running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybrid.canonical import encode
from hybrid.commands.compare import compare_command
from hybrid.commands.judging import built_grader, call_progress, grader_options
from hybrid.grading import calibration
from hybrid.grading.answers import RULES
from hybrid.grading.judge_check import GradedRows, check
from hybrid.grading.label_check import JudgesLabels, check_labels
from hybrid.machine.signals import interrupt_on_termination
from hybrid.machine.terminal import clean_line, count_of

SAMPLE = "judge_sample.jsonl"
FILE_WIDTH = 200


@click.group()
def judge() -> None:
    """What is known of judges."""


judge.add_command(compare_command)


@judge.command("check")
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Rows with labels, one JSON object a line: docs/judge.md, docs/rubric.md [a sample that comes along]",
)
@click.option("--grader", default="judge", show_default=True, metavar="NAME", help="What is checked.")
@grader_options
@click.option("--limit", type=click.IntRange(min=0), default=0, help="Only the first N rows.")
@click.option("--replace", is_flag=True, help="Replace an earlier check of more rows.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line instead of the table.")
def check_command(data: Path | None, grader: str, limit: int, replace: bool, as_json: bool, **asked: Any) -> None:
    """Compare a grader with rows that are already graded, beside rules that need no model.

    The result is saved on this machine and shown beside every score of this judge (same model, same settings). A check
    of fewer rows than the last one is not saved, except with --replace.
    """
    interrupt_on_termination()
    made = built_grader(grader, **asked)
    by_label = isinstance(made, JudgesLabels)
    with _file(data, made.sample if by_label else SAMPLE) as path:
        if by_label:
            identity, result = check_labels(made, grader, path, limit, call_progress())
        else:
            identity, result = check(made, grader, GradedRows(path, limit), call_progress())
    before = calibration.known(identity)
    smaller = before is not None and not replace and before["rows"] > result["rows"]
    path = calibration.place(identity) if smaller else calibration.keep(identity, result)
    if as_json:
        click.echo(encode({"check": str(path), "kept": not smaller, "identity": identity, **result}))
        return
    _show(result, grader)
    if before is not None and smaller:
        kept = f"not kept: {path} is a check of {count_of(before['rows'], 'row')}; --replace puts this one in its place"
    else:
        kept = f"kept in {path}"
    click.echo(clean_line(kept, 1000))


@contextmanager
def _file(data: Path | None, sample: str) -> Iterator[Path]:
    """The rows: those that the user names, else the sample that comes along."""
    if data is not None:
        yield data
        return
    with resources.as_file(resources.files("graders") / sample) as path:
        yield path


def _show(result: Mapping[str, Any], name: str) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=FILE_WIDTH, no_color=True)
    for scale, counted in result.get("scales", {}).items():
        if counted["graded"]:
            console.print(_label_table(counted, name, scale, framed=console.is_terminal))
    if result["graded"] and "scales" not in result:
        console.print(_table(result, name, framed=console.is_terminal))
    for line in _lines(result):
        console.print(Text(clean_line(line, 1000)), soft_wrap=True)


def _table(result: Mapping[str, Any], name: str, *, framed: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD if framed else None, pad_edge=False)
    table.add_column("")
    for heading in ("accuracy", "95 %", "kappa", "95 %", "right called wrong", "wrong called right"):
        table.add_column(heading, justify="right")
    rows = [(name, result), *((f"rule: {rule}", result["rules"][rule]) for rule in RULES)]
    for number, (label, measures) in enumerate(rows):
        table.add_row(Text(clean_line(label, 100)), *_cells(measures), style="" if number else "bold")
    return table


def _label_table(counted: Mapping[str, Any], name: str, scale: str, *, framed: bool) -> Table:
    """The judge and the rules on the rows of one scale."""
    table = Table(box=box.SIMPLE_HEAD if framed else None, pad_edge=False)
    kappa = "weighted kappa" if counted["weighted"] else "kappa"
    for heading in (f"{scale}: {counted['graded']:,}", "accuracy", "95 %", kappa, "95 %", *counted["errors"]):
        table.add_column(heading, justify="right" if table.columns else "left")
    rows = [(name, counted), *((f"rule: {rule}", one) for rule, one in counted["rules"].items())]
    for number, (label, measures) in enumerate(rows):
        cells = [*_figures(measures), *map(_percent, measures["errors"].values())]
        table.add_row(Text(clean_line(label, 100)), *cells, style="" if number else "bold")
    return table


def _cells(measures: Mapping[str, Any]) -> list[str]:
    wrong = (measures["right_called_wrong"], measures["wrong_called_right"])
    return [*_figures(measures), *map(_percent, wrong)]


def _figures(measures: Mapping[str, Any]) -> list[str]:
    """Accuracy and kappa, each with its interval."""
    cells = []
    for value, low, high in (measures["accuracy"], measures["kappa"]):
        cells += [f"{value:.3f}", f"{low:.3f} to {high:.3f}"]
    return cells


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    data, ungraded, calls = result["data"], result["ungraded"], result["calls"]
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in ungraded["reasons"].items())
    without = f"{ungraded['count']:,} ({reasons})" if reasons else "none"
    yield f"rows: {result['rows']:,} of {data['file']}; without a verdict: {without}"
    counts = result["about"].get("counts", {})
    if counts:
        yield "verdicts: " + ", ".join(f"{count:,} {what}" for what, count in counts.items())
    if calls["made"]:
        yield f"calls: {calls['made']:,} in {calls['seconds']:.1f} s, {calls['made'] / calls['seconds']:.1f} a second"
    elif result["about"]:
        yield "calls: none, all was known from before"
    if "threshold" in result:
        yield f"threshold: {result['threshold']:.4f} from here on (the figures above are cross-validated)"
    yield from (one["worth"] for one in result["scales"].values()) if "scales" in result else [result["worth"]]
