"""`hybrid report`: one self-contained HTML page of one or more runs."""

from __future__ import annotations

import html
import logging
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import click

from hybrid.canonical import digest
from hybrid.commands.judging import built_grader
from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, NonEmptyText
from hybrid.commands.reading import READING, RECORDED, reading_of, reading_options
from hybrid.commands.stdout import STDOUT, spare_path, writable_path
from hybrid.errors import HybridError, OwnFault, PluginFault, UsageError, Waits
from hybrid.execution.local import chosen_folder, find_outputs, opened_run
from hybrid.execution.requests import requests_of
from hybrid.formats import ImportedOutputs, Reading
from hybrid.grading.grade_file import grade_outputs
from hybrid.machine.files import explain_errors
from hybrid.machine.terminal import clean_line
from hybrid.outputs import path_beside
from hybrid.report.grades_file import open_grades
from hybrid.report.page import MAX_TASKS, MAX_TEXT, PAGE_START, labelled, title_of, write_report
from hybrid.report.sources import ReportRun, find_source, own_grader, with_folder
from hybrid.report.unfinished import unfinished_run

MAX_MESSAGE = 500
MAX_HEAD = 65_536
"""Bytes of an existing page in which its title is looked for."""
WATCH_SECONDS = 10
"""Seconds between two looks, and between two reloads of the page in a browser."""
LOG = logging.getLogger("hybrid")


@click.command()
@click.argument("sources", metavar="FILE...", type=NonEmptyText(), nargs=-1, required=True)
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option(
    "-o",
    "--out",
    type=OUTPUT,
    help="The page, - for standard output. Default, beside the first FILE: report.html, comparison.html for several.",
)
@click.option("--grader", default="", metavar="NAME", help="Show the grades of this grader, when there are several.")
@reading_options
@click.option(
    "--limit", type=click.IntRange(min=0), default=MAX_TASKS, show_default=True, help="Draw at most this many tasks."
)
@click.option(
    "--text",
    type=click.IntRange(min=0),
    default=MAX_TEXT,
    show_default=True,
    help="Characters shown of one model text.",
)
@click.option("--requests", is_flag=True, help="Show behind a fold what the model was asked, where the run is at hand.")
@click.option("--watch", is_flag=True, help="Write it again whenever a run has news, until all are done or Ctrl-C.")
def report(sources: tuple[str, ...], watch: bool, **how: Any) -> None:
    """Draw one HTML page of runs: each FILE is an outputs file, a run, a grades.json, or a file of another tool.

    Outputs without grades are drawn without scores, an unfinished run in its present state. Several files are compared
    with the first, question by question. The page needs no network; its path is printed.
    """
    reading = reading_of(**{name: how.pop(name) for name in READING})
    how["found"] = Finding(how.pop("folder"), how.pop("grader"), reading)
    if not watch:
        _written(sources, "", **how)
        return
    if how["out"] == STDOUT:
        raise UsageError("--watch writes a page again and again", hint="name a file with -o")
    seen, over = "", False
    with suppress(KeyboardInterrupt):
        while not over:
            now, over = _written(sources, seen, watch=True, **how)
            if now != seen and not over:
                click.echo("written; Ctrl-C ends it, and the page stays", err=True)
            seen = now
            if not over:
                time.sleep(WATCH_SECONDS)


@dataclass(frozen=True, slots=True)
class Finding:
    """How the runs that are named are found and read."""

    folder: Path | None
    grader: str
    reading: Reading


def _written(
    sources: Sequence[str],
    seen: str,
    *,
    found: Finding,
    out: Path | None,
    limit: int,
    text: int,
    requests: bool,
    watch: bool = False,
) -> tuple[str, bool]:
    """Write the page, unless the runs are as when they were `seen`, and print its path if it is the first.

    Returns a digest of how they are now, and whether all are done. Of one that is not, the page reloads itself.
    """
    faults: list[HybridError] = []
    with ExitStack() as stack:
        spares = [stack.enter_context(spare_path()) if out else None for _ in sources]
        runs = [_found(name, found, stack, spare) for name, spare in zip(sources, spares, strict=True)]
        _refuse_same(sources, runs)
        states = [run.state() for run in runs] if watch else []
        now, over = digest([state for state, _ in states]), all(complete for _, complete in states)
        if now == seen:
            return now, over
        path = out or _default_path(runs)
        runs = [_with_requests(run, stack) for run in runs] if requests else runs
        with writable_path(path) as there:
            how: Any = {"tasks": limit, "text": text, "reload": None if over else WATCH_SECONDS}
            write_report(runs, there, **how, on_fault=faults.append, on_load_error=_warn)
    if path != STDOUT and not seen:
        click.echo(path)
    if faults:
        _raise_faults(path, faults)
    return now, over


