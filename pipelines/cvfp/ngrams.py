"""Predictors without a network, to which every other is compared: unigrams, and bigrams smoothed by Witten and Bell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise


class Unigram:
    """Shares of tokens in documents, with one more count for each token of the vocabulary."""

    def __init__(self, documents: Iterable[Sequence[int]], vocabulary: int) -> None:
        self.counts = Counter(token for document in documents for token in document)
        self.total = sum(self.counts.values()) + vocabulary

    def probability(self, token: int) -> float:
        """Of a token, wherever it is."""
        return (self.counts[token] + 1) / self.total


class Bigram:
    """The share of a token after another one, mixed with the unigram's by how many kinds followed it.

    Witten and Bell 1991: with n tokens of t kinds seen after a token, p = (count + t * unigram) / (n + t).
    """

    def __init__(self, documents: Sequence[Sequence[int]], vocabulary: int) -> None:
        self.unigram = Unigram(documents, vocabulary)
        self.pairs = Counter(pair for document in documents for pair in pairwise(document))
        self.seen, self.kinds = Counter[int](), Counter[int]()
        for (before, _), count in self.pairs.items():
            self.seen[before] += count
            self.kinds[before] += 1

    def probability(self, token: int, before: int) -> float:
        """Of a token after `before`."""
        kinds = self.kinds[before]
        if not kinds:
            return self.unigram.probability(token)
        return (self.pairs[before, token] + kinds * self.unigram.probability(token)) / (self.seen[before] + kinds)


def losses(
    documents: Sequence[Sequence[int]], held_out: Sequence[Sequence[int]], vocabulary: int
) -> tuple[float, float]:
    """Mean negative log-likelihood (nats) of the tokens after the first of held-out documents: unigram, bigram."""
    unigram, bigram = Unigram(documents, vocabulary), Bigram(documents, vocabulary)
    alone, after, count = 0.0, 0.0, 0
    for document in held_out:
        for before, token in pairwise(document):
            alone -= math.log(unigram.probability(token))
            after -= math.log(bigram.probability(token, before))
            count += 1
    return alone / max(1, count), after / max(1, count)
