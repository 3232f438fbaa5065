"""What is near, on topic, good and different among the nodes of one scenario."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hybrid.backends.registry import open_embedder
from hybrid.statistics.diversity import good_turing
from pipelines.branch.acceptance import WORDS, kept_share, normalised
from pipelines.branch.calibration import Calibration, calibrated
from pipelines.branch.clusters import clustered
from pipelines.branch.features import mixed
from pipelines.branch.nodes import Node
from pipelines.branch.rows import Rows, cosines, nearest, unit_rows
from pipelines.branch.scenario import FEATURES, Level, Scenario
from pipelines.branch.selection import SAME, Candidates, select
from pipelines.branch.settings import BranchSettings

HIGHEST = 0.98
"""No threshold is higher: above it two texts are the same for every model."""
GRAM = 3
THEME = 0.5
"""Sigma above the middle of the nodes' own cosines at which two are of one cluster."""
FEWEST = 4
"""Texts before the chance of a new one is estimated."""


ROUNDING = 1e-3
"""Distance of two unit vectors that are the same but for rounding."""


def by_letters(text: str, vector: Sequence[float]) -> bool:
    """Whether the vector of a text is that of the embedder `hashed`, which knows letters and no meaning."""
    (known,) = open_embedder("hashed", "", {}).embed([text])
    return isinstance(known, tuple) and len(known) == len(vector) and math.dist(known, vector) < ROUNDING


class Selecting:
    """The measures of one scenario: by texts that are unrelated, with their vectors, and by the vector of its brief."""

    def __init__(
        self,
        settings: BranchSettings,
        scenario: Scenario,
        unrelated: Sequence[tuple[str, Sequence[float]]],
        brief: Sequence[float],
    ) -> None:
        self._settings, self._scenario = settings, scenario
        rows = unit_rows([vector for _, vector in unrelated])
        self.dimensions = rows.shape[1]
        self.calibration: Calibration = calibrated(rows, [text for text, _ in unrelated])
        self._brief = unit_rows([brief], self.dimensions)
        self._duplicate = min(self.calibration.at(settings.duplicate), HIGHEST)
        self._similar = min(self.calibration.at(settings.similar), HIGHEST)
        self._relevant = self._floor(brief)

    def _floor(self, brief: Sequence[float]) -> float:
        """The cosine with the brief below which a text is off topic: -1, without a check, for vectors of letters.

        These cannot tell a text about the brief from one about another (docs/selection.md).
        """
        if self._settings.relevant is None and by_letters(self._scenario.brief, brief):
            return -1.0
        return self.calibration.at(self._settings.relevant or 0.0)

    def measure(self, node: Node, vector: tuple[float, ...], level: Level) -> None:
        """Set the vector, the row and the features of a node with text. Raises BadData for other dimensions."""
        node.vector, node.row = vector, unit_rows([vector], self.dimensions)[0]
        relevance = float(cosines(node.row[None], self._brief)[0, 0])
        node.features = {
            **node.features,
            "relevance": round(relevance, 6),
            "constraints": kept_share(node.text or "", level, node.finish),
        }

    def check(self, node: Node, siblings: Sequence[Node]) -> Node | None:
        """Refuse a node that is off topic or too near to a sibling that was accepted before; that sibling, if any."""
        if (relevance := node.features["relevance"]) < self._relevant:
            sigmas = self.calibration.sigmas(relevance)
            node.decide("rejected-off-topic", f"{sigmas:.1f} sigma above unrelated texts: not about the brief")
            return None
        same = [one for one in siblings if normalised(one.text or "") == normalised(node.text or "")]
        if same:
            node.decide("rejected-duplicate", "the same text", similarity=1.0)
            return same[0]
        (place,), (near,) = nearest(node.row[None], stacked(siblings, self.dimensions))
        if near <= self._duplicate:
            return None
        sigmas = self.calibration.sigmas(near)
        node.decide("rejected-duplicate", f"{sigmas:.1f} sigma above unrelated texts", similarity=round(near, 4))
        return siblings[place]

    def exhausted(self, repeats: Mapping[int, int]) -> bool:
        """Whether a further text is new with too low a chance; `repeats` counts how often each text came."""
        seen = sum(repeats.values())
        return seen >= FEWEST and good_turing(list(repeats.values())).value < self._settings.novelty

    def score(self, nodes: Sequence[Node], strengths: Mapping[str, float]) -> None:
        """Set the scores of the candidates of a level; `strengths` are what a judge found of some of them."""
        for node, share in zip(nodes, own_shares([node.text or "" for node in nodes]), strict=True):
            node.features["variety"] = round(share, 6)
            if node.id in strengths:
                node.features["judge"] = round(strengths[node.id], 6)
        features = {name: [node.features.get(name) for node in nodes] for name in FEATURES}
        weights = {name: weight for name, weight in self._scenario.weights.items() if weight}
        for node, score in zip(nodes, mixed(features, weights), strict=True):
            node.score = score

    def select(self, nodes: Sequence[Node], k: int) -> list[Node]:
        """The k best and most different nodes, fewer where the rest is too similar; the others get their verdict."""
        if not nodes:
            return []
        pool = Candidates(
            stacked(nodes, self.dimensions), [node.score or 0.0 for node in nodes], [node.id for node in nodes]
        )
        how = self._settings
        limit = SAME if how.select == "beam" else self._similar
        found = select(
            how.select, pool, min(k, len(nodes)), limit=limit, balance=how.balance, unrelated=self.calibration.middle
        )
        for drop in found.dropped:
            sibling = "" if drop.sibling is None else nodes[drop.sibling].id
            near = None if drop.similarity is None else round(drop.similarity, 4)
            reason = f"{k} others were chosen before it"
            if drop.verdict == "dropped-similar" and near is not None:
                reason = f"{self.calibration.sigmas(near):.1f} sigma above unrelated texts"
            nodes[drop.place].decide(drop.verdict, reason, sibling, near)
        return [nodes[place] for place in found.kept]

    def clusters(self, nodes: Sequence[Node]) -> Sequence[int]:
        """The cluster of each node: its members are nearer to each other than most of these nodes are.

        All are about one brief, so "near" is measured among themselves and not beside unrelated texts.
        """
        ids = [node.id for node in nodes]
        if len(set(ids)) < 2:
            return [0] * len(ids)
        rows = stacked(nodes, self.dimensions)
        return clustered(rows, ids, min(calibrated(rows, ids).at(THEME), self._similar)).labels


def own_shares(texts: Sequence[str]) -> list[float]:
    """Of each text the share of its different runs of GRAM words that no other one has; 1 for a text without any."""
    words = [[word.casefold() for word in WORDS.findall(text)] for text in texts]
    grams = [set(zip(*(some[start:] for start in range(GRAM)), strict=False)) for some in words]
    counts = Counter(gram for some in grams for gram in some)
    return [sum(counts[gram] == 1 for gram in some) / len(some) if some else 1.0 for some in grams]


def stacked(nodes: Sequence[Node], dimensions: int) -> Rows:
    """The rows of the nodes, n x d."""
    return np.array([node.row for node in nodes], dtype=np.float64).reshape(len(nodes), dimensions)
