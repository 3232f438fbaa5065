"""Grouped products: three methods with equal results, bounded padding, and the self-test of torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from hybrid.training import grouped
from hybrid.training.grouped import GroupingMethod, RowGroups, RowIndices, best_method, grouped_mm_works
from hybrid.training.measure import peak_bytes
from tests.support.peft_reference import job, tiny_model, trainer

torch.set_num_threads(1)
CPU = torch.device("cpu")
WIDELY_DIFFERENT = [40, 1, 0, 2, 39, 3, 20, 19, 1, 0, 7]


@pytest.fixture
def untested() -> Iterator[None]:
    """The self-test of grouped_mm has not run, and does not stay as it runs in the test."""
    grouped_mm_works.cache_clear()
    yield
    grouped_mm_works.cache_clear()


@pytest.mark.parametrize("way", ["grouped", "padded"])
@pytest.mark.parametrize("lengths", [[3, 1, 7], [0, 5, 0, 2], [4], [0, 0, 6], WIDELY_DIFFERENT])
def test_the_three_ways_of_grouped_products_agree(way: GroupingMethod, lengths: list[int]) -> None:
    torch.manual_seed(0)
    rows, matrices = torch.randn(sum(lengths), 12), torch.randn(len(lengths), 12, 8)
    right = torch.randn(sum(lengths), 8)
    loop, other = RowGroups(lengths, CPU, "loop"), RowGroups(lengths, CPU, way)
    assert torch.allclose(loop.times(rows, matrices), other.times(rows, matrices), atol=1e-5)
    assert torch.allclose(loop.outer(rows, right), other.outer(rows, right), atol=1e-5)
    turned = torch.randn(len(lengths), 8, 12).transpose(1, 2)
    assert torch.allclose(loop.times(rows, turned), other.times(rows, turned), atol=1e-5)


@pytest.mark.parametrize("way", ["grouped", "padded", "loop"])
def test_infinite_rows_of_a_group_stay_in_it(way: GroupingMethod) -> None:
    rows, matrices = torch.ones(sum(WIDELY_DIFFERENT), 12), torch.ones(len(WIDELY_DIFFERENT), 12, 8)
    groups = RowGroups(WIDELY_DIFFERENT, CPU, way)
    rows[0:40] = torch.inf
    rows[-7:] = torch.nan
    assert groups.times(rows, matrices)[40:-7].eq(12).all()
    assert groups.outer(rows, rows[:, :8].contiguous())[1:-1].isfinite().all()


def test_rectangles_have_groups_of_like_lengths_only() -> None:
    assert RowIndices(WIDELY_DIFFERENT, "padded").rectangles == [(0, 4), (6, 7), (1, 3, 5, 8, 10)]
    assert RowIndices([70, 0, 60, 70, 0], "padded").rectangles == [(0, 1, 2, 3, 4)]
    assert RowIndices([1399, *[700] * 7], "padded").rectangles == [(0,), (1, 2, 3, 4, 5, 6, 7)]
    assert RowIndices([0, 0], "padded").rectangles == [(0, 1)]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40))
def test_rectangles_together_have_at_most_a_quarter_more_rows(lengths: list[int]) -> None:
    rectangles = RowIndices(lengths, "padded").rectangles
    rows = sum(max(lengths[one] for one in groups) * len(groups) for groups in rectangles)
    if len(rectangles) == 1:  # empty groups are in it as well
        rows -= max(lengths) * lengths.count(0)
    assert rows <= 1.25 * sum(lengths)
    assert sorted(one for groups in rectangles for one in groups if lengths[one]) == [
        one for one, length in enumerate(lengths) if length
    ]


def test_one_long_text_beside_many_short_ones_takes_little_more_than_its_rows() -> None:
    lengths = [4000] + [70] * 28
    rows, matrices = torch.zeros(sum(lengths), 64, device="meta"), torch.zeros(29, 64, 16, device="meta")
    groups = RowGroups(lengths, rows.device, "padded")
    assert peak_bytes(lambda: groups.times(rows, matrices)) < 2.1 * rows.nbytes
    assert peak_bytes(lambda: groups.outer(rows, rows)) < 2.1 * rows.nbytes


def test_slots_with_widely_different_texts_train_the_same_in_rectangles(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [
        job("long", 1, count=5, batch=5, epochs=1),
        *(job(f"{n}", n, count=1, rank=n, epochs=1) for n in range(1, 8)),
    ]
    found = []
    for way in ("loop", "padded"):
        monkeypatch.setattr("hybrid.training.slots.best_method", lambda *_, way=way: way)
        ours = trainer(tiny_model(torch.float64))
        found.append({one.job.name: one for one in ours.train(jobs)})
        ours.close()
    for name, one in found[0].items():
        adapter, other = one.adapter, found[1][name].adapter
        assert adapter is not None
        assert other is not None
        for layer, pair in adapter.layers.items():
            for part, same in zip(pair, other.layers[layer], strict=True):
                assert torch.allclose(part, same, atol=1e-9)


@pytest.mark.usefixtures("untested")
def test_a_torch_whose_grouped_products_are_right_is_used(caplog: pytest.LogCaptureFixture) -> None:
    assert best_method(CPU, torch.float32, 8, 8) == "grouped"
    assert best_method(CPU, torch.bfloat16, 8, 8) == "grouped"
    assert not caplog.text


def _never_writes_empty_groups(left: torch.Tensor, right: torch.Tensor, *, offs: torch.Tensor) -> torch.Tensor:
    found = RIGHT(left, right, offs=offs)
    if right.ndim == 2:
        found[offs.diff(prepend=offs.new_zeros(1)) == 0] = 0.5
    return found


def _fails(*_: Any, **__: Any) -> torch.Tensor:
    raise RuntimeError("not compiled for this device")


RIGHT = F.grouped_mm


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize(("faulty", "why"), [(_never_writes_empty_groups, "wrong"), (_fails, "not compiled")])
def test_a_torch_whose_gradients_of_empty_groups_are_wrong_is_told_and_not_used(
    faulty: Any, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(grouped.F, "grouped_mm", faulty)
    assert best_method(CPU, torch.float32, 8, 8) == "loop"
    assert why in caplog.text


def test_layers_whose_width_no_grouped_product_takes_are_trained() -> None:
    """torch's grouped_mm refuses rows that are no multiple of 16 bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=97, hidden_size=36, intermediate_size=50, num_hidden_layers=1, num_attention_heads=6, head_dim=6
    )
    ours = trainer(LlamaForCausalLM(config).eval())
    (done,) = ours.train([job("a", 1, count=2)])
    ours.close()
    assert done.adapter is not None
    assert all(b.any() for _, b in done.adapter.layers.values())
