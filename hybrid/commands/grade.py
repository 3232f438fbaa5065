"""`hybrid grade`: grade an outputs file, write the grades and print a summary."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybrid.canonical import encode
from hybrid.commands.judging import built_grader, call_progress, grader_options
from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, FiniteRange, NonEmptyText
from hybrid.commands.reading import READING, RECORDED, reading_of, reading_options
from hybrid.commands.stdout import STDOUT, refuse_both_on_stdout, spare_path, writable_path
from hybrid.errors import Missed, NotFinished, UsageError, Waits, nearest
from hybrid.execution.local import find_outputs_so_far
from hybrid.export.graded_run import GradedRun
from hybrid.export.junit import BEGINS, write_junit
from hybrid.formats import ImportedOutputs, Reading, open_any, told
from hybrid.grading.calibration import sentences
from hybrid.grading.grade_file import grade_outputs
from hybrid.grading.judging.recorded import NOT_YET
from hybrid.machine.replacing import refuse_foreign
from hybrid.machine.signals import interrupt_on_termination
from hybrid.machine.terminal import clean_line, count_of, is_or_are
from hybrid.outputs import OutputsFile, grades_of, outputs_stem, stale_words
from hybrid.plugins import installed
from hybrid.records import NO_RECORD
from hybrid.report.grades_file import has_scores, open_grades
from hybrid.report.sources import ReportRun, own_grader

FILE_WIDTH = 200
"""Width of the table when stdout is not a terminal, so that no name is cut."""

LONGEST_NAME = 100
NO_VALUE = "–"
"""A cell of what was not measured, or cannot be."""


@click.command()
@click.argument("source", type=NonEmptyText())
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("--grader", default="", metavar="NAME", help="Default: the grader that the run's pipeline names.")
@grader_options
@reading_options
@click.option(
    "-o",
    "--out",
    type=OUTPUT,
    help="The grades, - for standard output. Default: beside SOURCE, grades.GRADER.json or NAME.grades.GRADER.json.",
)
@click.option("--threshold", type=FiniteRange(0, 1), help="Exit with 3 when the score is lower, or when there is none.")
@click.option("--junit", type=OUTPUT, help="Also write the grades as JUnit XML, for CI: a test case for each unit.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line instead of the table.")
def grade(
    source: str,
    folder: Path | None,
    grader: str,
    out: Path | None,
    threshold: float | None,
    junit: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Grade SOURCE: an outputs.json, .jsonl or .jsonl.zst, a run, or - for standard input.

    Or a file of another tool: an inspect log, samples of lm-eval, the output of an OpenAI batch, an ARC submission, a
    table. Without --grader the scores in it are shown.

    Writes a grades file and prints the score, its interval, controls, and what could not be graded.
    """
    reading = reading_of(**{name: asked.pop(name) for name in READING})
    refuse_both_on_stdout(out, as_json=as_json)
    _refuse_other_file(junit)
    interrupt_on_termination()
    with spare_path() as spare:
        path, waits = find_outputs_so_far(source, folder, spare if out else None)
        with closing(open_any(path, reading, one_filter=grader not in ("", RECORDED))) as outputs:
            _refuse_unused(reading, outputs)
            name = grader or _grader_of(outputs)
            judge = built_grader(name, **asked)
            grades = _place(path, name, out)
            with writable_path(grades) as place:
                summary = grade_outputs(outputs, judge, name, place, call_progress())
                if junit:
                    _write_junit(junit, outputs, place, threshold)
    if as_json:
        head = {"source": source, "grader": name, "grades": str(grades), "outputs_sha256": outputs.sha256}
        click.echo(encode({**head, **_imported(outputs), "summary": summary}))
    else:
        show_summary(summary, name, grades)
        for line in [] if path == "-" else stale_words(Path(path)):
            click.echo(clean_line(line, 10 * LONGEST_NAME), err=True)
    for line in told(outputs):
        click.echo(clean_line(line, 10 * LONGEST_NAME), err=True)
    _refuse_unfinished(outputs, summary, waits)
    _check(summary, threshold)
    if line := _nothing_graded(outputs, summary, name):
        click.echo(clean_line(line, 10 * LONGEST_NAME), err=True)


def _refuse_other_file(junit: Path | None) -> None:
    """Raise UsageError, before anything is graded, when this is no place for JUnit XML."""
    if junit == STDOUT:
        raise UsageError("--junit writes a file", hint="name one: --junit grades.xml")
    if junit:
        refuse_foreign(junit, BEGINS)


def _write_junit(path: Path, outputs: OutputsFile, grades: Path, threshold: float | None) -> None:
    run = ReportRun(str(outputs.run.get("id") or outputs_stem(outputs.path)), outputs, open_grades(grades))
    write_junit(GradedRun(run), path, threshold)


