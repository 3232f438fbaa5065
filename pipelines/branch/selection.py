"""Choose k of n candidates: the best, or good ones that differ from each other.

| method | chooses |
| --- | --- |
| `beam` | the k best scores |
| `cosine` | best first, those that are at most `limit` near to all kept before |
| `mmr` | the most of balance x score - (1 - balance) x nearness to what is kept (Carbonell and Goldstein 1998) |
| `dpp` | what adds the most volume: a determinantal point process, greedily (Chen, Zhang and Zhou 2018, NeurIPS) |

A choice costs one product of the rows with the row that was chosen: n x d for each of k, and the n x n similarities are
never held. Everything is computed element by element or exactly (`rows`), ties go to the higher score and then to the
smaller id: the same vectors give the same choice in any order of the candidates, on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import BadData, UsageError, nearest
from pipelines.branch.features import by_score
from pipelines.branch.rows import Rows, refuse_other_dimensions

SAME = 1.0 - 1e-6
"""The cosine above which two rows are the same: no method keeps both."""

NARROW = 1e-6
"""The least cosine from unrelated texts to the limit: with a lower one nothing that may be kept is near."""

BALANCE = 0.1
"""Of `mmr`: how much the score counts; the rest is difference from what is kept.

Scores are spread over [0, 1], cosines are not: with 0.5 a choice is hardly more diverse than that of the best scores.
"""

WEIGHT = 0.05
"""Of `dpp`: how much lower the quality of the lowest score is than that of the highest, 0 (equal) to 1 (nothing)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is chosen from: unit rows, scores in [0, 1], and ids, each once."""

    rows: Rows
    scores: Sequence[float]
    ids: Sequence[str]

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.scores) == len(self.ids) == len(set(self.ids)):
            raise BadData("candidates need one row, one score and one id each, and no id twice")


@dataclass(frozen=True, slots=True)
class Drop:
    """A candidate that was not kept, and its nearest kept sibling with their cosine.

    A sibling is the place of a candidate; -1 - i is row i of what was kept before.
    """

    place: int
    verdict: Literal["dropped-beam", "dropped-similar"]
    sibling: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Selection:
    """Places of kept candidates as they were chosen, and all others by place."""

    kept: tuple[int, ...]
    dropped: tuple[Drop, ...]


@dataclass(slots=True)
class _Choice:
    """A choice while it is made: first `before` rows that were kept already, then candidates in the order of
    `by_score`."""

    rows: Rows
    scores: Floats
    before: int
    limit: float
    near: Floats = field(init=False)  # the highest cosine with a kept row
    sibling: NDArray[np.int64] = field(init=False)
    free: NDArray[np.bool_] = field(init=False)  # neither kept nor too near
    kept: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.near = np.full(len(self.rows), -np.inf)
        self.sibling = np.zeros(len(self.rows), dtype=np.int64)
        self.free = np.ones(len(self.rows), dtype=bool)

    def keep(self, place: int) -> Floats:
        """Keep a row; gives the cosines of all rows with it."""
        self.kept.append(place)
        found: Floats = np.clip(self.rows @ self.rows[place], -1.0, 1.0)
        nearer = found > self.near
        self.near[nearer] = found[nearer]
        self.sibling[nearer] = place
        self.free &= self.near <= self.limit
        self.free[place] = False
        return found

    def goes_on(self, k: int) -> bool:
        """Whether one more can be kept."""
        return len(self.kept) < self.before + k and bool(self.free.any())


def _best_first(choice: _Choice, k: int, _: float, __: float) -> None:
    for place in range(choice.before):
        choice.keep(place)
    while choice.goes_on(k):
        choice.keep(int(choice.free.argmax()))


def _mmr(choice: _Choice, k: int, balance: float, unrelated: float) -> None:
    span = max(choice.limit - unrelated, NARROW)
    for place in range(choice.before):
        choice.keep(place)
    while choice.goes_on(k):
        near = np.clip((choice.near - unrelated) / span, 0.0, 1.0)
        gain = balance * choice.scores - (1.0 - balance) * near
        gain[~choice.free] = -np.inf
        choice.keep(int(gain.argmax()))


def _dpp(choice: _Choice, k: int, weight: float, _: float) -> None:
    """`distance` is the squared one of each candidate from the span of what is kept, by an incremental Cholesky factor.

    Where none has a distance, as when k is over the number of dimensions, the highest score is next.
    """
    quality = 1.0 - weight + weight * choice.scores
    distance = quality * quality * np.einsum("ij,ij->i", choice.rows, choice.rows)
    least = 1e-9 * distance.max(initial=0.0)
    factor: list[Floats] = []
    while len(choice.kept) < choice.before or choice.goes_on(k):
        place = len(choice.kept)
        if place >= choice.before:
            gain = np.where(distance > least, distance, 0.0)
            gain[~choice.free] = -np.inf
            place = int(gain.argmax())
        left = distance[place]
        row = quality[place] * quality * choice.keep(place)
        if left <= least:
            continue
        for known in factor:  # one after another: a library sums in an order of its own
            row -= known[place] * known
        row /= np.sqrt(left)
        factor.append(row)
        distance -= row * row


METHODS: Mapping[str, tuple[Callable[[_Choice, int, float, float], None], float]] = {
    "beam": (_best_first, 0.0),
    "cosine": (_best_first, 0.0),
    "mmr": (_mmr, BALANCE),
    "dpp": (_dpp, WEIGHT),
}
"""Name -> what keeps up to k candidates, and its usual balance."""


def select(
    method: str,
    candidates: Candidates,
    k: int,
    *,
    limit: float = SAME,
    balance: float | None = None,
    unrelated: float = 0.0,
    kept: Rows | None = None,
) -> Selection:
    """Keep up to k candidates by `method`: fewer when all others are nearer than `limit` to a kept one.

    `balance` is that of `mmr` or the weight of `dpp`; the nearness that `mmr` subtracts goes from 0, at a cosine of
    `unrelated`, to 1, at `limit`. Rows that are `kept` already count as kept siblings. `beam` and `cosine` differ in
    name only: with the limit SAME they take the best. Raises UsageError for an unknown method, a k that is not 1 to n
    and numbers out of their bounds, BadData for rows of other dimensions.
    """
    if method not in METHODS:
        raise UsageError(f"there is no selection '{method}'", hint=nearest(method, METHODS))
    refuse_k(k, len(candidates.ids))
    choose, usual = METHODS[method]
    share = usual if balance is None else balance
    _refuse_outside(share, limit, unrelated)
    order = by_score(candidates.scores, candidates.ids)
    before = 0 if kept is None else len(kept)
    rows, scores = candidates.rows[order], np.array([candidates.scores[place] for place in order])
    if kept is not None and before:
        refuse_other_dimensions(candidates.rows, kept.shape[1])
        rows, scores = np.concatenate([kept, rows]), np.concatenate([np.ones(before), scores])
    choice = _Choice(rows, scores, before, min(limit, SAME))
    choose(choice, k, share, unrelated)
    names = [*range(-1, -1 - before, -1), *order]
    return Selection(
        tuple(names[place] for place in choice.kept[before:]),
        tuple(sorted(_drops(choice, names), key=lambda drop: drop.place)),
    )


def refuse_k(k: int, n: int) -> None:
    """Raise UsageError when k of n candidates cannot be chosen."""
    if not 1 <= k <= n:
        raise UsageError(
            f"{k:,} of {n:,} candidates cannot be kept", hint="ask for more candidates, or for fewer to keep, 1 or more"
        )


def _refuse_outside(balance: float, limit: float, unrelated: float) -> None:
    if not 0.0 <= balance <= 1.0:
        raise UsageError(f"the balance of a selection is 0 to 1, not {balance}")
    for name, cosine in (("limit", limit), ("cosine of unrelated texts", unrelated)):
        if not -1.0 <= cosine <= 1.0:
            raise UsageError(f"the {name} of a selection is -1 to 1, not {cosine}")


def _drops(choice: _Choice, names: Sequence[int]) -> Iterator[Drop]:
    """Each candidate that was not kept; one that is still free had better ones before it."""
    for place in sorted(set(range(choice.before, len(names))) - set(choice.kept)):
        yield Drop(
            place=names[place],
            verdict="dropped-beam" if choice.free[place] else "dropped-similar",
            sibling=names[int(choice.sibling[place])],
            similarity=round(float(choice.near[place]), 6),
        )
