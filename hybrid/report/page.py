"""Writes the page: tasks are drawn one by one into a temporary file, then head, overview and tasks are joined.

The page appears only after every digest was verified. It loads nothing: its style and script are inline and allowed by
their hashes in the content security policy, so injected markup could not run.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import IO, TypeAlias

from hybrid.backends.registry import NO_MODEL
from hybrid.errors import HybridError, UsageError
from hybrid.grading.questions import OutOfOrder
from hybrid.machine import home
from hybrid.machine.replacing import replacing
from hybrid.report.articles import article, statuses_of
from hybrid.report.compare import arms_compared, comparison
from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.navigation import overview, tools
from hybrid.report.output_texts import truncated
from hybrid.report.provenance import provenance
from hybrid.report.section import TaskView
from hybrid.report.sections import Sections
from hybrid.report.sources import ReportRun, TaskResult, Totals, merged
from hybrid.report.summary import headline, reading_notes, results_table

MAX_TASKS = 1000
"""Default of --limit: most tasks that are drawn. The numbers always cover all tasks."""

MAX_TEXT = 2000
"""Default of --text: most characters shown of one model text."""


Walk: TypeAlias = Iterator[tuple[str, list[TaskResult | None]]]


@dataclass(slots=True)
class DrawnTasks:
    """The names and statuses of the drawn tasks, the number of all tasks, and the sums of each run."""

    totals: Sequence[Totals]
    tasks: int = 0
    names: list[str] = field(default_factory=list)
    statuses: list[list[str]] = field(default_factory=list)


def write_report(
    runs: Sequence[ReportRun],
    out: Path,
    *,
    tasks: int = MAX_TASKS,
    text: int = MAX_TEXT,
    reload: int | None = None,
    on_fault: Callable[[HybridError], None] = lambda fault: None,
    on_load_error: Callable[[HybridError], None] = lambda error: None,
) -> Path:
    """Write the page of `runs` to `out`, at most `tasks` tasks and `text` characters of each model text.

    The same runs give the same bytes. A browser loads the page again every `reload` seconds. `on_fault` is called with
    each exception that a section raised, `on_load_error` with the error of each section that could not be loaded; only
    their parts of the page are missing. Raises BadData when a file is damaged or does not match its grades, CannotRun
    or Temporary when `out` cannot be written.
    """
    if not runs:
        raise UsageError("nothing to report", hint="name at least one outputs.json, grades.json or run")
    runs = labelled(runs)
    sections = Sections(runs)
    for error in sections.not_loaded:
        on_load_error(error)
    with tempfile.TemporaryFile() as body:
        try:
            drawn = _draw(merged(runs), runs, sections, body, (tasks, text))
        except OutOfOrder:  # outputs of another program: they are sorted on disk first
            body.seek(0)
            body.truncate()
            drawn = _draw(merged(runs, sort=True), runs, sections, body, (tasks, text))
        head = _head(runs, drawn, sections, sections.opening(text), reload)
        body.seek(0)
        _write(out, head, body, _foot(runs, drawn, _scripts(sections)))
    for fault in sections.faults:
        on_fault(fault)
    return out


def title_of(runs: Sequence[ReportRun]) -> Html:
    """The page's title element, which names its runs."""
    return el("title", " · ".join(run.label for run in runs))


def labelled(runs: Sequence[ReportRun]) -> list[ReportRun]:
    """The runs with unique labels: the second `x` becomes `x (2)`."""
    seen: dict[str, int] = {}
    named = []
    for run in runs:
        seen[run.label] = seen.get(run.label, 0) + 1
        again = seen[run.label]
        named.append(run if again == 1 else replace(run, label=f"{run.label} ({again})"))
    return named


def _draw(
    walk: Walk, runs: Sequence[ReportRun], sections: Sections, body: IO[bytes], bounds: tuple[int, int]
) -> DrawnTasks:
    max_tasks, max_text = bounds
    drawn = DrawnTasks([Totals() for _ in runs])
    for task, parts in walk:
        drawn.tasks += 1
        for part, totals in zip(parts, drawn.totals, strict=True):
            if part:
                totals.add(part.totals)
        if len(drawn.names) < max_tasks:
            drawn.names.append(task)
            drawn.statuses.append(statuses_of(runs, parts, sections))
            data = next((run.outputs.tasks.get(task) for run, part in zip(runs, parts, strict=True) if part), None)
            shown = TaskView(task, data, runs, parts, max_text)
            body.write(article(len(drawn.names), shown, sections).encode() + b"\n")
    return drawn


