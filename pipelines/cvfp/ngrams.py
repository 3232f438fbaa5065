"""Predictors without a network, to which every other is compared: unigrams, and bigrams smoothed by Witten and Bell."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import pairwise

from pipelines.cvfp.phase2 import Score

FIRST = 5
"""Tokens that are guessed."""


class Unigram:
    """Shares of tokens in documents, with one more count for each token of the vocabulary."""

    def __init__(self, documents: Iterable[Sequence[int]], vocabulary: int) -> None:
        self.counts = Counter(token for document in documents for token in document)
        self.total = sum(self.counts.values()) + vocabulary

    def probability(self, token: int, before: int = 0) -> float:
        """Of a token, wherever it is."""
        return (self.counts[token] + 1) / self.total

    @cached_property
    def _first(self) -> list[int]:
        return sorted(self.counts, key=lambda token: (-self.counts[token], token))[:FIRST]

    def likeliest(self, before: int = 0) -> list[int]:
        """The most frequent tokens, the first one first; of equal ones that with the lower number."""
        return self._first


class Bigram:
    """The share of a token after another one, mixed with the unigram's by how many kinds followed it.

    Witten and Bell 1991: with n tokens of t kinds seen after a token, p = (count + t * unigram) / (n + t).
    """

    def __init__(self, documents: Sequence[Sequence[int]], vocabulary: int) -> None:
        self.unigram = Unigram(documents, vocabulary)
        self.pairs = Counter(pair for document in documents for pair in pairwise(document))
        self.seen, self.followers = Counter[int](), defaultdict[int, list[int]](list)
        for (before, token), count in self.pairs.items():
            self.seen[before] += count
            self.followers[before].append(token)

    def probability(self, token: int, before: int) -> float:
        """Of a token after `before`."""
        kinds = len(self.followers.get(before, ()))
        if not kinds:
            return self.unigram.probability(token)
        return (self.pairs[before, token] + kinds * self.unigram.probability(token)) / (self.seen[before] + kinds)

    def likeliest(self, before: int) -> list[int]:
        """The likeliest tokens after `before`, which were seen there or are the most frequent of all."""
        known = {*self.followers.get(before, ()), *self.unigram.likeliest()}
        return sorted(known, key=lambda token: (-self.probability(token, before), token))[:FIRST]


def score(counts: Unigram | Bigram, held_out: Sequence[Sequence[int]]) -> Score:
    """The mean loss of the tokens after the first of held-out documents, and how often they are the likeliest ones."""
    likeliest = cache(counts.likeliest)
    loss, first, among, tokens = 0.0, 0, 0, 0
    for document in held_out:
        for before, token in pairwise(document):
            loss -= math.log(counts.probability(token, before))
            guessed = likeliest(before)
            first += token in guessed[:1]
            among += token in guessed
            tokens += 1
    of = max(1, tokens)
    return Score(loss / of, first / of, among / of, tokens)
