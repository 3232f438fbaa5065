"""Navigation: an overview of all tasks, and the controls for filter and sort, which need the script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.report.markup import Html, el
from hybrid.report.sources import ReportRun

STATUSES = ("right", "partly", "wrong", "graded", "ungraded", "unscored", "absent")

RIGHT_OR_WRONG = ("right", "partly", "wrong")

SHOWS = (
    ("all", "All"), ("right", "Right"), ("partly", "Partly"), ("wrong", "Wrong"), ("ungraded", "Ungraded"),
    ("failed", "Failed outputs"), ("differ", "Runs differ"),
)  # fmt: skip

SORTS = (
    ("file", "As in the file"), ("id", "By id"), ("best", "Best score first"), ("worst", "Worst score first"),
)  # fmt: skip


def overview(sources: Sequence[ReportRun], names: Sequence[str], statuses: Sequence[Sequence[str]]) -> Html:
    """A row per run with a square per task. `statuses` holds the statuses of each drawn task, one per run."""
    several = len(sources) > 1
    rows = [_row(run, names, [each[index] for each in statuses], several) for index, run in enumerate(sources)]
    return el("nav", *rows, _legend(statuses), cls="overview", aria_label="All tasks at a glance")


def _row(source: ReportRun, names: Sequence[str], statuses: Sequence[str], several: bool) -> Html:
    each = enumerate(zip(names, statuses, strict=True), start=1)
    squares = [_square(number, task, status) for number, (task, status) in each]
    return el("div", el("p", source.label, cls="facts") if several else "", el("div", *squares, cls="squares"))


def _square(number: int, task: str, status: str) -> Html:
    label = f"{task}: {status}"
    return el("a", href=f"#t{number}", title=label, aria_label=label, cls=status, tabindex="-1")


def _legend(statuses: Sequence[Sequence[str]]) -> Html:
    present = {status for each in statuses for status in each}
    return el(
        "p",
        *(el("span", el("i", cls=status, aria_hidden="true"), status) for status in STATUSES if status in present),
        cls="legend",
    )


def tools(several: bool, more: Mapping[str, str], *, judged: bool = True) -> Html:
    """The controls for filter and sort, hidden until the script runs. `more` are the sort orders of sections.

    Unless `judged`, no task is right or wrong, and there is no filter for that.
    """
    shows = [
        _choice(value, name)
        for value, name in SHOWS
        if (several or value != "differ") and (judged or value not in RIGHT_OR_WRONG)
    ]
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
    """A radio button: its name and the number of tasks that it keeps."""
    button = el("input", type="radio", name="show", value=value, checked=value == "all")
    return el("label", button, el("span", f"{name} ", el("b", "")))