def _refuse_unused(reading: Reading, outputs: OutputsFile) -> None:
    """Raise UsageError for options that say how another tool's file is read, when it is one of ours."""
    if not isinstance(outputs, ImportedOutputs) and (reading.columns or reading.inputs or reading.filter):
        raise UsageError(
            f"{outputs.path} holds outputs of hybrid: --column, --input and --filter say nothing of these",
            hint="leave them out, or say with --from what the file is",
        )


def _place(source: str, grader: str, out: Path | None) -> Path:
    """The path of the grades. Raises UsageError when it is that of the outputs."""
    place = out or grades_of(source, grader)
    if "-" not in (source, str(place)) and place.exists() and place.samefile(source):
        raise UsageError(f"{place} is what is to be judged: it would be overwritten", hint="name another file: -o FILE")
    return place


def _grader_of(outputs: OutputsFile) -> str:
    """The grader that the run's pipeline names for its outputs."""
    about = outputs.run.get("about")
    name = about.get("grader") if isinstance(about, dict) else None
    if isinstance(name, str) and name:
        return name
    raise UsageError(
        f"{outputs.path} names no grader: choose one with --grader", hint=nearest("", installed.names("graders"))
    )


def _refuse_unfinished(outputs: OutputsFile, summary: dict[str, Any], waits: Waits | None) -> None:
    """Raise NotFinished when outputs of a run are missing or not judged yet: only what is there is graded."""
    imported = outputs if isinstance(outputs, ImportedOutputs) else None
    if imported and imported.lacks:
        raise NotFinished(f"{imported.path} is not whole: {imported.lacks}", hint="what is there is graded")
    run, lacks = outputs.run.get("id"), _lacking(summary)
    run = str(imported.path) if imported else run
    if run and lacks:
        graded = "only the rest is graded" if summary["n"] else "nothing can be graded yet"
        raise NotFinished(
            f"{run!s:.120} is not finished: {lacks}; {graded}",
            hint="grade it again when the rest is there" + ("" if imported else "; `hybrid status` shows its status"),
        )
    if waits:
        raise NotFinished(f"{waits.message}; all answers are graded", hint=waits.hint)


def _nothing_graded(outputs: OutputsFile, summary: dict[str, Any], grader: str) -> str:
    """What is to be said where nothing of what is to be graded could be, as by a grader of other outputs; "" else."""
    reasons: dict[str, int] = summary["ungraded"]["reasons"]
    if not reasons or has_scores(summary) or "not_due" in summary:
        return ""
    all_of, often = count_of(summary["ungraded"]["count"], summary["unit"]), max(reasons, key=lambda one: reasons[one])
    named = own_grader(outputs)
    made_for = f"; these outputs name the grader '{named}'" if named not in ("", grader) else ""
    return f"nothing could be graded by '{grader}', of {all_of}: {often}{made_for}"


def _lacking(summary: dict[str, Any]) -> str:
    """How many outputs are missing, and how many have no verdict yet; "" for none."""
    missing = summary["failed_outputs"].get(NO_RECORD, 0)
    waiting = summary["ungraded_outputs"]["reasons"].get(NOT_YET, 0)
    outputs = f"of {count_of(summary['outputs'], 'output')}"
    lacks = [f"{missing:,} {outputs} {is_or_are(missing)} missing"] if missing else []
    return ", ".join([*lacks, *([f"{waiting:,} {outputs} {NOT_YET}"] if waiting else [])])


def _imported(outputs: OutputsFile) -> dict[str, Any]:
    """What --json says of a file of another tool."""
    if not isinstance(outputs, ImportedOutputs):
        return {}
    return {"format": outputs.format, "bad_rows": outputs.skipped.count, "lacks": outputs.lacks}


def _check(summary: dict[str, Any], threshold: float | None) -> None:
    if threshold is None:
        return
    score = summary["score"]
    if score is None and (summary["n"] or _nothing_due(summary)):
        raise Missed(f"the threshold is missed: the score is {summary['method']}")
    if score is None:
        raise Missed(
            "nothing could be graded, so the threshold is missed", hint="the reasons are counted under 'ungraded'"
        )
    if score < threshold:
        raise Missed(f"the score {score:.4f} is below the threshold {threshold:g}")


def show_summary(summary: dict[str, Any], name: str, grades: Path) -> None:
    """Print score, figures and measures as tables, and below them what could not be graded and who judged."""
    aside = grades == STDOUT
    console = Console(highlight=False, stderr=aside)
    if not console.is_terminal:
        console = Console(highlight=False, stderr=aside, width=FILE_WIDTH, no_color=True)
    if not _nothing_due(summary):
        console.print(_scores(summary, name, console.is_terminal))
    if summary.get("measures"):
        console.print(_measures(summary["measures"], console.is_terminal))
    for line in (*_counts(summary), *sentences(summary.get("judge"))):
        console.print(_safe(line), soft_wrap=True)
    what = "score" if summary["score"] is None and (summary["n"] or _nothing_due(summary)) else "interval"
    console.print(_safe(f"{what}: {summary['method']}; grades: {grades}"))


