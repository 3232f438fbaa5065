"""Ways through the tasks: all of them at one look, and the filter and sort that the script serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.report.markup import Html, el
from hybrid.report.sources import ReportRun

STATES = ("right", "partly", "wrong", "ungraded", "absent")

SHOWS = (
    ("all", "All"), ("right", "Right"), ("partly", "Partly"), ("wrong", "Wrong"), ("ungraded", "Ungraded"),
    ("failed", "Failed outputs"), ("differ", "Runs differ"),
)  # fmt: skip

SORTS = (
    ("file", "As in the file"), ("id", "By id"), ("best", "Best score first"), ("worst", "Worst score first"),
)  # fmt: skip


def overview(sources: Sequence[ReportRun], names: Sequence[str], states: Sequence[Sequence[str]]) -> Html:
    """A square a task, a row a run. `states` holds for each drawn task its standing in every run."""
    rows = [
        _row(source, names, [each[index] for each in states], len(sources) > 1) for index, source in enumerate(sources)
    ]
    return el("nav", *rows, _legend(states), cls="overview", aria_label="All tasks at a glance")


def _row(source: ReportRun, names: Sequence[str], states: Sequence[str], several: bool) -> Html:
    squares = [
        el("a", href=f"#t{number}", title=f"{task}: {state}", aria_label=f"{task}: {state}", cls=state, tabindex="-1")
        for number, (task, state) in enumerate(zip(names, states, strict=True), start=1)
    ]
    return el("div", el("p", source.label, cls="facts") if several else "", el("div", *squares, cls="squares"))


def _legend(states: Sequence[Sequence[str]]) -> Html:
    present = {state for each in states for state in each}
    return el(
        "p",
        *(el("span", el("i", cls=state, aria_hidden="true"), state) for state in STATES if state in present),
        cls="legend",
    )


def tools(several: bool, more: Mapping[str, str]) -> Html:
    """Filter and sort; hidden until the script is there to serve them. `more` are the sections' own ways to sort."""
    shows = [_choice(value, name) for value, name in SHOWS if several or value != "differ"]
    sorts = [el("option", name, value=value) for value, name in SORTS]
    sorts += [el("option", name, value=value) for name, value in more.items()]
    return el(
        "div",
        el("fieldset", el("legend", "Show"), *shows),
        el(
            "label",
            "Task",
            el("input", id="find", type="search", placeholder="id, or /", autocomplete="off", spellcheck="false"),
        ),
        el("label", "Sort", el("select", *sorts, id="sort")),
        el("output", "", id="shown", aria_live="polite"),
        id="tools",
        hidden=True,
        role="search",
    )


def _choice(value: str, name: str) -> Html:
    """A radio button as a word with the number of tasks that it keeps."""
    button = el("input", type="radio", name="show", value=value, checked=value == "all")
    return el("label", button, el("span", f"{name} ", el("b", "")))
