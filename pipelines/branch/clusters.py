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

from hybrid.errors import BadData
from pipelines.branch.rows import Rows, cosines

STEPS = 2.0**20
MOST = 4096
"""Texts that are clustered at a time; memory is 8 bytes times the square, 128 MiB here."""

Floats = NDArray[np.float64]


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
    """The clusters of the rows whose average cosine reaches `limit`. Raises BadData for more than MOST rows."""
    if len(rows) > MOST:
        raise BadData(
            f"{len(rows):,} texts are more than the {MOST:,} that are clustered", hint="cluster the kept ones"
        )
    order = sorted(range(len(ids)), key=lambda place: ids[place])
    near = np.rint(cosines(rows[order], rows[order]) * STEPS)
    found = []
    for members in _merged(near.copy(), limit * STEPS):
        totals = near[np.ix_(members, members)].sum(axis=1)
        found.append((members[int(totals.argmax())], members))
    found.sort(key=lambda one: (-len(one[1]), ids[order[one[0]]]))
    labels = {order[member]: label for label, (_, members) in enumerate(found) for member in members}
    return Clusters(tuple(labels[place] for place in range(len(ids))), tuple(order[medoid] for medoid, _ in found))


def _merged(sums: Floats, limit: float) -> list[list[int]]:
    """Members of each cluster, sorted; `sums` are the cosines, and then their sums over the members of two clusters.

    Of each cluster the nearest one is kept: a merge changes it only where it was one of the two that merge, since an
    average of two averages is above neither both.
    """
    n = len(sums)
    members = {place: [place] for place in range(n)}
    sizes = np.ones(n)
    np.fill_diagonal(sums, -np.inf)
    partner, best = (sums.argmax(axis=1), sums.max(axis=1)) if n else (np.zeros(0, dtype=np.int64), np.zeros(0))
    while len(members) > 1:
        first = int(best.argmax())
        if best[first] < limit:
            break
        keep, gone = sorted((first, int(partner[first])))
        sums[keep] += sums[gone]
        sums[:, keep] = sums[keep]
        sums[gone] = sums[:, gone] = sums[keep, keep] = best[gone] = -np.inf
        sizes[keep] += sizes[gone]
        members[keep] = sorted(members[keep] + members.pop(gone))
        for place in [place for place in members if place == keep or partner[place] in (keep, gone)]:
            averages = sums[place] / (sizes * sizes[place])
            partner[place] = averages.argmax()
            best[place] = averages[partner[place]]
    return list(members.values())
