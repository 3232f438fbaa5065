"""An ARC task in pictures: demonstrations, test input, truth, and for every run its attempts and the other votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import counted_names
from hybrid.report.sources import QuestionResult
from hybrid.tasks.arc.drawing import grid_svg, is_grid, not_drawn, size, wrong_cells

LARGE, MEDIUM, SMALL = 150, 110, 72
"""Longer side of a drawing in pixels: questions and attempts, demonstrations, other candidates."""

MOST_OTHERS = 8
"""Candidates beyond the attempts that are drawn; further ones are counted."""


def is_arc(data: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a task's data is demonstrations and test inputs."""
    return isinstance(data, Mapping) and isinstance(data.get("train"), list) and isinstance(data.get("test"), list)


def demonstrations(data: Mapping[str, Any]) -> Html:
    """Pairs of input and output, side by side."""
    pairs = [_pair(number, pair) for number, pair in enumerate(data["train"][:20], start=1)]
    return el("div", *pairs, cls="demos", role="group", aria_label="Demonstrations")


def _pair(number: int, pair: Any) -> Html:
    pair = pair if isinstance(pair, Mapping) else {}
    shown = [_drawn(pair.get(side), MEDIUM, f"Demonstration {number}, {side}") for side in ("input", "output")]
    arrow = el("span", "→", cls="arrow", aria_hidden="true")
    return el("figure", el("figcaption", str(number)), el("div", shown[0], arrow, shown[1], cls="pair"))


def _drawn(grid: Any, wide: int, spoken: str, wrong: Sequence[tuple[int, int]] = ()) -> Html:
    return grid_svg(grid, f"{spoken}, {size(grid)}", wide=wide, wrong=wrong) if is_grid(grid) else not_drawn(grid)


def picture(
    grid: Any, caption: str | Html, wide: int, *, spoken: str, truth: Any = None, under: str = "", cls: str = ""
) -> Html:
    """A captioned grid; against `truth` the wrong cells are crossed. `under` is the text below it."""
    wrong = wrong_cells(grid, truth) if is_grid(grid) and is_grid(truth) else []
    if wrong is None:
        under = f"{size(grid)}, truth is {size(truth)}" + (f"; {under}" if under else "")
    below = el("small", under, cls="views") if under else ""
    return el("figure", el("figcaption", caption), _drawn(grid, wide, spoken, wrong or ()), below, cls=cls or None)


def question(data: Mapping[str, Any], number: int, reference: Any) -> Html:
    """Test input and truth of one question."""
    tests = data["test"]
    shown = tests[number] if number < len(tests) and isinstance(tests[number], Mapping) else {}
    label = f"Test input {number + 1}"
    return join(
        [
            picture(shown.get("input"), label, LARGE, spoken=label),
            picture(reference, "Truth", LARGE, spoken="Truth", cls="truth"),
        ]
    )


def votes_of(result: QuestionResult) -> list[Mapping[str, Any]]:
    """The candidates with their votes, as the grader ranked them."""
    return [vote for vote in _list(result.grade.detail.get("votes")) if isinstance(vote, Mapping)]


def attempts(result: QuestionResult, reference: Any) -> Html:
    """The attempts with their votes, then the other candidates, smaller."""
    detail = result.grade.detail
    votes = votes_of(result)
    tried = _list(detail.get("attempts"))[:4]
    first = [_attempt(number, grid, votes, reference, result.count) for number, grid in enumerate(tried, start=1)]
    if not first:
        first = [el("p", "no attempt: ", result.grade.reason or "no output holds a grid", cls="none")]
    others = [vote for vote in votes if vote.get("grid") not in tried]
    return join([el("div", *first, cls="attempts"), _others(others, reference), _refused(detail)])


def _attempt(number: int, grid: Any, votes: Sequence[Mapping[str, Any]], reference: Any, outputs: int) -> Html:
    right = is_grid(grid) and grid == reference
    vote: Mapping[str, Any] = next((vote for vote in votes if vote.get("grid") == grid), {})
    sign = el("span", "✓" if right else "✗", cls="sign", aria_hidden="true")
    tally = el("small", f"{vote['votes']} of {count_of(outputs, 'output')}" if "votes" in vote else "no view said this")
    caption = join([f"Attempt {number} ", sign, tally])
    word = "right" if right else "wrong"
    return picture(
        grid,
        caption,
        LARGE,
        spoken=f"Attempt {number}, {word}",
        truth=reference,
        under=_views(vote),
        cls=f"attempt {word}",
    )


def _views(vote: Mapping[str, Any]) -> str:
    views = vote.get("views")
    return counted_names(views) if isinstance(views, list) else ""


def _others(others: Sequence[Mapping[str, Any]], reference: Any) -> Html:
    if not others:
        return Html("")
    drawn = [
        picture(
            vote.get("grid"),
            el("small", f"{vote.get('votes', 0)}", title=_views(vote) or None),
            SMALL,
            spoken="Other candidate",
            cls="right" if vote.get("grid") == reference else "",
        )
        for vote in others[:MOST_OTHERS]
    ]
    left = len(others) - len(drawn)
    more = [el("span", f"and {left} more", cls="none")] if left else []
    return el("div", el("span", "Other votes", cls="label"), *drawn, *more, cls="others")


def _refused(detail: Mapping[str, Any]) -> Html:
    refused = detail.get("refused")
    if not isinstance(refused, Mapping) or not refused:
        return Html("")
    reasons = ", ".join(f"{reason} {number}" for reason, number in refused.items())
    return el("p", "Not counted as a vote: ", reasons, cls="facts")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
