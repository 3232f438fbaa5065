"""Calls the sections that apply to a page's runs. An exception in one of them costs only its own part of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.errors import HybridError
from hybrid.plugins import installed
from hybrid.plugins.faults import attributed_to, checked
from hybrid.report.formatting import CONTROL_NAMES
from hybrid.report.markup import Html, el, join
from hybrid.report.section import Measure, Scope, Section, TaskView
from hybrid.report.sources import ReportRun, TaskResult

ORDER: tuple[Scope, ...] = ("pipeline", "data", "general")
MAX_ERRORS = 10
"""Most errors of each kind that the page shows."""
ENDS_SCRIPT = re.compile("</script|<script|<!--", re.IGNORECASE)
VALUE = re.compile(r"[a-z]{1,20}")
SORT = re.compile(r"[-+][a-z]{1,20}")


@dataclass(frozen=True, slots=True)
class NamedSection:
    """An installed section with its name."""

    name: str
    section: Section


class Sections:
    """The installed sections that want one of the runs.

    `faults` are the exceptions that they raised, attributed to their owners. `not_loaded` are the errors of sections
    that could not be imported or constructed, or that raised instead of telling whether they want a run.
    """

    def __init__(self, runs: Sequence[ReportRun]) -> None:
        self.faults: list[HybridError] = []
        self.not_loaded: list[HybridError] = []
        self._runs = runs
        self._wanted: dict[str, list[ReportRun]] = {}
        found = [one for name in installed.names("reports") if (one := self._loaded(name))]
        self._active = [one for scope in ORDER for one in found if one.section.scope == scope and self._wants(one)]
        self.names: dict[str, str] = {}
        for one in self._active:
            self.names |= one.section.names
        self.names |= CONTROL_NAMES

    def _loaded(self, name: str) -> NamedSection | None:
        try:
            made = installed.load("reports", name)
            with attributed_to(f"the report section '{name}'", "being made"):
                section: Section = checked(made(), Section)
        except HybridError as error:
            self.not_loaded.append(error)
            return None
        return NamedSection(name, section)

    def _wants(self, one: NamedSection) -> bool:
        """Whether a section wants any run. One that cannot tell is left out, like one that cannot be loaded."""
        self._wanted[one.name] = []
        for run in self._runs:
            try:
                with attributed_to(one.section, f"deciding whether it wants the run {run.label}"):
                    if checked(one.section.wants(run), bool):
                        self._wanted[one.name].append(run)
            except HybridError as error:
                self.not_loaded.append(error)
                self._wanted[one.name] = []
                break
        return bool(self._wanted[one.name])

    def right_or_wrong(self, run: ReportRun) -> bool:
        """Whether a score of the run says how right an answer is."""
        return all(one.section.right_or_wrong for one in self._active if self._wants_run(one, run))

    def headline(self, run: ReportRun) -> Html:
        """The result of a run as the first section says it that says one; empty when none does."""
        for one in self._active:
            if self._wants_run(one, run) and (
                said := self._call(one.section, "giving its headline", str, one.section.headline, run)
            ):
                return join([said])
        return Html("")

    def _wants_run(self, one: NamedSection, run: ReportRun) -> bool:
        """By label, which is unique on a page."""
        return any(wanted.label == run.label for wanted in self._wanted[one.name])

    def _call(self, section: Section, doing: str, kind: Any, call: Callable[..., Any], *given: Any) -> Any:
        """The result of a method, None when it raises or returns another type than `kind`: then a fault is recorded."""
        try:
            with attributed_to(section, doing):
                return checked(call(*given), kind)
        except HybridError as error:
            self._record_fault(error)
            return None

    def _record_fault(self, error: HybridError) -> None:
        if error.message not in {one.message for one in self.faults}:
            self.faults.append(error)

    def style(self) -> str:
        """The CSS of all sections, each text once. CSS with a `<`, which could end the style element, is left out."""
        styles = [self._call(one.section, "giving its style", str, one.section.style) or "" for one in self._active]
        return "".join(f"\n{style.strip()}\n" for style in dict.fromkeys(styles) if style and "<" not in style)

    def scripts(self) -> list[str]:
        """The JavaScript of each section. A script that could end its element or begin an HTML comment is left out."""
        scripts = [self._call(one.section, "giving its script", str, one.section.script) or "" for one in self._active]
        return [script for script in scripts if script and not ENDS_SCRIPT.search(script)]

    def head(self) -> Html:
        """Markup of the sections for the top of the page."""
        return join(
            [self._call(one.section, "giving its definitions", str, one.section.head) or "" for one in self._active]
        )

    def opening(self, longest: int) -> Html:
        """What sections put before the result, each under its heading."""
        return join([self._opening(one, longest) for one in self._active])

    def _opening(self, one: NamedSection, longest: int) -> Html:
        drawn = self._call(one.section, "opening the page", str, one.section.opening, self._wanted[one.name], longest)
        if not drawn:
            return Html("")
        return el("section", el("h2", one.section.opening_title or one.name), join([drawn]), id=f"opening-{one.name}")

    def overall(self) -> Html:
        """The part of each section, with its heading."""
        return join([self._overall(one) for one in self._active])

    def _overall(self, one: NamedSection) -> Html:
        drawn = self._call(one.section, "drawing its part", str, one.section.overall, self._wanted[one.name])
        if drawn is None:
            drawn = el("p", "This part could not be drawn: see the end of the result.", cls="error")
        heading = el("h2", one.section.title or one.name, *self._run_label(one))
        return el("section", heading, drawn, id=f"section-{one.name}") if drawn else Html("")

    def _run_label(self, one: NamedSection) -> tuple[str, ...]:
        """The label of the only run of a part, on a page with several runs."""
        wanted = self._wanted[one.name]
        return (f": {wanted[0].label}",) if len(self._runs) > 1 and len(wanted) == 1 else ()

    def task(self, shown: TaskView) -> Html:
        """The task as drawn by the first section that draws it; empty when none does."""
        for one in self._active:
            if drawn := self._call(one.section, f"drawing the task '{shown.task:.80}'", str, one.section.task, shown):
                return join([drawn])
        return Html("")

    def facts(self, part: TaskResult) -> list[str]:
        """Facts that are shown beside a task's name."""
        return [
            str(fact)
            for one in self._active
            for fact in self._call(one.section, "giving facts about a task", Sequence, one.section.facts, part) or ()
        ]

    def values(self, part: TaskResult) -> dict[str, float | None]:
        """The values that tasks can be sorted by."""
        found: dict[str, float | None] = {}
        for one in self._active:
            values = self._call(one.section, "giving values to sort by", Mapping, one.section.values, part) or {}
            found |= {name: _number(value) for name, value in values.items() if VALUE.fullmatch(str(name))}
        return found

    def sorts(self) -> dict[str, str]:
        """Further sort orders: label -> sign and name of a value."""
        found: dict[str, str] = {}
        for one in self._active:
            runs = self._wanted[one.name]
            sorts = self._call(one.section, "giving sort orders", Mapping, one.section.sorts, runs) or {}
            found |= {str(label): value for label, value in sorts.items() if SORT.fullmatch(str(value))}
        return found

    def notes(self) -> list[str]:
        """Notes on how to read the numbers."""
        return [
            str(line)
            for one in self._active
            for line in self._call(one.section, "giving its notes", Sequence, one.section.notes, self._wanted[one.name])
            or ()
        ]

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """The figures of a run in the table of results."""
        for one in self._active:
            if any(wanted is run for wanted in self._wanted[one.name]):
                chosen = self._call(one.section, "choosing figures", Mapping, one.section.figures, run, figures)
                figures = figures if chosen is None else chosen
        return {name: value for name, value in figures.items() if value.keys() >= {"mean", "n", "interval"}}

    def problems(self) -> Html:
        """The sections that could not be loaded, and the exceptions that others raised."""
        return join(
            [
                _errors("Parts of this page are missing:", self.faults),
                _errors(
                    "These report sections could not be loaded or asked, so what they draw is missing:", self.not_loaded
                ),
            ]
        )


def _errors(heading: str, errors: Sequence[HybridError]) -> Html:
    if not errors:
        return Html("")
    shown = [el("li", error.message) for error in errors[:MAX_ERRORS]]
    return el("div", el("p", heading), el("ul", *shown), cls="error")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
