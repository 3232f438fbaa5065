"""What the candidates of a run are worth: how diverse, relevant and well made, beside plain samples."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hybrid.machine.terminal import clean_line
from hybrid.metrics import Measured
from hybrid.protocols import Watcher
from hybrid.records import Grade, Output
from hybrid.statistics.diversity import entropy_shares
from pipelines.branch.measures import chance, measured, rows_of, vendi_of
from pipelines.branch.order import order_warning
from pipelines.branch.reading import TreeNode, kept_of, plain_of, trees

LOG = logging.getLogger("hybrid")
LONGEST = 100
"""Characters of a scenario's name in a warning."""
MOST_NAMES = 3
"""Scenarios that a warning names."""


@dataclass(frozen=True)
class Branch:
    """A kept text's part in the diversity of what was kept: 1 where it is unlike all others, 0 where all are the same.

    The mean over the k kept texts of a scenario is log(Vendi score) / log(k). Its control is the same figure of k plain
    samples that chance chose. What was not kept has no score. Vendi scores, relevance, constraints, distinct-2,
    self-BLEU, the judge's preference and the gain per 1,000 tokens of each strategy are measured of all together.
    """

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[BranchMeasures]:
        """Measure each scenario. No model is asked: the records hold the vectors."""
        shares: dict[str, Share] = {}
        figures: list[Measured] = []
        warnings: dict[str, str] = {}
        for task, nodes in trees(outputs):
            shares |= _shares(task, nodes)
            figures += measured(task, nodes)
            if warning := order_warning(nodes):
                warnings[task] = warning
        _warn(warnings)
        yield BranchMeasures(shares, figures)


@dataclass(frozen=True, slots=True)
class Share:
    """A kept text's part in the diversity, None with the reason why it has none, and the control's."""

    value: float | None
    reason: str = ""
    control: float | None = None


@dataclass(frozen=True, slots=True)
class BranchMeasures:
    """The grader after it has seen all nodes: question -> share."""

    shares: Mapping[str, Share]
    figures: Sequence[Measured]

    def grade(self, output: Output) -> Grade:
        """The share of a text that was kept; for anything else none is due."""
        share = self.shares.get(output.question)
        if share is None:
            return Grade(None, "of the control" if output.view.get("control") is True else "not kept", due=False)
        if share.value is None:
            return Grade(None, share.reason)
        controls = {} if share.control is None else {"plain samples by chance": share.control}
        return Grade(share.value, controls=controls)

    def measures(self) -> Sequence[Measured]:
        """What was measured of each scenario."""
        return self.figures


def _warn(warnings: Mapping[str, str]) -> None:
    """One line for all scenarios that have a warning: its words for the first one, and the names of the first few."""
    if warnings:
        names = ", ".join(clean_line(task, LONGEST) for task in list(warnings)[:MOST_NAMES])
        more = f" and {len(warnings) - MOST_NAMES:,} more" if len(warnings) > MOST_NAMES else ""
        first = "" if len(warnings) == 1 else "of the first: "
        LOG.warning("%s%s: %s%s", names, more, first, next(iter(warnings.values())))


def _shares(task: str, nodes: Sequence[TreeNode]) -> dict[str, Share]:
    """The part of each kept text."""
    kept = kept_of(nodes)
    lacking = {one.id: Share(None, "no embedding") for one in kept if not one.vector}
    known = [one for one in kept if one.vector]
    rows = rows_of(known)
    if len(known) < 2:
        return {**lacking, **{one.id: Share(None, "the only kept text: diversity needs two") for one in known}}
    if rows is None:
        return {one.id: Share(None, "embeddings of different models") for one in kept}
    pool = [one for one in plain_of(nodes, max(one.depth for one in known)) if len(one.vector) == rows.shape[1]]
    most = math.log(len(known))

    def evenness(chosen: Sequence[TreeNode]) -> float | None:
        value = vendi_of(chosen)
        return None if value is None else min(1.0, math.log(max(1.0, value)) / most)

    control = chance(pool, len(known), evenness, f"{task} vendi", 1.0)
    expected = None if control is None else control.mean
    parts = zip(known, entropy_shares(rows), strict=True)
    return {**lacking, **{one.id: Share(min(1.0, len(known) * part / most), "", expected) for one, part in parts}}
