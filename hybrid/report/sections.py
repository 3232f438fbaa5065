"""The sections that a page's runs want, called so that what one of them raises costs its own part alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.errors import HybridError
from hybrid.plugins import installed
from hybrid.plugins.faults import attributed_to, checked
from hybrid.report.markup import Html, el, join
from hybrid.report.section import Measure, Scope, Section, TaskView
from hybrid.report.sources import Answered, ReportRun
from hybrid.report.words import NAMES

ORDER: tuple[Scope, ...] = ("pipeline", "data", "general")
MAX_ERRORS = 10
"""Most errors of each kind that the page shows."""
ENDS_SCRIPT = re.compile("</script|<script|<!--", re.IGNORECASE)
VALUE = re.compile(r"[a-z]{1,20}")
SORT = re.compile(r"[-+][a-z]{1,20}")


@dataclass(frozen=True, slots=True)
class Named:
    """An installed section under its name."""

    name: str
    section: Section


class Sections:
    """The installed sections that want one of the runs.

    `faults` are the exceptions that they raised, attributed to their owners. `not_loaded` are the errors of sections
    that could not be imported or constructed: it is unknown whether they want a run.
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
        self.names |= NAMES

    def _loaded(self, name: str) -> Named | None:
        try:
            made = installed.load("reports", name)
            with attributed_to(f"the report section '{name}'", "being made"):
                section: Section = checked(made(), Section)
        except HybridError as error:
            self.not_loaded.append(error)
            return None
        return Named(name, section)

    def _wants(self, one: Named) -> bool:
        asked = (
            (run, self._ask(one.section, f"looking at the run {run.label}", bool, one.section.wants, run))
            for run in self._runs
        )
        self._wanted[one.name] = [run for run, wants in asked if wants]
        return bool(self._wanted[one.name])

    def _ask(self, section: Section, doing: str, kind: Any, call: Callable[..., Any], *given: Any) -> Any:
        """What the section says, None when it raises or gives something else; that is noted."""
        try:
            with attributed_to(section, doing):
                return checked(call(*given), kind)
        except HybridError as error:
            self._note(error)
            return None

    def _note(self, error: HybridError) -> None:
        if error.message not in {one.message for one in self.faults}:
            self.faults.append(error)

    def style(self) -> str:
        """The CSS of all. What would end the page's style element is left out."""
        said = [self._ask(one.section, "giving its style", str, one.section.style) or "" for one in self._active]
        return "".join(f"\n{style.strip()}\n" for style in said if style and "<" not in style)

    def scripts(self) -> list[str]:
        """The JavaScript of each. What would end the page's script element, or begin a comment in it, is left out."""
        said = [self._ask(one.section, "giving its script", str, one.section.script) or "" for one in self._active]
        return [script for script in said if script and not ENDS_SCRIPT.search(script)]

    def head(self) -> Html:
        """Markup that drawings refer to."""
        return join(
            [self._ask(one.section, "giving its definitions", str, one.section.head) or "" for one in self._active]
        )

    def overall(self) -> Html:
        """Each section's own part, under its heading."""
        return join([self._overall(one) for one in self._active])

    def _overall(self, one: Named) -> Html:
        said = self._ask(one.section, "drawing its part", str, one.section.overall, self._wanted[one.name])
        if said is None:
            said = el("p", "This part could not be drawn: see the end of the result.", cls="error")
        heading = el("h2", one.section.title or one.name, *self._whose(one))
        return el("section", heading, said, id=f"section-{one.name}") if said else Html("")

    def _whose(self, one: Named) -> tuple[str, ...]:
        """The run that a part is of, where it is of one among several."""
        wanted = self._wanted[one.name]
        return (f": {wanted[0].label}",) if len(self._runs) > 1 and len(wanted) == 1 else ()

    def task(self, shown: TaskView) -> Html:
        """A task as the first section draws it that does; nothing when none does."""
        for one in self._active:
            if said := self._ask(one.section, f"drawing the task '{shown.task:.80}'", str, one.section.task, shown):
                return join([said])
        return Html("")

    def facts(self, part: Answered) -> list[str]:
        """What is said beside a task's name."""
        return [
            str(fact)
            for one in self._active
            for fact in self._ask(one.section, "telling of a task", Sequence, one.section.facts, part) or ()
        ]

    def values(self, part: Answered) -> dict[str, float | None]:
        """What a task can be sorted by."""
        found: dict[str, float | None] = {}
        for one in self._active:
            said = self._ask(one.section, "telling what tasks are sorted by", Mapping, one.section.values, part)
            found |= {name: _number(value) for name, value in (said or {}).items() if VALUE.fullmatch(str(name))}
        return found

    def sorts(self) -> dict[str, str]:
        """Further ways to sort: label -> sign and name."""
        found: dict[str, str] = {}
        for one in self._active:
            runs = self._wanted[one.name]
            said = self._ask(one.section, "telling what tasks are sorted by", Mapping, one.section.sorts, runs)
            found |= {str(label): value for label, value in (said or {}).items() if SORT.fullmatch(str(value))}
        return found

    def notes(self) -> list[str]:
        """How to read the numbers."""
        return [
            str(line)
            for one in self._active
            for line in self._ask(one.section, "giving its notes", Sequence, one.section.notes, self._wanted[one.name])
            or ()
        ]

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """The figures of the table of a run."""
        for one in self._active:
            if any(wanted is run for wanted in self._wanted[one.name]):
                said = self._ask(one.section, "choosing figures", Mapping, one.section.figures, run, figures)
                figures = figures if said is None else said
        return {name: value for name, value in figures.items() if value.keys() >= {"mean", "n", "interval"}}

    def problems(self) -> Html:
        """The sections that could not be loaded, and the exceptions that others raised."""
        return join(
            [
                _errors("Parts of this page are missing:", self.faults),
                _errors("These report sections could not be loaded, so what they draw is missing:", self.not_loaded),
            ]
        )


def _errors(heading: str, errors: Sequence[HybridError]) -> Html:
    if not errors:
        return Html("")
    shown = [el("li", error.message) for error in errors[:MAX_ERRORS]]
    return el("div", el("p", heading), el("ul", *shown), cls="error")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
