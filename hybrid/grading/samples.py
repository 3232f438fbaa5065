"""What several samples of a prompt are worth together: pass@k, majority@k, agreement and spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from hybrid.grading.answers import normal
from hybrid.records import Grade, Output

Vote = Callable[[str], str | None]
"""From the text of an answer to what it votes for; None for no vote."""
Graded = tuple[Output, Grade]


def usual_vote(text: str) -> str | None:
    """The whole answer as SQuAD's script compares it; an empty one does not vote."""
    return normal(text) or None


def sample_figures(graded: Sequence[Graded], asked: int, vote: Vote) -> dict[str, float]:
    """The figures of several samples, of which `asked` were asked and `graded` have a text; none of fewer than two.

    `pass@k`: the chance that the best of k samples is right, estimated without bias from the n that have a score (Chen
    et al. 2021, arXiv 2107.03374); of scores between 0 and 1 the expected best of k. `majority@k`: the score of the
    answer that most of the first k samples vote for, of a tie that which was given first (Wang et al. 2023, arXiv
    2203.11171). Both for k = 2, 4, 8, ... and `asked`, as far as so many samples are there. `agreement`: the share of
    the samples that vote for the majority's answer. `spread`: the standard deviation of the scores.
    """
    graded = sorted(graded, key=_sample)
    scores = tuple(sorted(grade.score for _, grade in graded if grade.score is not None))
    if len(scores) < 2 or len(set(map(_sample, graded))) < len(graded):
        return {}
    votes, known = [vote(output.text or "") for output, _ in graded], [grade.score for _, grade in graded]
    return {**_of_scores(scores, asked), **_of_votes(votes, known, sizes(asked))}


def _sample(one: Graded) -> int:
    return one[0].sample


@lru_cache(maxsize=1024)  # few combinations of scores serve many questions
def _of_scores(scores: tuple[float, ...], asked: int) -> Mapping[str, float]:
    mean = math.fsum(scores) / len(scores)
    spread = math.sqrt(math.fsum((one - mean) ** 2 for one in scores) / (len(scores) - 1))
    best = {f"pass@{k}": best_of(scores, k) for k in sizes(asked) if k <= len(scores)}
    return {**best, "spread": min(1.0, round(spread, 12))}


@lru_cache(maxsize=64)
def sizes(n: int) -> tuple[int, ...]:
    """The numbers of samples for which there are figures: powers of two from 2, and n itself."""
    return *(2**power for power in range(1, n.bit_length()) if 2**power < n), n


def best_of(scores: Sequence[float], k: int) -> float:
    """The expected best of k scores that are drawn without replacement from `scores`, which are sorted.

    Of scores 0 and 1 with c ones among n this is 1 - C(n - c, k) / C(n, k), pass@k.
    """
    return min(1.0, round(math.fsum(map(float.__mul__, _weights(len(scores), k), scores)), 12))


@lru_cache(maxsize=256)
def _weights(n: int, k: int) -> tuple[float, ...]:
    """The chance of each of n sorted scores to be the best of k: C(i, k - 1) / C(n, k) for the i-th, from 0.

    From the last one, k / n, down: each is (i - k + 1) / i of the one above it, without the binomials themselves.
    """
    found = [0.0] * n
    chance = k / n
    for i in range(n - 1, k - 2, -1):
        found[i] = chance
        chance *= (i - k + 1) / i if i else 0.0
    return tuple(found)


def _of_votes(votes: Sequence[str | None], scores: Sequence[float | None], ks: Sequence[int]) -> dict[str, float]:
    """The majority's score after each number of votes in `ks`, where it has one, and at the end its share of all."""
    counts: dict[str, int] = {}
    found: dict[str, float] = {}
    for number, one in enumerate(votes, start=1):
        if one is not None:
            counts[one] = counts.get(one, 0) + 1
        if number in ks and (score := _score_of(_winner(counts), votes[:number], scores)) is not None:
            found[f"majority@{number}"] = score
    found["agreement"] = max(counts.values(), default=0) / len(votes)
    return found


def _winner(counts: Mapping[str, int]) -> str | None:
    """The answer with the most votes, of a tie that which was counted first."""
    return max(counts, key=counts.__getitem__, default=None)


def _score_of(winner: str | None, votes: Sequence[str | None], scores: Sequence[float | None]) -> float | None:
    """The mean score of the samples that voted for the winner, which a judge may grade differently; None when none has
    one. Where nobody votes there is no answer to be right.
    """
    if winner is None:
        return 0.0
    known = [score for one, score in zip(votes, scores, strict=False) if one == winner and score is not None]
    return math.fsum(known) / len(known) if known else None
