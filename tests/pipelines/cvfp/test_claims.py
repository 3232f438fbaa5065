"""What a grader and the page say of the variants of cvfp, and what they must not claim."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.cvfp.grader import CvfpMeasures
from pipelines.cvfp.results import Trained, difference, summary


def trained(variant: str, seed: int, *losses: float, **contexts: float) -> Trained:
    """A series with these held-out losses, an epoch each, after a sweep with these figures of contexts, if any."""
    sweeps: list[dict[str, float]] = [{"phase": 1.0, **contexts}] if contexts else []
    epochs = [{"phase": 2.0, "loss": one, "perplexity": 2.0 + one, "top1": one / 100} for one in losses]
    return Trained(variant, 0, seed, dict(enumerate([*sweeps, *epochs])))


def measures(series: list[Trained]) -> dict[tuple[str, str], Any]:
    return {(one.group, one.name): one for one in CvfpMeasures(series).measures()}


def test_a_counted_variant_stands_beside_every_seed_in_both_directions() -> None:
    series = [trained("token-only", 0, 5.5), trained("token-only", 1, 5.7), trained("bigram", 0, 2.9)]
    there, back = difference(series, "token-only", "bigram"), difference(series, "bigram", "token-only")
    assert there is not None
    assert back is not None
    assert (there.n, back.n) == (2, 2)
    assert (there.mean, back.mean) == pytest.approx((2.7, -2.7))
    assert back.interval == pytest.approx(tuple(-one for one in reversed(there.interval or ())))
    both = difference([*series, trained("unigram", 0, 4.0)], "unigram", "bigram")
    assert both is not None
    assert both.n == 1


def test_a_counted_variant_stands_beside_seeds_that_are_not_its_own() -> None:
    found = difference([trained("token-only", 7, 5.5), trained("bigram", 0, 2.5)], "bigram", "token-only")
    assert found is not None
    assert (found.n, found.mean) == (1, -3.0)


def test_an_interval_holds_only_what_the_figure_can_be() -> None:
    share, perplexity, loss = (summary([0.012, 0.026], one) for one in ("top1", "perplexity", "loss"))
    assert share is not None
    assert share.interval is not None
    assert share.interval[0] == 0.0
    assert 0.026 < share.interval[1] < 1.0
    assert perplexity is not None
    assert loss is not None
    assert loss.interval is not None
    assert loss.interval[0] < 0.0
    found = measures([trained("token-only", 0, 1.2), trained("token-only", 1, 2.6)])
    assert found["token-only", "top1 of held-out documents"].interval[0] == 0.0
    assert found["token-only", "perplexity of held-out documents"].interval[0] == 1.0
