"""Model, contexts and diagnostics of cvfp."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from pipelines.cvfp.diagnostics import (
    certified,
    change,
    context_use,
    effective_rank,
    final_difference,
    final_passes,
    growth,
    rank_of_noise,
)
from pipelines.cvfp.execution import burn_in, exact, starts, sweep
from pipelines.cvfp.model import Model
from pipelines.cvfp.shape import GUIDE, Shape, guide_memory

WIDTH = 64
GAIN = (768 / WIDTH) ** 0.5
"""What makes a gain of the guide's width one of this width."""


def model(gain: float = 0.02, seed: int = 0, *, tied: bool = False, both: bool = False) -> Model:
    shape = Shape(50, WIDTH, 6, tied, both)
    embedding = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(9))
    return Model(shape, embedding, gain * GAIN, seed)


def tokens(of: Model, documents: int = 5, length: int = 12) -> torch.Tensor:
    ids = torch.randint(50, (documents, length), generator=torch.Generator().manual_seed(1))
    return of.embedded(ids).detach()


def test_the_model_of_the_guide_has_its_parameters() -> None:
    assert GUIDE.parameters == 91_429_969
    for tied, both in ((False, False), (True, False), (False, True)):
        of = model(tied=tied, both=both)
        assert sum(one.numel() for one in of.parameters()) == of.shape.parameters


def test_the_memory_table_of_the_guide_to_the_printed_digit() -> None:
    rows = guide_memory(GUIDE, 100_000)
    printed = {name: f"{value:,.2f}" for name, value in rows.items()}
    assert printed == {
        "weights": "348.78", "adam": "697.56", "contexts": "292.97", "activations": "4,101.56", "total": "5,440.86",
    }  # fmt: skip


@torch.no_grad()
def test_documents_as_a_batch_are_what_each_is_alone() -> None:
    of = model()
    whole = exact(of, tokens(of))
    for one in range(5):
        alone = exact(of, tokens(of)[one : one + 1])
        for together, apart in zip(whole, alone, strict=True):
            torch.testing.assert_close(together[one], apart[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_k_sweeps_are_exact_on_the_first_k_tokens_of_every_document() -> None:
    of = model()
    given = tokens(of)
    right, _ = exact(of, given)
    contexts = torch.randn(right.shape, generator=torch.Generator().manual_seed(3))
    for done in range(1, 13):
        contexts, _ = sweep(of, given, contexts)
        torch.testing.assert_close(contexts[:, :done], right[:, :done], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_where_the_past_is_forgotten_sweeps_come_closer_geometrically_and_the_certificate_holds() -> None:
    of = model()
    given = tokens(of, 8, 40)
    rate = growth(of, given)
    assert rate < 1
    right, _ = exact(of, given)
    before, squares = torch.zeros_like(right), []
    for _ in range(8):
        now, _ = sweep(of, given, before)
        squares.append(change(now, before).square)
        before = now
    ratios = [later / earlier for earlier, later in pairwise(squares[1:])]
    assert max(ratios) < 1
    bound = certified(squares[-1], max(ratios) ** 0.5)
    assert bound is not None
    assert float((before - right).square().mean()) <= bound


@torch.no_grad()
def test_a_piece_of_a_stream_begins_with_the_context_that_the_whole_stream_gives_it() -> None:
    of = model()
    ids = torch.randint(50, (9, 12), generator=torch.Generator().manual_seed(1))
    right, _ = exact(of, of.embedded(ids.reshape(1, -1)))
    needed = burn_in(growth(of, of.embedded(ids)))
    found = starts(of, ids, [0, 1, 4, 8], needed)
    assert not found[0].any()
    for row, piece in ((1, 1), (2, 4), (3, 8)):
        assert float((found[row] - right[0, piece * 12 - 1]).norm()) < 0.05
    torch.testing.assert_close(starts(of, ids, [2], 1000)[0], right[0, 23], rtol=1e-4, atol=1e-4)


def test_no_burn_in_is_long_enough_for_what_grows() -> None:
    assert burn_in(0.5) == 10
    for rate in (1.0, 1.9, 0.9999):
        with pytest.raises(ValueError, match="fade"):
            burn_in(rate)


def test_nothing_is_certified_of_what_does_not_contract() -> None:
    assert certified(0.1, 1.0) is None
    assert certified(0.1, 1.9) is None


def test_the_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.eye(8).repeat(3, 1)) == pytest.approx(8)
    assert effective_rank(torch.ones(100, 8)) == pytest.approx(1)
    values = torch.tensor([3.0, 1.0])
    shares = values / values.sum()
    assert effective_rank(torch.diag(values)) == pytest.approx(float((-(shares * shares.log()).sum()).exp()))
    assert effective_rank(torch.zeros(3, 4)) == 0


def test_the_effective_rank_by_the_gram_matrix_is_that_of_the_svd() -> None:
    rows = torch.randn(300, 20, generator=torch.Generator().manual_seed(0)) @ torch.randn(20, 20)
    values = torch.linalg.svdvals(rows.double())
    shares = values / values.sum()
    assert effective_rank(rows) == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-6)


@pytest.mark.parametrize("power", [0.0, -2.0, -9.0])
def test_the_effective_rank_of_many_rows_is_that_of_the_svd_however_few_directions_they_use(power: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12_000, 24, generator=generator) * torch.logspace(0, power, 24)
    rows = rows @ torch.linalg.qr(torch.randn(24, 24, generator=generator))[0]
    values = torch.linalg.svdvals(rows.double())
    shares = values / values.sum()
    assert effective_rank(rows) == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-6)


def test_the_effective_rank_of_noise_grows_with_the_rows() -> None:
    few, many = rank_of_noise(1280, 768) / 768, rank_of_noise(6400, 768) / 768
    assert few == pytest.approx(0.907, abs=0.005)
    assert many == pytest.approx(0.983, abs=0.005)


@torch.no_grad()
def test_the_gain_of_the_guide_is_chaotic_and_a_small_one_is_not() -> None:
    wild, calm = model(0.1), model()
    assert growth(wild, tokens(wild, 20, 40)) > 1.5
    assert growth(calm, tokens(calm, 20, 40)) < 1
    differences = [final_difference(*final_passes(one, tokens(one, 1, 40)[0])) for one in (wild, calm)]
    assert differences[0] > 10 * differences[1]


@torch.no_grad()
def test_a_model_that_ignores_its_context_does_not_use_it() -> None:
    of = model()
    given = tokens(of)
    assert context_use(of, given, exact(of, given)[0]) > 0.1
    for block in of.blocks:
        block.weight[:, :WIDTH] = 0
        block.context_norm.weight.fill_(0)
    assert context_use(of, given, exact(of, given)[0]) < 1e-6
