"""Clusters of similar texts by average linkage: how many there are is found, not chosen.

The two clusters whose members are on average the most similar become one, until no two are as near as the limit.
Cosines are rounded to 2^-20, so that their sums are exact and equal averages are equal; of equal ones the smaller ids
come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.branch.rows import Rows, cosines

STEPS = 2.0**20
MOST = 2048
"""Texts that are clustered at a time; memory is a few times 8 bytes times the square, 32 MiB each."""

BLOCK = 1024
"""Texts that join clusters at a time."""

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clusters:
    """`labels` has the cluster of each text; cluster 0 is the largest. A medoid is the text nearest to all of its
    cluster."""

    labels: tuple[int, ...]
    medoids: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Texts of each cluster."""
        return tuple(self.labels.count(label) for label in range(len(self.medoids)))


def clustered(rows: Rows, ids: Sequence[str], limit: float) -> Clusters:
    """The clusters of the rows whose average cosine reaches `limit`.

    Of more than MOST texts an even sample is clustered; each other text joins the cluster to which its average cosine
    is the highest, and those that reach the limit with none are clustered in the same way.
    """
    order = sorted(range(len(ids)), key=lambda place: ids[place])
    ordered, rest = rows[order], np.arange(len(ids))
    found: list[tuple[int, list[int]]] = []
    while len(rest):
        sample = rest[np.arange(min(MOST, len(rest))) * len(rest) // min(MOST, len(rest))]
        groups = [sample[members] for members in _merged(_steps(ordered[sample], ordered[sample]), limit * STEPS)]
        others = np.setdiff1d(rest, sample)
        joined = _joined(ordered, groups, others, limit * STEPS)
        for label, group in enumerate(groups):
            totals = _steps(ordered[group], ordered[group]).sum(axis=1)
            found.append((int(group[totals.argmax()]), [*group.tolist(), *others[joined == label].tolist()]))
        rest = others[joined < 0]
    found.sort(key=lambda one: (-len(one[1]), one[0]))  # places are in the order of ids
    labels = {order[member]: label for label, (_, members) in enumerate(found) for member in members}
    return Clusters(tuple(labels[place] for place in range(len(ids))), tuple(order[medoid] for medoid, _ in found))


def _steps(rows: Rows, others: Rows) -> Floats:
    """Cosines as whole numbers of steps."""
    return np.rint(cosines(rows, others) * STEPS)


def _joined(rows: Rows, groups: Sequence[Places], others: Places, limit: float) -> Places:
    """For each of `others` the group to which its average cosine is the highest, -1 where none reaches the limit."""
    if not len(others):
        return np.zeros(0, dtype=np.int64)
    starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
    sizes = np.array([len(group) for group in groups])
    members = rows[np.concatenate(groups)]
    found = []
    for start in range(0, len(others), BLOCK):
        sums = np.add.reduceat(_steps(rows[others[start : start + BLOCK]], members), starts, axis=1)
        averages = sums / sizes
        best = averages.argmax(axis=1)
        found.append(np.where(averages.max(axis=1) >= limit, best, -1))
    return np.concatenate(found)


def _merged(sums: Floats, limit: float) -> list[list[int]]:
    """Members of each cluster, sorted; `sums` are the cosines, and then their sums over the members of two clusters.

    Of each cluster the nearest one is kept: a merge changes it only where it was one of the two that merge, since an
    average of two averages is above neither both.
    """
    n = len(sums)
    members = {place: [place] for place in range(n)}
    sizes = np.ones(n)
    np.fill_diagonal(sums, -np.inf)
    partner, best = sums.argmax(axis=1), sums.max(axis=1)
    while len(members) > 1:
        first = int(best.argmax())
        if best[first] < limit:
            break
        keep, gone = sorted((first, int(partner[first])))
        sums[keep] += sums[gone]
        sums[:, keep] = sums[keep]
        sums[gone] = sums[:, gone] = sums[keep, keep] = best[gone] = -np.inf
        partner[gone] = -1
        sizes[keep] += sizes[gone]
        members[keep] = sorted(members[keep] + members.pop(gone))
        partner[keep] = keep
        for place in np.flatnonzero((partner == keep) | (partner == gone)):
            averages = sums[place] / (sizes * sizes[place])
            partner[place] = averages.argmax()
            best[place] = averages[partner[place]]
    return list(members.values())