def _write(out: Path, head: str, body: IO[bytes], foot: str) -> None:
    with replacing(out, PAGE_START.encode(), home.parts_folder()) as file:
        file.write(head.encode())
        shutil.copyfileobj(body, file)
        file.write(foot.encode())


PAGE_START = '<!DOCTYPE html>\n<html lang="en">'


def _asset(name: str) -> str:
    return files("hybrid.report").joinpath(name).read_text(encoding="utf-8")


def _scripts(sections: Sections) -> list[str]:
    """The page's script and those of its sections; each becomes its own element, so an error in one stops no other."""
    return [_asset("page.js"), *sections.scripts()]


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _head(runs: Sequence[ReportRun], drawn: DrawnTasks, sections: Sections, opening: Html, reload: int | None) -> str:
    style, scripts = _asset("page.css") + sections.style(), " ".join(map(_hash, _scripts(sections)))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {scripts}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    result = results_table(runs, drawn.totals, sections)
    parts, notes = sections.overall(), reading_notes(runs, sections)
    judged = any(map(sections.right_or_wrong, runs))
    controls = tools(len(runs) > 1, sections.sorts(), judged=judged)
    tasks = [overview(runs, drawn.names, drawn.statuses), _left_out(drawn), controls]
    return join(
        [
            Html(PAGE_START + "\n<head>\n"),
            el("meta", charset="utf-8"),
            el("meta", http_equiv="Content-Security-Policy", content=policy),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("meta", name="color-scheme", content="light dark"),
            el("meta", name="referrer", content="no-referrer"),
            el("meta", http_equiv="refresh", content=str(reload)) if reload else Html(""),
            title_of(runs),
            Html(f"\n<style>{style}</style>\n</head>\n<body>\n"),
            sections.head(),
            el("a", "Skip to the tasks", href="#results", cls="skip"),
            _top(runs, drawn.totals, sections),
            Html("\n<main>\n"),
            opening,
            el("section", el("h2", "Result"), result, notes, sections.problems(), id="summary"),
            parts,
            comparison(runs) if len(runs) > 1 else Html(""),
            *(arms_compared(run, run.label if len(runs) > 1 else "") for run in runs),
            Html('\n<section id="results">'),
            el("h2", "Tasks"),
            *tasks,
            Html('\n<div id="tasks">\n'),
        ]
    )


def _top(runs: Sequence[ReportRun], totals: Sequence[Totals], sections: Sections) -> Html:
    kinds = ", ".join(dict.fromkeys(run.pipeline or "outputs" for run in runs))
    if len(runs) > 1:
        return el(
            "header",
            el("p", "comparison", cls="kicker"),
            el("h1", f"{len(runs)} runs of {kinds}"),
            headline(runs, totals, sections),
            cls="top",
        )
    model = _model_of(runs[0])
    return el(
        "header",
        el("p", runs[0].label, cls="run-id"),
        el("h1", truncated(f"{kinds} with {model}" if model else kinds, 120)),
        headline(runs, totals, sections),
        cls="top",
    )


def _model_of(run: ReportRun) -> str:
    """The model of a run, or its models with their roles; "" for one without a language model."""
    models = run.outputs.run.get("models")
    if not isinstance(models, Mapping) or not models:
        models = {"": {"name": run.outputs.run.get("model"), "backend": run.outputs.run.get("backend")}}
    known = [(role, one) for role, one in models.items() if isinstance(one, Mapping) and one.get("backend") != NO_MODEL]
    return ", ".join(f"{one.get('name') or ''}{f' as {role}' if role else ''}" for role, one in known)


def _left_out(drawn: DrawnTasks) -> Html:
    left = drawn.tasks - len(drawn.names)
    text = f"The first {len(drawn.names):,} of {count_of(drawn.tasks, 'task')} are drawn; the numbers above are of all."
    return el("p", text, cls="note") if left else Html("")


def _foot(runs: Sequence[ReportRun], drawn: DrawnTasks, scripts: Sequence[str]) -> str:
    return join(
        [
            Html("</div>\n"),
            el("p", "No task fits the filter.", id="nothing", hidden=True, cls="none"),
            Html("</section>\n"),
            provenance(runs, drawn.totals),
            Html("\n</main>\n" + "".join(f"<script>{script}</script>\n" for script in scripts) + "</body>\n</html>\n"),
        ]
    )
