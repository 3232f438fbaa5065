"""Aggregation of updates of unequal ranks, held to dense sums and to PEFT. Products are compared, never factors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy", reason="needs numpy, which is not installed")

import numpy as np

from pipelines.atlas.aggregation import (
    Errors,
    Factors,
    Update,
    check,
    compressed,
    compressed_sum,
    factor_mean,
    mean,
    nested_mean,
    norm_weights,
    product_error,
    shares,
    stacked,
    zero_padded,
)
from pipelines.atlas.leading import Floats, leading

SEEDS = st.integers(0, 2**32 - 1)
LAYERS = {"block.0.query": (7, 12), "block.0.wide": (9, 4)}
RANKS = st.lists(st.integers(1, 4), min_size=1, max_size=6)


def made(ranks: list[int], seed: int) -> list[Update]:
    """The update of each client, random."""
    draws = np.random.default_rng(seed)
    return [
        {
            name: Factors(draws.normal(size=(rank, width_in)), draws.normal(size=(width_out, rank)))
            for name, (width_in, width_out) in LAYERS.items()
        }
        for rank in ranks
    ]


def dense(updates: list[Update], weights: list[float]) -> dict[str, Floats]:
    """The weighted sum as full matrices."""
    return {
        name: sum(weight * update[name].product() for update, weight in zip(updates, weights, strict=True))
        for name in LAYERS
    }


def distance(update: Update, wanted: dict[str, Floats]) -> float:
    """The relative error, all layers together."""
    lost = sum(np.linalg.norm(update[name].product() - wanted[name]) ** 2 for name in LAYERS)
    return float(np.sqrt(lost / sum(np.linalg.norm(one) ** 2 for one in wanted.values())))


@settings(deadline=None, max_examples=30)
@given(RANKS, SEEDS)
def test_stacking_is_the_weighted_sum_of_the_products(ranks: list[int], seed: int) -> None:
    updates = made(ranks, seed)
    weights = np.random.default_rng(seed).normal(size=len(ranks)).tolist()
    found = stacked(updates, weights)
    assert distance(found, dense(updates, weights)) < 1e-13
    assert product_error(found, updates, weights) < 1e-13
    assert {part.rank for part in found.values()} == {sum(ranks)}


@settings(deadline=None, max_examples=30)
@given(RANKS, st.integers(1, 6), SEEDS)
def test_compression_is_the_best_of_its_rank_and_says_what_it_loses(ranks: list[int], rank: int, seed: int) -> None:
    updates, weights = made(ranks, seed), shares([float(one) for one in ranks])
    wanted = dense(updates, weights)
    found, errors = compressed(stacked(updates, weights), rank)
    again, same = compressed_sum(updates, weights, rank)
    assert (errors, [part.b.tobytes() for part in found.values()]) == (
        same,
        [part.b.tobytes() for part in again.values()],
    )
    for name, matrix in wanted.items():
        values = np.linalg.svd(matrix, compute_uv=False)
        tail = float(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()))
        real = float(np.linalg.norm(found[name].product() - matrix) / np.linalg.norm(matrix))
        assert errors.layers[name] == pytest.approx(tail, abs=1e-12)
        assert real == pytest.approx(tail, abs=1e-12)
        assert found[name].rank <= max(rank, 1)
    assert errors.whole == pytest.approx(distance(found, wanted), abs=1e-12)
    assert errors.whole == pytest.approx(product_error(found, updates, weights), abs=1e-12)


def test_the_leading_part_of_a_sum_of_many_columns_is_the_best_of_its_rank() -> None:
    """Where singular values fall; where they do not, and where nothing is lost, there is no answer."""
    draws = np.random.default_rng(0)
    for width_in, width_out in ((70, 90), (90, 70)):
        a, b = draws.normal(size=(4, width_in)), draws.normal(size=(width_out, 4))
        parts = [Factors(a + 0.2 * draws.normal(size=a.shape), b + 0.2 * draws.normal(size=b.shape)) for _ in range(20)]
        whole = stacked([{"x": part} for part in parts], [0.05] * 20)["x"]
        values = np.linalg.svd(whole.product(), compute_uv=False)
        found = leading([(0.05, part.b, part.a) for part in parts], 4)
        assert found is not None
        assert found.values == pytest.approx(values[:4], rel=1e-6)
        assert found.total == pytest.approx((values**2).sum(), rel=1e-6)
        assert found.lost == pytest.approx((values[4:] ** 2).sum(), rel=1e-5)
        off = whole.product() - (found.left * found.values) @ found.right
        assert np.linalg.norm(off) ** 2 == pytest.approx(found.lost, rel=1e-4)
        small, errors = compressed({"x": whole}, 4)
        assert np.allclose(small["x"].product(), (found.left * found.values) @ found.right, atol=1e-4)
        assert errors.layers["x"] == pytest.approx((found.lost / found.total) ** 0.5)
    assert leading([(1.0, draws.normal(size=(300, 300)), draws.normal(size=(300, 300)))], 4) is None
    assert leading([(1.0, b, a)] * 20, 4) is None
    signs = [(-1.0) ** number * (1 + 1e-6 * number) for number in range(20)]
    assert leading([(sign, b, a) for sign in signs], 4) is None, "what cancels is left to fp64"
    for scale in (1e30, 1e-30, 0.0):
        assert leading([(scale, scale * whole.b, whole.a)], 4) is None


def test_the_rank_may_differ_by_layer_and_a_smaller_update_stays_as_it_is() -> None:
    (update,) = made([4], 0)
    found, errors = compressed(update, {"block.0.query": 2, "block.0.wide": 8})
    assert found["block.0.query"].rank == 2
    assert np.array_equal(found["block.0.wide"].a, update["block.0.wide"].a)
    assert np.array_equal(found["block.0.wide"].b, update["block.0.wide"].b)
    assert errors.layers["block.0.wide"] == 0.0 < errors.layers["block.0.query"]
    assert Errors.joined([errors, errors]).layers == pytest.approx(errors.layers)
    with pytest.raises(ValueError, match=r"block\.0\.query"):
        compressed(update, 0)


def test_directions_without_an_update_can_still_learn() -> None:
    ones = {"q": Factors(np.ones((3, 8)), np.concatenate([np.ones((6, 1)), np.zeros((6, 2))], axis=1))}
    found, errors = compressed(stacked([ones, ones], [0.5, 0.5]), 4)
    assert errors.whole < 1e-15
    assert np.allclose(found["q"].product(), np.ones((6, 8)))
    assert np.allclose(np.linalg.norm(found["q"].a[1:], axis=1), 3**-0.5)
    assert not found["q"].b[:, 1:].any()
    zero, _ = compressed({"q": Factors(np.zeros((5, 8)), np.zeros((6, 5)))}, 2)
    assert zero["q"].a.any(axis=1).all()
    assert not zero["q"].product().any()


def test_one_client_of_weight_one_comes_back_to_the_bit() -> None:
    updates = made([2, 3], 1)
    for found in (stacked(updates, [0.0, 1.0]), stacked(updates[1:], [1.0]), factor_mean(updates[1:], [1.0])):
        for name, part in updates[1].items():
            assert np.array_equal(found[name].a, part.a)
            assert np.array_equal(found[name].b, part.b)


def test_the_means_of_factors_are_their_formulas() -> None:
    updates, weights = made([3, 3], 2), [0.25, 0.75]
    name = "block.0.wide"
    one, two = updates[0][name], updates[1][name]
    fedit = factor_mean(updates, weights)[name]
    assert np.allclose(fedit.product(), (0.25 * one.b + 0.75 * two.b) @ (0.25 * one.a + 0.75 * two.a))
    assert product_error(factor_mean(updates, weights), updates, weights) > 0.1  # cross terms: not the mean of products
    unequal = [updates[0], made([2], 3)[0]]
    small = unequal[1][name]
    padded_a, padded_b = np.vstack([small.a, np.zeros((1, 9))]), np.hstack([small.b, np.zeros((4, 1))])
    large, cut = zero_padded(unequal, weights, [3, 2])
    assert np.allclose(large[name].a, 0.25 * one.a + 0.75 * padded_a)
    assert np.allclose(large[name].b, 0.25 * one.b + 0.75 * padded_b)
    assert np.array_equal(cut[name].a, large[name].a[:2])
    assert np.array_equal(cut[name].b, large[name].b[:, :2])
    with pytest.raises(ValueError, match=r"client 1: layer 'block\.0\.query' has rank 2, not 3"):
        factor_mean(unequal, weights)


def test_with_equal_ranks_zero_padding_is_the_mean_of_factors() -> None:
    updates, weights = made([3, 3, 3], 4), shares([1, 2, 3])
    wanted = factor_mean(updates, weights)
    for found in zero_padded(updates, weights, [3, 3, 3]):
        assert all(np.array_equal(found[name].product(), wanted[name].product()) for name in LAYERS)


def test_with_a_common_nested_a_the_mean_of_b_is_exact_for_unequal_ranks() -> None:
    (common,) = made([4], 5)
    ranks, weights = [4, 1, 3], shares([5, 1, 2])
    updates: list[Update] = [
        {name: Factors(common[name].a[:rank], made([rank], rank)[0][name].b) for name in LAYERS} for rank in ranks
    ]
    found = nested_mean(updates, weights)
    assert distance(found, dense(updates, weights)) < 1e-13
    assert found["block.0.query"].first(3).rank == 3
    other = {**updates[1], "block.0.wide": Factors(common["block.0.wide"].a[1:2], updates[1]["block.0.wide"].b)}
    with pytest.raises(ValueError, match=r"client 1: layer 'block\.0\.wide' has an A"):
        nested_mean([updates[0], other, updates[2]], weights)


def test_whole_tensors_are_averaged_in_fp64_and_keep_their_type() -> None:
    heads = [{"w": np.full((2, 3), value, dtype=np.float32)} for value in (1.0, 4.0)]
    found = mean(heads, [1 / 3, 2 / 3])["w"]
    assert found.dtype == np.float32
    assert (found == 3.0).all()
    with pytest.raises(ValueError, match="client 1: tensor 'w'"):
        mean([heads[0], {"w": heads[0]["w"][:1]}], [0.5, 0.5])
    with pytest.raises(ValueError, match="client 1: tensor 'w' holds numbers"):
        mean([heads[0], {"w": heads[0]["w"] * np.nan}], [0.5, 0.5])


def test_the_weights_of_hetlora_grow_with_the_norm_of_an_update() -> None:
    one, two = made([2, 2], 6)
    doubled = {name: Factors(part.a, 2 * part.b) for name, part in one.items()}
    assert norm_weights([one, doubled], [0.5, 0.5]) == pytest.approx([1 / 3, 2 / 3])
    nothing = {name: Factors(part.a, 0 * part.b) for name, part in two.items()}
    assert norm_weights([nothing, nothing], [0.5, 0.5]) == [0.5, 0.5]


def test_an_update_that_cannot_be_aggregated_is_refused_with_its_client_and_layer() -> None:
    good, bad = made([2, 2], 7)
    layer = bad["block.0.wide"]
    not_finite = layer.b.copy()
    not_finite[1, 1] = np.inf
    cases = {
        "holds numbers that are not finite": Factors(layer.a, not_finite),
        r"has A \[2, 8\], B \[4, 2\], not 9 in, 4 out": Factors(layer.a[:, 1:], layer.b),
        "has no two factors of one rank": Factors(layer.a[:1], layer.b),
        "has no two factors": Factors(layer.a[:0], layer.b[:, :0]),
        "has no two": Factors(layer.a[0], layer.b),
    }
    for message, part in cases.items():
        wrong = {**bad, "block.0.wide": part}
        with pytest.raises(ValueError, match=f"client 1: layer 'block.0.wide' {message}"):
            stacked([good, wrong], [0.5, 0.5])
        with pytest.raises(ValueError, match=r"client 7: layer 'block\.0\.wide' has"):
            check({**bad, "block.0.wide": Factors(layer.a[0], layer.b)}, 7, LAYERS)
    with pytest.raises(ValueError, match=r"client 1: layer 'block\.0\.query' is missing"):
        factor_mean([good, {"block.0.wide": layer}], [0.5, 0.5])
    with pytest.raises(ValueError, match="client 1: layer 'other' is not adapted"):
        nested_mean([good, {**bad, "other": layer}], [0.5, 0.5])
    with pytest.raises(ValueError, match="client 0: the update is empty"):
        check({}, 0, LAYERS)


def test_weights_that_are_none_are_refused() -> None:
    updates = made([2, 2], 8)
    for weights in ([0.5], [0.5, 0.6], [1.5, -0.5], [float("nan"), 0.5]):
        with pytest.raises(ValueError, match="weight"):
            factor_mean(updates, weights)
    with pytest.raises(ValueError, match="not finite"):
        stacked(updates, [float("inf"), 0.0])
    for counts in ([0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="rows of data"):
            shares(counts)


def test_the_error_of_a_sum_that_is_zero_is_infinite_unless_it_is_met() -> None:
    (update,) = made([2], 9)
    assert product_error(update, [update, update], [1.0, -1.0]) > 1e6
    nothing = {name: Factors(part.a, 0 * part.b) for name, part in update.items()}
    assert product_error(nothing, [nothing], [1.0]) == 0.0
    assert product_error(update, [nothing], [1.0]) == float("inf")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False but the target module is `Conv1D`")
def test_peft_makes_the_same_products() -> None:
    """On layers that are not square, a plain linear layer and GPT-2's transposed one, of adapters of unequal scales."""
    weights = [0.2, 0.3, 0.5]
    model = peft_model({"one": 2, "two": 4, "three": 8})
    model.base_model.add_weighted_adapter(["one", "two", "three"], weights, "cat", combination_type="cat")
    model.base_model.add_weighted_adapter(["one", "two", "three"], weights, "svd", combination_type="svd", svd_rank=3)
    for name in ("plain", "transposed"):
        layer = getattr(model.base_model.model, name)
        found = stacked([{"x": peft_factors(layer, key)} for key in ("one", "two", "three")], weights)
        for kind, ours in {"cat": found, "svd": compressed(found, 3)[0]}.items():
            theirs = peft_factors(layer, kind).product()
            assert np.abs(ours["x"].product() - theirs).max() < 1e-5 * np.abs(theirs).max()


