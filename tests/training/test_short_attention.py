"""Attention over short texts gives the values and gradients of plain attention over each text alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from hybrid.training import text_attention
from hybrid.training.short_attention import LONGEST, ShortAttention
from hybrid.training.text_attention import layout_of, text_layout

torch.set_num_threads(1)
HEADS, WIDTH = 3, 8


class Layer:
    """What attention reads of the module that calls it."""

    def __init__(self, *, causal: bool) -> None:
        self.is_causal = causal


def rows(tokens: int) -> list[torch.Tensor]:
    """Queries, keys and values [T, heads, width] that require gradients, and what comes back."""
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randn(tokens, HEADS, WIDTH, generator=draw, dtype=torch.float64, requires_grad=part < 3)
        for part in range(4)
    ]


def by_pack(lengths: list[int], parts: list[torch.Tensor], *, causal: bool) -> list[torch.Tensor]:
    """What the pack's attention answers, and the gradients of queries, keys and values."""
    *inputs, back = parts
    with text_layout(layout_of(lengths, torch.device("cpu"))):
        given = [one.transpose(0, 1)[None] for one in inputs]
        answer, _ = text_attention.text_attention(Layer(causal=causal), *given, None)
    return [answer[0].detach(), *torch.autograd.grad(answer[0], inputs, back)]


def by_text(lengths: list[int], parts: list[torch.Tensor], *, causal: bool) -> list[torch.Tensor]:
    """The same of each text alone, by torch."""
    *inputs, back = parts
    texts = zip(*(one.transpose(0, 1).split(lengths, dim=1) for one in inputs), strict=True)
    answer = torch.cat([F.scaled_dot_product_attention(*text, is_causal=causal) for text in texts], dim=1)
    answer = answer.transpose(0, 1)
    return [answer.detach(), *torch.autograd.grad(answer, inputs, back)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[4], [5, 1, 9, 4, 17, 6], [3, 3, 3], [LONGEST, 40, 2], [LONGEST + 1, 2]])
def test_texts_of_a_pack_attend_as_each_alone(
    lengths: list[int], causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    apply = ShortAttention.apply
    monkeypatch.setattr(ShortAttention, "apply", lambda *given: used.append(given) or apply(*given))
    parts = rows(sum(lengths))
    found, expected = (how(lengths, parts, causal=causal) for how in (by_pack, by_text))
    assert len(used) == (max(lengths) <= LONGEST)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_a_text_with_values_that_are_not_finite_leaves_the_others_as_they_are() -> None:
    lengths = [5, 4, 6]
    parts = rows(sum(lengths))
    before = by_pack(lengths, parts, causal=False)
    with torch.no_grad():
        for one in parts:
            one[5:9] = torch.nan
    after = by_pack(lengths, parts, causal=False)
    others = [*range(5), *range(9, 15)]
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[others], other[others])
        assert other[5:9].isnan().all()


def test_without_gradients_what_keeps_values_for_them_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, used = [5, 3], []
    monkeypatch.setattr(ShortAttention, "apply", lambda *given: used.append(given))
    *inputs, _ = rows(8)
    with torch.no_grad(), text_layout(layout_of(lengths, torch.device("cpu"))) as _:
        given = [(2 * one / 2).transpose(0, 1)[None] for one in inputs]  # computed, as those of a model are
        answer, _ = text_attention.text_attention(Layer(causal=False), *given, None)
    assert torch.allclose(answer[0], by_text(lengths, rows(8), causal=False)[0])
    assert not used
