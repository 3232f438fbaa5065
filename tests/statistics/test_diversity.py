"""Diversity: effective numbers of known spectra, intervals that hold what they promise, and n-grams by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy", reason="needs numpy, which is not installed")

import numpy as np

from hybrid.statistics.diversity import (
    EFFECTIVE_RANK,
    distinct_n,
    effective_number,
    entropy_shares,
    good_turing,
    jackknife,
    self_bleu,
    vendi,
)

SIZES = st.integers(1, 12)
SEEDS = st.integers(0, 2**32 - 1)


def random_rows(n: int, d: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, d)) + 0.5
    return rows / np.linalg.norm(rows, axis=1)[:, None]


@settings(deadline=None)
@given(SIZES, st.integers(2, 12), SEEDS, st.sampled_from([1.0, 2.0]))
def test_equal_texts_are_one_and_texts_without_anything_in_common_are_n(n: int, d: int, seed: int, how: float) -> None:
    one = random_rows(1, d, seed)
    assert effective_number(np.repeat(one, n, axis=0), how) == pytest.approx(1, abs=1e-4)
    turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    assert effective_number(turned, how) == pytest.approx(n, abs=1e-6)


@settings(deadline=None)
@given(SIZES, st.integers(2, 12), SEEDS, st.sampled_from([1.0, 2.0]))
def test_the_spectrum_of_the_smaller_matrix_is_that_of_the_larger(n: int, d: int, seed: int, how: float) -> None:
    rows = random_rows(n, d, seed)
    padded = np.concatenate([rows, np.zeros((n, 20))], axis=1)  # then n x n is the smaller one
    assert effective_number(rows, how) == pytest.approx(effective_number(padded, how), abs=1e-4)
    shares = np.linalg.svd(rows, compute_uv=False) ** how
    shares = shares[shares > 1e-9] / shares.sum()
    assert effective_number(rows, how) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), abs=1e-4)


def test_two_kinds_of_text_count_by_their_shares() -> None:
    rows = np.eye(4)[[0, 0, 0, 1]]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_number(rows) == pytest.approx(math.exp(entropy), abs=1e-6)
    root = np.sqrt([3, 1]) / (math.sqrt(3) + 1)
    assert effective_number(rows, EFFECTIVE_RANK) == pytest.approx(math.exp(-(root * np.log(root)).sum()), abs=1e-6)
    assert entropy_shares(rows) == [pytest.approx(-0.25 * math.log(0.75), abs=1e-6)] * 3 + [
        pytest.approx(-0.25 * math.log(0.25), abs=1e-6)
    ]


@settings(deadline=None)
@given(SIZES, st.integers(2, 12), SEEDS)
def test_the_order_of_texts_changes_nothing_and_their_shares_sum_to_the_entropy(n: int, d: int, seed: int) -> None:
    rows = random_rows(n, d, seed)
    assert effective_number(rows[::-1]) == effective_number(rows)
    assert math.fsum(entropy_shares(rows)) == pytest.approx(math.log(effective_number(rows)), abs=1e-4)


def test_nothing_has_no_diversity() -> None:
    nothing = np.zeros((0, 3))
    assert (effective_number(nothing), entropy_shares(nothing), vendi(nothing).value) == (0.0, [], 0.0)
    assert vendi(np.eye(3)[:1]) == (1, 1, 1)


def test_the_interval_covers_the_expected_score_and_a_bootstrap_would_not() -> None:
    draws = np.random.default_rng(0)
    centres = random_rows(6, 16, 1)

    def drawn() -> np.ndarray:
        rows = centres[draws.integers(0, 6, 24)] + draws.normal(size=(24, 16)) * 0.1
        return rows / np.linalg.norm(rows, axis=1)[:, None]

    truth = float(np.mean([effective_number(drawn()) for _ in range(400)]))
    covered = in_bootstrap = 0
    for _ in range(60):
        rows = drawn()
        found = vendi(rows)
        covered += found.low <= truth <= found.high
        again = [effective_number(rows[draws.integers(0, 24, 24)]) for _ in range(40)]
        in_bootstrap += np.quantile(again, 0.025) <= truth <= np.quantile(again, 0.975)
    assert covered >= 52
    assert in_bootstrap < 30


def test_the_jackknife_of_a_mean_is_the_interval_of_the_textbook() -> None:
    values = [1.0, 4.0, 2.0, 8.0, 5.0]

    def mean(places: Sequence[int]) -> float:
        return math.fsum(values[place] for place in places) / len(places)

    half = 2.776445 * math.sqrt(sum((value - 4) ** 2 for value in values) / 4 / 5)
    assert jackknife(5, mean) == (4, pytest.approx(4 - half, abs=1e-4), pytest.approx(4 + half, abs=1e-4))


def test_the_chance_of_something_new_is_the_share_that_was_seen_once() -> None:
    assert good_turing([]) == (1, 0, 1)
    assert good_turing([1, 1, 1, 1])[:2] == (1, pytest.approx(0.25))
    found = good_turing([5, 2, 1, 1, 1])
    assert found.value == 0.3
    half = 1.959964 * math.sqrt(3 * 0.7 + 2) / 10
    assert (found.low, found.high) == (max(0, 0.3 - half), pytest.approx(0.3 + half))
    assert good_turing([30]) == (0, 0, pytest.approx(0.1))


def test_distinct_n_is_the_share_of_different_n_grams() -> None:
    assert distinct_n(["The rain, the rain.", "THE RAIN"], 1) == pytest.approx(2 / 6)
    assert distinct_n(["the rain the rain", "the rain"], 2) == pytest.approx(2 / 4)
    assert distinct_n(["", "one"], 2) is None


WORDS = st.lists(st.sampled_from(list("abcde")), min_size=1, max_size=12)


def without_strange_words(texts: list[list[str]]) -> bool:
    """Whether each text has a word of another: without one nltk gives 0 at once."""
    return all(
        set(one) & {word for there, other in enumerate(texts) if there != here for word in other}
        for here, one in enumerate(texts)
    )


@pytest.mark.slow  # nltk takes a second to load
@settings(deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=6).filter(without_strange_words))
def test_self_bleu_is_that_of_nltk(texts: list[list[str]]) -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score", reason="needs nltk, which is not installed")
    total = 0.0
    for place, words in enumerate(texts):
        longest = min(4, len(words))
        others = texts[:place] + texts[place + 1 :]
        smoothing = bleu.SmoothingFunction().method1
        total += bleu.sentence_bleu(others, words, weights=[1 / longest] * longest, smoothing_function=smoothing)
    assert self_bleu([" ".join(words) for words in texts]) == pytest.approx(total / len(texts))


def test_equal_texts_repeat_each_other_and_one_text_repeats_nothing() -> None:
    assert self_bleu(["one two three four five"] * 3) == pytest.approx(1)
    assert self_bleu(["one two three", "four five six"]) == pytest.approx(
        math.exp(math.log(0.1 / 3 * 0.1 / 2 * 0.1) / 3)
    )
    assert self_bleu(["one two", ""]) is None