def peft_model(ranks: dict[str, int]) -> Any:
    """A model of two layers with an adapter of each rank, all of them random."""
    torch = pytest.importorskip("torch", reason="needs torch")
    peft = pytest.importorskip("peft", reason="needs peft")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    layers = {"plain": torch.nn.Linear(10, 24), "transposed": transformers.pytorch_utils.Conv1D(16, 24)}
    settings_of = {
        name: peft.LoraConfig(r=rank, lora_alpha=16, target_modules=list(layers), init_lora_weights=False)
        for name, rank in ranks.items()
    }
    first = next(iter(ranks))
    model = peft.get_peft_model(torch.nn.ModuleDict(layers), settings_of[first], adapter_name=first)
    for name in list(ranks)[1:]:
        model.add_adapter(name, settings_of[name])
    return model


def peft_factors(layer: Any, name: str) -> Factors:
    """An adapter of a layer, its scale folded into B."""
    a, b = (part[name].weight.detach().double().numpy() for part in (layer.lora_A, layer.lora_B))
    return Factors(a, b * layer.scaling[name])


def test_an_update_is_extended_by_the_rows_of_another_one_with_or_without_their_product() -> None:
    own, other = Factors(np.ones((1, 3)), np.ones((2, 1))), Factors(2 * np.ones((3, 3)), 5 * np.ones((2, 3)))
    longer, free = (own.extended(other, 2, with_b=with_b) for with_b in (True, False))
    assert longer.a.tolist() == free.a.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert longer.b.tolist() == [[1, 5], [1, 5]]
    assert np.array_equal(free.product(), own.product())
    assert other.extended(own, 2, with_b=True) is other
