"""Tokens that are drawn for many rows at once have the probabilities of the model's distribution."""

from __future__ import annotations

import pytest
import torch

from hybrid.backends.token_draws import BLOCK, LARGEST, Draws, _inverted
from hybrid.records import Sampling

ROWS = 4000


def drawn(logits: torch.Tensor, **how: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for each of many rows with the same logits, and their log-probabilities."""
    draws = Draws([Sampling(1, seed=seed, **how) for seed in range(ROWS)], torch.device("cpu"))
    return draws.next(logits.expand(ROWS, -1), 0)


def far(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest distance of a frequency from its probability, in standard deviations."""
    counts = torch.bincount(found, minlength=len(wanted))
    assert not counts[wanted == 0].any()
    deviation = (ROWS * wanted * (1 - wanted)).sqrt().clamp(min=1)
    return float(((counts - ROWS * wanted) / deviation).abs().max())


@pytest.mark.parametrize("width", [7, BLOCK, 3 * BLOCK + 5])
def test_frequencies_are_probabilities_at_the_temperature(width: int) -> None:
    logits = torch.randn(width, generator=torch.Generator().manual_seed(0)) * 3
    logits[2] = -torch.inf
    tokens, logprobs = drawn(logits, temperature=1.5)
    wanted = torch.log_softmax(logits / 1.5, dim=-1)
    assert far(tokens, wanted.exp()) < 4.5
    assert torch.allclose(logprobs, wanted[tokens], atol=1e-5)


@pytest.mark.parametrize("spread", [3.0, 0.01])
def test_a_nucleus_has_the_most_probable_tokens_and_nothing_else(spread: float) -> None:
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * spread
    tokens, logprobs = drawn(logits, temperature=1.0, top_p=0.5)
    probabilities, order = logits.softmax(dim=-1).sort(descending=True)
    kept = int((probabilities.cumsum(-1) < 0.5).sum()) + 1
    wanted = torch.zeros(5000).index_copy_(0, order[:kept], probabilities[:kept] / probabilities[:kept].sum())
    assert far(tokens, wanted) < 4.5
    assert torch.allclose(logprobs, logits.log_softmax(dim=-1)[tokens], atol=1e-5)


def test_greedy_rows_and_sampled_ones_share_a_batch() -> None:
    settings = [Sampling(2), Sampling(2, temperature=2.0, seed=1), Sampling(2, temperature=1.0, top_p=1e-6)]
    logits = torch.randn(3, 600, generator=torch.Generator().manual_seed(0))
    draws = Draws(settings, torch.device("cpu"))
    tokens, logprobs = draws.next(logits, 0)
    assert tokens[[0, 2]].tolist() == logits.argmax(dim=-1)[[0, 2]].tolist()
    scaled = logits / torch.tensor([[1.0], [2.0], [1.0]])
    assert torch.allclose(logprobs, scaled.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0], atol=1e-5)
    second, _ = draws.next(logits, 1)
    draws.keep(torch.tensor([1]))
    (alone,), _ = draws.next(logits[1:2], 1)
    assert alone == second[1]


def test_a_number_at_the_end_of_the_distribution_draws_a_possible_token() -> None:
    weights = torch.zeros(2, 2 * BLOCK)
    weights[:, 5] = weights[:, 300] = 0.1
    blocks = weights.view(2, -1, BLOCK)
    found = _inverted(blocks, blocks.sum(dim=-1).double(), torch.tensor([LARGEST, 0.0], dtype=torch.float64))
    assert found.tolist() == [300, 5]


def test_what_is_no_number_draws_some_token() -> None:
    draws = Draws([Sampling(1, temperature=1.0)], torch.device("cpu"))
    (token,), (logprob,) = draws.next(torch.full((1, 600), torch.nan), 0)
    assert 0 <= token < 600
    assert torch.isnan(logprob)
