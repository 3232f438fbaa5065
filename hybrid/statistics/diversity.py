"""How different texts are from each other: effective numbers, the chance of something new, and shares of n-grams.

- Effective number: the exponential of the entropy of a spectrum. Of n equal texts it is 1, of n texts with nothing in
  common n. With squared singular values it is the Vendi score with the cosine as kernel (Friedman and Dieng 2023,
  Transactions on Machine Learning Research), with singular values the effective rank (Roy and Vetterli 2007, EUSIPCO).
- Good and Turing: the share of samples whose kind was seen once estimates the chance that the next one is of a kind
  not seen yet (Good 1953, Biometrika 40); its variance is that of Esty 1983 (Annals of Statistics 11).
- distinct-n (Li and others 2016, NAACL) and self-BLEU (Zhu and others 2018, SIGIR: Texygen) count words.
- The interval of a figure of candidates is that of the jackknife over groups of them (Quenouille 1956; Tukey 1958). The
  bootstrap would draw candidates repeatedly, and a repeated text adds nothing to an effective number: every resample
  would have less of it than the candidates have. The jackknife repeats nothing, and its variance is on average not too
  small for a figure of any form (Efron and Stein 1981, Annals of Statistics 9).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hybrid.machine.late_imports import import_object
from hybrid.statistics.agreement import Estimate
from hybrid.statistics.intervals import Z, student_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

VENDI = 2.0
EFFECTIVE_RANK = 1.0

DIGITS = 6
"""Decimals of an effective number: libraries of linear algebra differ in later ones."""

GROUPS = 20
"""Groups of the jackknife; with fewer candidates each is a group."""

BLEU = 4
"""Longest n-gram of self-BLEU."""

WORD = re.compile(r"\w+")


def effective_number(rows: NDArray[Any], exponent: float = VENDI) -> float:
    """The effective number of different rows, from 1 to n; 0 without rows.

    `rows` are n unit vectors of d numbers. The spectrum is that of the smaller of the n x n and the d x d matrix of
    their products: both have the same eigenvalues, so that 10,000 rows cost a matrix of d x d.
    """
    np = import_object("numpy", needed_for="an effective number")
    n, d = rows.shape
    if n == 0:
        return 0.0
    values = np.linalg.eigvalsh(rows @ rows.T if n <= d else rows.T @ rows)
    shares = np.maximum(values, 0.0) ** (exponent / 2)
    shares = shares[values > values[-1] * max(n, d) * np.finfo(float).eps]  # what is below is rounding error
    shares /= shares.sum()
    return round(min(float(n), max(1.0, float(np.exp(-(shares * np.log(shares)).sum())))), DIGITS)


def entropy_shares(rows: NDArray[Any]) -> list[float]:
    """How much of the entropy, the logarithm of the Vendi score, each row brings: the diagonal of -K/n log(K/n).

    Shares are 0 or more; they sum to the entropy. Equal rows share what one of them would bring.
    """
    np = import_object("numpy", needed_for="shares of an entropy")
    n = len(rows)
    if n == 0:
        return []
    values, vectors = np.linalg.eigh(rows @ rows.T / n)
    used = values > max(values[-1], 0.0) * n * np.finfo(float).eps
    terms = np.where(used, -values * np.log(np.where(used, values, 1.0)), 0.0)
    return [round(max(0.0, float(share)), DIGITS) for share in (vectors**2) @ terms]


def good_turing(counts: Iterable[int]) -> Estimate:
    """The chance that the next sample is of a kind not seen yet, from how often each kind was seen.

    Without a sample it is 1. The interval of Esty is widened by 3 / n, the rule of three, where its variance is 0.
    """
    seen = [count for count in counts if count > 0]
    n, once, twice = sum(seen), seen.count(1), seen.count(2)
    if n == 0:
        return Estimate(1.0, 0.0, 1.0)
    share = once / n
    variance = (once * (1 - share) + 2 * twice) / n**2
    half = Z * math.sqrt(variance) if variance else min(1.0, 3 / n)
    return Estimate(share, max(0.0, share - half), min(1.0, share + half))


def jackknife(count: int, figure: Callable[[Sequence[int]], float], *, groups: int = GROUPS) -> Estimate:
    """`figure` of the candidates 0 to count - 1, and the 95 % interval of it over other candidates of the same source.

    `figure` is given the places of the candidates to use, sorted. A group is every `groups`-th candidate. Of fewer than
    two candidates there is no interval: it is the value.
    """
    value = figure(range(count))
    groups = min(groups, count)
    if groups < 2:
        return Estimate(value, value, value)
    without = [figure([place for place in range(count) if place % groups != group]) for group in range(groups)]
    mean = math.fsum(without) / groups
    variance = (groups - 1) / groups * math.fsum((one - mean) ** 2 for one in without)
    half = student_quantile(groups - 1) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)


def vendi(rows: NDArray[Any], *, groups: int = GROUPS) -> Estimate:
    """The Vendi score of the rows with its interval, which stays within what is possible, 1 to n."""
    n = len(rows)
    found = jackknife(n, lambda places: effective_number(rows[list(places)]), groups=groups)
    return Estimate(found.value, max(min(1.0, found.value), found.low), min(float(n), found.high))


def distinct_n(texts: Iterable[str], n: int) -> float | None:
    """The share of different n-grams of words among all of them; None when there is none."""
    grams = [gram for text in texts for gram in _grams(_words(text), n)]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """The mean BLEU-4 of each text against all others, from 0 to 1: high where texts repeat each other.

    Words are lower-cased runs of letters and digits. Precisions have equal weights; one without a match counts as 0.1
    matches (method 1 of Chen and Cherry 2014), and n-grams that a text is too short for are left out. The brevity
    penalty is by the nearest length of another text, of two the shorter. A text without words is left out; None with
    fewer than two texts.
    """
    every = [words for text in texts if (words := _words(text))]
    if len(every) < 2:
        return None
    counts = [[Counter(_grams(words, n)) for words in every] for n in range(1, BLEU + 1)]
    tops = [_two_highest(of_size) for of_size in counts]
    lengths = Counter(len(words) for words in every)
    total = 0.0
    for place, words in enumerate(every):
        logs = [
            math.log(_precision(of_size[place], top, place))
            for of_size, top in zip(counts, tops, strict=True)
            if of_size[place]
        ]
        other = min(
            (length for length, number in lengths.items() if length != len(words) or number > 1),
            key=lambda length: (abs(length - len(words)), length),
        )
        total += math.exp(math.fsum(logs) / len(logs) + min(0.0, 1 - other / len(words)))
    return total / len(every)


Gram = tuple[str, ...]
TwoHighest = tuple[int, int, int]
"""The highest count of an n-gram in a text, which text has it, and the highest count in another text."""


def _two_highest(counts: Sequence[Counter[Gram]]) -> dict[Gram, TwoHighest]:
    found: dict[Gram, TwoHighest] = {}
    for place, of_text in enumerate(counts):
        for gram, count in of_text.items():
            most, owner, second = found.get(gram, (0, -1, 0))
            found[gram] = (count, place, most) if count > most else (most, owner, max(second, count))
    return found


def _precision(own: Counter[Gram], tops: dict[Gram, TwoHighest], place: int) -> float:
    """The share of n-grams that another text has, each at most as often as it is there."""
    matches = 0
    for gram, count in own.items():
        most, owner, second = tops[gram]
        matches += min(count, second if owner == place else most)
    return (matches or 0.1) / own.total()


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _grams(words: Sequence[str], n: int) -> list[Gram]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
