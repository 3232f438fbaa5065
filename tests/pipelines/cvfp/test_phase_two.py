"""A step of phase 2 is that of plain autograd and AdamW, though no gradient as large as the head is ever there."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from pipelines.cvfp import head, phase2
from pipelines.cvfp.adam import Adam
from pipelines.cvfp.execution import exact
from pipelines.cvfp.model import Model
from pipelines.cvfp.shape import Shape, holds_errors

VOCABULARY, WIDTH, LENGTH = 300, 24, 13


def made(*, tied: bool = False, both: bool = False) -> Model:
    """In float64: where a gradient is almost 0, rounding would decide on AdamW's step."""
    embedding = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(9))
    return Model(Shape(VOCABULARY, WIDTH, 3, tied, both), embedding, 0.1, 0).double()


def documents(count: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(1))


def settings(batch: int, **more: Any) -> phase2.Settings:
    return phase2.Settings(1, batch, 6, **{
        "learning_rate": 1e-2, "weight_decay": 0.1, "clip": 0.2, "noise": 0.0, "warm_up": 0.0, "frozen": False,
        "contexts": True, **more,
    })  # fmt: skip


def by_hand(model: Model, ids: torch.Tensor, how: phase2.Settings) -> None:
    """An epoch of one batch: autograd over all logits, clipping and AdamW from their equations."""
    blocks = [] if how.frozen else [*model.norm.parameters(), *model.blocks.parameters()]
    trained = [*(model.head.parameters() if model.head is not None else []), *blocks]
    first, second = ([torch.zeros_like(one) for one in trained] for _ in range(2))
    context, steps = torch.zeros(len(ids), WIDTH, dtype=torch.float64), math.ceil((LENGTH - 1) / how.window)
    for step in range(steps):
        window = ids[:, step * how.window : (step + 1) * how.window + 1]
        contexts, rows = exact(model, model.embedded(window[:, :-1]), context)
        rows = torch.cat([contexts, rows], -1) if model.shape.both else rows
        weight, bias = model.head_weights()
        loss = F.cross_entropy(F.linear(rows, weight, bias).flatten(0, 1), window[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, trained)
        norm = math.sqrt(sum(float(one.square().sum()) for one in gradients))
        rate = how.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        context = contexts[:, -1].detach()
        with torch.no_grad():
            for own, gradient, m, v in zip(trained, gradients, first, second, strict=True):
                cut = gradient * min(1.0, how.clip / norm)
                m.mul_(0.9).add_(0.1 * cut)
                v.mul_(0.999).add_(0.001 * cut.square())
                own.mul_(1 - rate * how.weight_decay)
                own.sub_(rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8))


@pytest.mark.parametrize("batch", [2, 16])
@pytest.mark.parametrize("kind", ["plain", "tied", "frozen", "both"])
def test_an_epoch_is_that_of_autograd_over_all_logits(batch: int, kind: str) -> None:
    ids, how = documents(batch), settings(batch, frozen=kind == "frozen")
    assert holds_errors(batch * how.window, WIDTH) == (batch == 2)
    of, expected = (made(tied=kind == "tied", both=kind == "both") for _ in range(2))
    phase = phase2.PhaseTwo(of, ids, how, 0)
    phase.epoch(0)
    by_hand(expected, ids, how)
    for (name, one), other in zip(of.named_parameters(), expected.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8), name


def test_the_heads_gradient_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ROWS", 128)
    ids, how = documents(2), settings(2)
    whole, parts = made(), made()
    monkeypatch.setattr(head, "holds_errors", lambda *_: False)
    phase2.PhaseTwo(whole, ids, how, 0).epoch(0)
    monkeypatch.setattr(head, "holds_errors", lambda *_: True)
    shapes, step_rows = list[tuple[int, ...]](), Adam.step_rows

    def noted(adam: Adam, place: int, rows: slice, gradient: torch.Tensor, rate: float) -> None:
        shapes.append(tuple(gradient.shape))
        step_rows(adam, place, rows, gradient, rate)

    monkeypatch.setattr(Adam, "step_rows", noted)
    phase2.PhaseTwo(parts, ids, how, 0).epoch(0)
    assert shapes[:4] == [(128, WIDTH), (128, WIDTH), (44, WIDTH), (VOCABULARY,)]
    assert (VOCABULARY, WIDTH) not in shapes
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_the_norm_of_errors_that_are_not_finite_is_not_taken_for_none(spoilt: float) -> None:
    errors, rows = torch.randn(5, VOCABULARY), torch.randn(5, WIDTH)
    assert head._square(errors, rows) == pytest.approx(float((errors.t() @ rows).square().sum()), rel=1e-4)
    errors[2, 7] = spoilt
    assert not math.isfinite(head._square(errors, rows))


def test_gradients_that_are_not_finite_take_no_step() -> None:
    of = made()
    with torch.no_grad():
        assert of.head is not None
        of.head.bias[3] = math.nan
    before = [one.clone() for one in of.blocks.parameters()]
    phase = phase2.PhaseTwo(of, documents(2), settings(2), 0)
    assert math.isnan(phase.epoch(0))
    assert all(torch.equal(one, other) for one, other in zip(before, of.blocks.parameters(), strict=True))
    assert phase.state().keys() == {"steps"}