def _found(name: str, how: Finding, stack: ExitStack, spare: Path | None) -> ReportRun:
    """The run of FILE; in its present state when its last stage waits for earlier ones.

    Its outputs are assembled in `spare` where their own place cannot be written.
    """
    with suppress(Waits):
        found = find_source(Path(find_outputs(name, how.folder, spare)), how.grader, how.reading)
        return with_folder(_with_recorded(found, stack), how.folder)
    path, here = Path(name), chosen_folder(how.folder)
    if (path / "run.json").is_file():
        here, name = path.resolve().parent.parent, path.resolve().name
    elif (path / "hybrid.json").is_file():
        here, name = path, ""
    place = stack.enter_context(tempfile.TemporaryDirectory(prefix="hybrid-report-"))
    return unfinished_run(opened_run(here, name), here, Path(place), how.grader)


def _with_requests(run: ReportRun, stack: ExitStack) -> ReportRun:
    """The run with what it asked; without, and a warning, where that is not to be had."""
    try:
        if run.folder is None:
            raise UsageError("its run is not at hand; --folder names its folder")
        here = opened_run(run.folder, str(run.outputs.run.get("id") or ""))
        stage = run.unfinished.shown if run.unfinished else ""
        return replace(run, requests=stack.enter_context(requests_of(here, stage)))
    except HybridError as error:
        LOG.warning("%s: what the model was asked is not shown: %s", run.label, error.message)
        return run


def _with_recorded(run: ReportRun, stack: ExitStack) -> ReportRun:
    """The run with the scores that another tool gave, if they are in its file and it was not graded here."""
    if run.grades or not isinstance(run.outputs, ImportedOutputs) or own_grader(run.outputs) != RECORDED:
        return run
    place = stack.enter_context(spare_path())
    grade_outputs(run.outputs, built_grader(RECORDED, (), model=(), backend=(), backend_option=()), RECORDED, place)
    return replace(run, grades=open_grades(place))


def _refuse_same(sources: Sequence[str], runs: Sequence[ReportRun]) -> None:
    """Raise UsageError for the same outputs and grades named twice: their comparison would show nothing."""
    seen: dict[tuple[str, str], str] = {}
    for name, run in zip(sources, runs, strict=True):
        same = str(run.outputs.run.get("id") or run.outputs.path.resolve()), run.grades.sha256 if run.grades else ""
        if same in seen:
            raise UsageError(
                f"{seen[same]} and {name} are the same run with the same grades", hint="name each run once"
            )
        seen[same] = name


def _default_path(runs: Sequence[ReportRun]) -> Path:
    """The page's path without --out: beside the first file, named after it. Raises UsageError when it is taken."""
    first = runs[0]
    outputs = first.outputs.path
    if first.unfinished and first.folder:
        outputs = first.folder / "results" / str(first.outputs.run["id"]) / "outputs.json"
        with explain_errors(outputs.parent, doing="making it"):
            outputs.parent.mkdir(parents=True, exist_ok=True)
    path = outputs.with_name("comparison.html") if len(runs) > 1 else path_beside(outputs, "report.html")
    _refuse_other_page(path, runs)
    return path


def _refuse_other_page(path: Path, runs: Sequence[ReportRun]) -> None:
    """Raise UsageError when `path` is a file that is not the report of these runs: their titles differ."""
    with explain_errors(path, doing="reading it"):
        if not path.is_file():
            return
        with path.open("rb") as file:
            head = file.read(MAX_HEAD).decode(errors="replace")
    if str(title_of(labelled(runs))) in head:
        return
    found = re.search("<title>(.*?)</title>", head, re.DOTALL) if head.startswith(PAGE_START) else None
    what = f"the report of other runs: {html.unescape(found[1])}" if found else "no report of hybrid"
    raise UsageError(f"{path} is {what}", hint="name the page with -o, which overwrites a file")


def _warn(error: HybridError) -> None:
    LOG.warning("%s", clean_line(error.message, MAX_MESSAGE))


def _raise_faults(path: Path, faults: list[HybridError]) -> NoReturn:
    """Name the parts that the page lacks and whose fault that is. Raises OwnFault, PluginFault."""
    for fault in faults[1:]:
        _warn(fault)
    first = faults[0]
    kind = OwnFault if isinstance(first, OwnFault) else PluginFault
    raise kind(f"{path} is written, but a part of it is missing: {first.message}", hint=first.hint) from first
