"""Writes the page: tasks go to a spool one by one while they are counted, then head, overview and tasks are joined.

Nothing stands at the page's place before every digest has been checked. The page loads nothing: its style and script
are inside and named by their hashes in its content security policy, so markup that slipped through could not run.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import IO, TypeAlias

from hybrid.errors import UsageError
from hybrid.grading.questions import OutOfOrder
from hybrid.machine import home
from hybrid.machine.replacing import replacing
from hybrid.report import self_edits
from hybrid.report.articles import article, standings
from hybrid.report.compare import comparison
from hybrid.report.grids import DEFINITIONS
from hybrid.report.markup import Html, el, join
from hybrid.report.navigation import overview, tools
from hybrid.report.provenance import provenance
from hybrid.report.raw import cut
from hybrid.report.sources import Answered, Source, merged
from hybrid.report.summary import lede, note, results, voted
from hybrid.report.words import count

MOST_TASKS = 1000
"""Tasks that are drawn unless asked otherwise; the numbers are always of all."""

LONGEST_TEXT = 2000
"""Characters shown of one model text unless asked otherwise."""


Walk: TypeAlias = Iterator[tuple[str, list[Answered | None]]]


@dataclass(slots=True)
class Drawn:
    """What the walk over the tasks leaves: how many there are, and the standing of those that are drawn."""

    tasks: int = 0
    names: list[str] = field(default_factory=list)
    states: list[list[str]] = field(default_factory=list)


def write_report(runs: Sequence[Source], out: Path, *, tasks: int = MOST_TASKS, text: int = LONGEST_TEXT) -> Path:
    """Write the page of `runs` to `out`, at most `tasks` tasks and `text` characters of each model text.

    The same runs give the same bytes. Raises BadData when a file does not keep its promise, CannotRun or
    Temporary when `out` cannot be written.
    """
    if not runs:
        raise UsageError("nothing to report", hint="name at least one outputs.json, grades.json or run")
    sources = _labelled(runs)
    with tempfile.TemporaryFile() as body:
        try:
            drawn = _draw(merged(sources), sources, body, tasks, text)
        except OutOfOrder:  # outputs of another program: sort them on disk first
            body.seek(0)
            body.truncate()
            drawn = _draw(merged(sources, sort=True), sources, body, tasks, text)
        head = _head(sources, drawn)
        body.seek(0)
        _write(out, head, body, _foot(sources))
    return out


def _labelled(runs: Sequence[Source]) -> list[Source]:
    """The runs with labels that differ: the second `x` becomes `x (2)`."""
    seen: dict[str, int] = {}
    named = []
    for run in runs:
        seen[run.label] = seen.get(run.label, 0) + 1
        again = seen[run.label]
        named.append(run if again == 1 else Source(f"{run.label} ({again})", run.outputs, run.grades))
    return named


def _draw(walk: Walk, sources: Sequence[Source], body: IO[bytes], most: int, longest: int) -> Drawn:
    drawn = Drawn()
    for task, parts in walk:
        drawn.tasks += 1
        if len(drawn.names) < most:
            drawn.names.append(task)
            drawn.states.append(standings(sources, parts))
            body.write(article(len(drawn.names), task, sources, parts, longest).encode() + b"\n")
    return drawn


def _write(out: Path, head: str, body: IO[bytes], foot: str) -> None:
    with replacing(out, BEGINS.encode(), home.parts()) as file:
        file.write(head.encode())
        shutil.copyfileobj(body, file)
        file.write(foot.encode())


BEGINS = '<!DOCTYPE html>\n<html lang="en">'


def _asset(name: str) -> str:
    return files("hybrid.report").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _head(sources: Sequence[Source], drawn: Drawn) -> str:
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = " · ".join(source.label for source in sources)
    return join(
        [
            Html(BEGINS + "\n<head>\n"),
            el("meta", charset="utf-8"),
            el("meta", http_equiv="Content-Security-Policy", content=policy),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("meta", name="color-scheme", content="light dark"),
            el("meta", name="referrer", content="no-referrer"),
            el("title", title),
            Html(f"\n<style>{style}</style>\n</head>\n<body>\n"),
            DEFINITIONS,
            el("a", "Skip to the tasks", href="#results", cls="skip"),
            _top(sources),
            Html("\n<main>\n"),
            el("section", el("h2", "Result"), results(sources), note(sources), id="summary"),
            self_edits.section(sources),
            comparison(sources) if len(sources) > 1 else Html(""),
            Html('\n<section id="results">'),
            el("h2", "Tasks"),
            overview(sources, drawn.names, drawn.states),
            _left_out(drawn),
            tools(len(sources) > 1, voted(sources)),
            Html('\n<div id="tasks">\n'),
        ]
    )


def _top(sources: Sequence[Source]) -> Html:
    kinds = ", ".join(dict.fromkeys(str(source.outputs.run.get("pipeline", "outputs")) for source in sources))
    if len(sources) > 1:
        return el(
            "header",
            el("p", "comparison", cls="kicker"),
            el("h1", f"{len(sources)} runs of {kinds}"),
            lede(sources),
            cls="top",
        )
    model = sources[0].outputs.run.get("model")
    return el(
        "header",
        el("p", sources[0].label, cls="run-id"),
        el("h1", cut(f"{kinds} with {model}" if model else kinds, 120)),
        lede(sources),
        cls="top",
    )


def _left_out(drawn: Drawn) -> Html:
    left = drawn.tasks - len(drawn.names)
    said = f"The first {len(drawn.names):,} of {count(drawn.tasks, 'task')} are drawn; the numbers above are of all."
    return el("p", said, cls="note") if left else Html("")


def _foot(sources: Sequence[Source]) -> str:
    return join(
        [
            Html("</div>\n"),
            el("p", "No task fits the filter.", id="nothing", hidden=True, cls="none"),
            Html("</section>\n"),
            provenance(sources),
            Html(f"\n</main>\n<script>{_asset('page.js')}</script>\n</body>\n</html>\n"),
        ]
    )
