"""What a judge makes of the order in which two texts are shown: one that goes by it alone makes ties of all pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hybrid.metrics import Measured
from pipelines.branch.reading import TreeNode

PREFERS_FIRST = "the judge prefers the text shown first"
FEWEST = 8
"""Answers from which on a warning is given."""
EXTREME = 0.9
"""A share of one of the two places from which on the judge is taken to go by the place alone."""


def answers_by_order(nodes: Sequence[TreeNode]) -> tuple[int, int]:
    """How many of the judge's answers name the text shown first, and how many there are."""
    return sum(one.first_won for one in nodes), sum(one.shown_first for one in nodes)


def order_measured(task: str, nodes: Sequence[TreeNode]) -> Iterator[Measured]:
    """The share of the first place. Each pair is shown in both orders, so a judge that reads has a half.

    Without an interval: the two answers of a pair depend on each other, and the records do not tell pairs apart.
    """
    first, every = answers_by_order(nodes)
    if every:
        even, against = (0.5, 0.5), "no preference for a place"
        yield Measured(task, PREFERS_FIRST, round(first / every, 6), every, None, 0.5, even, against)


def order_warning(nodes: Sequence[TreeNode]) -> str:
    """A sentence where the judge goes by the order alone; "" where it does not, or that is not known."""
    first, every = answers_by_order(nodes)
    most = max(first, every - first)
    if every < FEWEST or most < EXTREME * every:
        return ""
    place = "first" if most == first else "second"
    return (
        f"the judge named the text shown {place} in {most:,} of {every:,} answers: it goes by the order. Each pair is "
        "shown in both orders, so nearly all are ties, which tell nothing of the texts; take another judge"
    )