def _nothing_due(summary: dict[str, Any]) -> bool:
    """Whether there is no score because none was to be expected."""
    return "not_due" in summary and not summary["n"] and not summary["ungraded"]["count"]


def _scores(summary: dict[str, Any], name: str, framed: bool) -> Table:
    """A table of the score, its controls and the figures."""
    table = Table(box=box.SIMPLE_HEAD if framed else None, pad_edge=False)
    table.add_column("")
    for heading in ("n", "score", "95 % interval"):
        table.add_column(heading, justify="right")
    first, *others = summary.get("arms") or [""]
    said = f" of {first}" if first else ""
    _row(table, f"{name} (by {summary['unit']}){said}", summary, summary["score"], style="bold")
    if summary["score"] is None and summary["n"]:
        return table
    for arm in others:
        _arm(table, name, first, arm, summary["controls"].get(arm))
    controls = {name: values for name, values in summary["controls"].items() if name not in others}
    for control, values in controls.items():
        _row(table, f"control: {control}", values, values["score"])
        if "gain" in values:
            _row(table, f"score - {control}", _gain(values), values["gain"])
    if not controls:
        table.add_row("control: none", "–", "–", "–")
    by = " (by question)" if summary["unit"] == "task" else ""
    for figure, values in summary["figures"].items():
        _row(table, f"{figure}{by}", values, values["mean"])
    return table


def _arm(table: Table, grader: str, first: str, arm: str, values: dict[str, Any] | None) -> None:
    """Rows of the score of an arm, and of its difference to the first arm."""
    if values is None:
        table.add_row(_safe(f"{grader} of {arm}"), "0", "–", "–")
        return
    _row(table, f"{grader} of {arm}", values, values["score"], style="bold")
    if "gain" in values:
        low, high = values["gain_interval"]
        _row(table, f"{arm} - {first}", {**_gain(values), "interval": [-high, -low]}, 0.0 - values["gain"])


def _gain(values: dict[str, Any]) -> dict[str, Any]:
    return {"n": values["gain_n"], "interval": values["gain_interval"]}


def _measures(measures: list[dict[str, Any]], framed: bool) -> Table:
    """A table of what was measured of the outputs together, each beside its control, named where there are several.

    A column without a value is left out.
    """
    several = len({one["against"] for one in measures if one["control"] is not None}) > 1
    headings = ["", "measured", "n", "value", "95 % interval", "control", "its interval", "standing", "control is"]
    rows = [_measure_cells(one, several=several) for one in measures]
    shown = [place for place in range(len(headings)) if any(row[place] not in ("", NO_VALUE) for row in rows)]
    table = Table(box=box.SIMPLE_HEAD if framed else None, pad_edge=False)
    for place in shown:
        left = headings[place] in ("", "measured", "control is")
        table.add_column(headings[place], justify="left" if left else "right")
    for row in rows:
        table.add_row(*(_safe(row[place]) for place in shown))
    return table


def _measure_cells(one: dict[str, Any], *, several: bool) -> list[str]:
    ends = [_interval(end) for end in (one["interval"], one["control_interval"])]
    control = NO_VALUE if one["control"] is None else f"{one['control']:.4g}"
    values = [f"{one['n']:,}", f"{one['value']:.4g}", ends[0], control, ends[1], one["standing"] or NO_VALUE]
    return [one["group"], one["name"], *values, one["against"] if several else NO_VALUE]


def _interval(ends: Sequence[float] | None) -> str:
    """An interval; of an exact value, such as what a difference is compared with, there is none."""
    return f"{ends[0]:.4g} to {ends[1]:.4g}" if ends and ends[0] < ends[1] else NO_VALUE


def _row(table: Table, name: str, values: dict[str, Any], share: float | None, style: str = "") -> None:
    interval = values["interval"]
    cells = (f"{values['n']:,}", _share(share), f"{_share(interval[0])} to {_share(interval[1])}" if interval else "–")
    table.add_row(_safe(name), *cells, style=style)


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.4f}"


def _counts(summary: dict[str, Any]) -> list[str]:
    """Lines that count what is ungraded, what has no score by its nature, and what failed."""
    lines = [f"ungraded {summary['unit']}s: {_listed(summary['ungraded']['reasons'], 'none')}"]
    if summary["ungraded_outputs"]["count"]:
        lines.append(f"ungraded outputs: {_listed(summary['ungraded_outputs']['reasons'], 'none')}")
    if not_due := summary.get("not_due"):
        lines.append(f"not to be graded: {_listed(not_due['reasons'], 'none')}")
    lines.append(f"failed outputs: {_listed(summary['failed_outputs'], 'none')} of {summary['outputs']:,}")
    return lines


def _listed(counts: dict[str, int], none: str) -> str:
    total = sum(counts.values())
    return f"{total:,} ({', '.join(f'{reason}: {count:,}' for reason, count in counts.items())})" if counts else none


def _safe(text: str) -> Text:
    """Untrusted text without markup and control characters."""
    return Text(clean_line(text, 10 * LONGEST_NAME))
