"""Classifiers that train together are those that train alone, and those of PEFT."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

from hybrid.errors import BadData, CannotRun
from hybrid.loops import EncodedText, LabelledText
from hybrid.training.adapters import LoraWeights
from hybrid.training.classifier_bank import ClassifierBank
from hybrid.training.classifier_model import ClassifierModel
from tests.support.small_classifiers import LABELS, POSITIONS, TARGETS, base, batch, by_peft, encoded, stock, tuning

torch.set_num_threads(1)

shared_base = cache(base)


def bank_of(family: str = "DistilBert", slots: int = 1, rank: int = 4, **more: Any) -> ClassifierBank:
    return ClassifierBank(shared_base(family), slots, rank, more.pop("targets", TARGETS[family]), LABELS, **more)


def filled(bank: ClassifierBank, slot: int, rank: int = 4, seed: int = 0, **how: Any) -> None:
    """A new adapter and head in a slot."""
    adapter, frozen = (
        bank.new_adapter(rank, 8.0, seed),
        {one: how.pop(one) for one in ("train_a", "frozen") if one in how},
    )
    bank.put(slot, adapter, bank.new_head(LABELS, seed), tuning(**how), **frozen)


def trained(bank: ClassifierBank, batches: Sequence[Sequence[LabelledText]]) -> list[list[float]]:
    """The slots' losses in each step."""
    losses = []
    for texts in batches:
        losses.append(bank.backward(texts).tolist())
        bank.step(sorted({text.slot for text in texts}), 1e-2)
    return losses


def parts(bank: ClassifierBank, slot: int) -> dict[str, torch.Tensor]:
    """All trained parameters of a slot by name."""
    layers = bank.weights(slot).layers
    return {
        **{f"{name}.{part}": pair["AB".index(part)] for name, pair in layers.items() for part in "AB"},
        **bank.head(slot),
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], within: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=within, atol=within), name


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta", "GPT2", "Llama"])
def test_one_client_is_trained_as_by_peft(family: str) -> None:
    bank = bank_of(family)
    filled(bank, 0)
    start, head = bank.weights(0), bank.head(0)
    batches = [batch(seed, typed=family == "Bert") for seed in range(4)]
    wanted, losses, logits = by_peft(family, start, head, batches, tuning())
    ours = [losses[0] for losses in trained(bank, batches)]
    assert ours == pytest.approx(losses, abs=1e-5)
    prefix = stock(family).base_model_prefix
    assert_same({f"{prefix}.{name}" if name[-1] in "AB" else name: one for name, one in parts(bank, 0).items()}, wanted)
    assert torch.allclose(bank.logits([(0, text.text) for text in batches[0]]), logits, atol=1e-4)


@pytest.mark.parametrize("family", ["Bert", "GPT2"])
def test_clients_of_unequal_ranks_and_data_are_trained_together_as_alone(family: str) -> None:
    ranks, counts = (1, 4, 64), (2, 9, 5)
    steps = [
        [text for slot, count in enumerate(counts) if step < 3 - slot for text in batch(9 * step + slot, slot, count)]
        for step in range(3)
    ]
    together = bank_of(family, 3, 64, tokens=60)
    for slot, rank in enumerate(ranks):
        filled(together, slot, rank, seed=slot)
    trained(together, [texts[::-1] for texts in steps])
    for slot, rank in enumerate(ranks):
        alone = bank_of(family, 1, rank)
        filled(alone, 0, rank, seed=slot)
        trained(alone, [[text._replace(slot=0) for text in texts if text.slot == slot] for texts in steps[: 3 - slot]])
        assert_same(parts(alone, 0), parts(together, slot))


def test_a_slot_without_data_does_not_move_and_padding_stays_zero() -> None:
    bank = bank_of(slots=3, rank=8)
    for slot in range(3):
        filled(bank, slot, 3, seed=slot)
    before = bank.values.clone()
    trained(bank, [[*batch(seed, 0), *batch(seed + 9, 2)] for seed in range(3)])
    assert torch.equal(bank.values[1], before[1])
    assert not torch.equal(bank.values[0], before[0])
    for name in bank.places:
        for flat in (bank.values, bank.optimizer.state(2)["exp_avg"][None]):
            a, b = bank.pair(flat, name)
            assert not a[..., 3:].any()
            assert not b[:, 3:].any()


def test_each_slot_is_clipped_by_its_own_gradient() -> None:
    """The weights of slot 1's losses are enormous."""
    bank = bank_of(slots=2)
    for slot in range(2):
        filled(bank, slot, clip=1e-3)
    loud = [text._replace(weight=1e4) for text in batch(1, 1)]
    trained(bank, [[*batch(0, 0), *loud]])
    alone = bank_of()
    filled(alone, 0, clip=1e-3)
    trained(alone, [batch(0, 0)])
    assert_same(parts(alone, 0), parts(bank, 0))


def test_a_gradient_that_is_not_finite_skips_the_step_of_its_slot_alone() -> None:
    bank = bank_of(slots=2)
    for slot in range(2):
        filled(bank, slot)
    before = bank.state(1)
    bank.backward([*batch(0, 0), *(text._replace(weight=float("nan")) for text in batch(1, 1))])
    assert bank.step([0, 1], 1e-2).tolist() == [0, 1]
    after = bank.state(1)
    assert all(torch.equal(before[name], after[name]) for name in before)
    alone = bank_of()
    filled(alone, 0)
    trained(alone, [batch(0, 0)])
    assert_same(parts(alone, 0), parts(bank, 0))


def test_a_bank_goes_on_from_a_state_to_the_bit() -> None:
    steps = [[*batch(seed, 0), *batch(seed + 9, 1)] for seed in range(4)]
    whole, first, second = (bank_of(slots=2) for _ in range(3))
    for bank in (whole, first, second):
        for slot in range(2):
            filled(bank, slot, seed=slot)
    trained(whole, steps)
    trained(first, steps[:2])
    for slot in range(2):
        second.restore(slot, first.state(slot))
    trained(second, steps[2:])
    assert torch.equal(whole.values, second.values)


def test_frozen_ranks_and_a_frozen_a_never_change() -> None:
    bank = bank_of(slots=2)
    filled(bank, 0, frozen=2)
    filled(bank, 1, train_a=False)
    before = [bank.weights(slot) for slot in range(2)]
    trained(bank, [[*batch(seed, 0), *batch(seed, 1)] for seed in range(2)])
    for name, (a, b) in bank.weights(0).layers.items():
        assert torch.equal(a[:2], before[0].layers[name][0][:2])
        assert torch.equal(b[:, :2], before[0].layers[name][1][:, :2])
        assert not torch.equal(a[2:], before[0].layers[name][0][2:])
    for name, (a, b) in bank.weights(1).layers.items():
        assert torch.equal(a, before[1].layers[name][0])
        assert b.any()


def test_ranks_may_differ_between_layers_and_a_is_nested() -> None:
    bank = bank_of(rank=8)
    name = next(iter(bank.layers))
    small, large = bank.new_adapter(4, 8.0, 5, ranks={name: 2}), bank.new_adapter(8, 8.0, 5)
    for layer, (a, b) in small.layers.items():
        assert torch.equal(a, large.layers[layer][0][: len(a)])
        assert len(a) == b.shape[1] == (2 if layer == name else 4)
    bank.put(0, small, bank.new_head(LABELS, 0), tuning())
    trained(bank, [batch(0), batch(1)])
    found = bank.weights(0)
    assert [len(a) for a, _ in found.layers.values()] == [len(a) for a, _ in small.layers.values()]
    assert found.config()["rank_pattern"] == {name: 2}
    assert found.config()["alpha_pattern"] == {name: 4.0}
    again = bank.adapter({layer: (a.numpy(), b.numpy()) for layer, (a, b) in found.layers.items()}, 4, 8.0)
    other = bank_of(rank=8)
    other.put(0, again, {key: value.numpy() for key, value in bank.head(0).items()}, tuning())
    texts = [(0, text.text) for text in batch(3)]
    assert torch.equal(bank.logits(texts), other.logits(texts))


def test_logits_come_in_the_order_of_their_texts() -> None:
    bank = bank_of(slots=2, tokens=40)
    for slot in range(2):
        filled(bank, slot, seed=slot)
    draw = random.Random(0)
    texts = [(draw.randrange(2), encoded(draw)) for _ in range(20)]
    together = bank.logits(texts)
    assert torch.allclose(together, torch.cat([bank.logits([one]) for one in texts]), atol=1e-5)


def test_a_head_with_fewer_labels_gives_the_others_no_chance() -> None:
    bank = bank_of()
    bank.put(0, bank.new_adapter(4, 8.0, 0), bank.new_head(2, 0), tuning())
    texts = [text._replace(label=text.label % 2) for text in batch(0)]
    trained(bank, [texts])
    assert bank.logits([(0, texts[0].text)])[0, 2] == -torch.inf
    assert bank.head(0)["classifier.weight"].shape == (2, 32)
    with pytest.raises(ValueError, match="the label 2 is none of the 2 of slot 0"):
        bank.backward([texts[0]._replace(label=2)])


def test_the_gradients_of_b_carry_the_first_step() -> None:
    bank = bank_of(slots=2)
    for slot in range(2):
        filled(bank, slot)
    bank.backward([*batch(0, 0), *batch(1, 1)])
    first, second = (bank.gradients_of_b(slot) for slot in range(2))
    assert set(first) == set(bank.layers)
    assert all(value.shape == (bank.layers[name][1], 4) and value.any() for name, value in first.items())
    assert not torch.equal(*(torch.cat([one.flatten() for one in of.values()]) for of in (first, second)))
    bank.forget_gradients(0)
    assert not any(value.any() for value in bank.gradients_of_b(0).values())


def test_memory_that_is_lacking_makes_passes_smaller_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a step whose earlier texts were computed before."""
    banks = [bank_of(slots=2, tokens=256) for _ in range(2)]
    for bank in banks:
        for slot in range(2):
            filled(bank, slot, seed=slot)
    features, sizes = ClassifierModel.features, []

    def lacking(self: ClassifierModel, pack: Any, **more: Any) -> torch.Tensor:
        sizes.append(pack.ids.shape[1])
        if len(sizes) > 1 and sizes[-1] > 50:
            raise torch.OutOfMemoryError("too large")
        return features(self, pack, **more)

    for number, bank in enumerate(banks):
        if number:
            monkeypatch.setattr(ClassifierModel, "features", lacking)
        losses = [bank.backward([*batch(0, 0), *batch(1, 1)]), bank.backward([*batch(2, 0, 9), *batch(3, 1, 9)])]
        bank.step([0, 1], 1e-2)
        assert torch.allclose(losses[-1], bank.values.new_tensor(losses[-1].tolist()))
    assert banks[1].tokens < banks[0].tokens
    for slot in range(2):
        assert_same(parts(banks[0], slot), parts(banks[1], slot))
    monkeypatch.setattr(ClassifierModel, "features", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(CannotRun, match="not enough memory for a pass over one text"):
        banks[1].logits([(0, EncodedText((1,) * 30))])


def test_what_does_not_fit_a_bank_is_refused() -> None:
    bank = bank_of()
    with pytest.raises(ValueError, match="slot 0 holds nothing"):
        bank.backward(batch(0))
    filled(bank, 0)
    with pytest.raises(ValueError, match=f"it must have 1 to {POSITIONS}"):
        bank.logits([(0, EncodedText((5,) * (POSITIONS + 1)))])
    with pytest.raises(ValueError, match="it must have 1 to"):
        bank.logits([(0, EncodedText(()))])
    with pytest.raises(ValueError, match="more ranks than the 8"):
        filled(bank, 0, rank=9)
    wrong = LoraWeights({"other.q": (torch.zeros(4, 32), torch.zeros(32, 4))}, 4, 8.0)
    with pytest.raises(BadData, match=r"layer other\.q is not one"):
        bank.put(0, wrong, bank.new_head(LABELS, 0), tuning())
    with pytest.raises(ValueError, match="the head has"):
        bank.put(0, bank.new_adapter(4, 8.0, 0), {"classifier.weight": torch.zeros(3, 32)}, tuning())
    with pytest.raises(CannotRun, match="no linear layer called q_proj") as refused:
        bank_of(targets=("q_proj",))
    assert "k_lin, lin1, lin2, out_lin, q_lin, v_lin" in str(refused.value.hint)


def test_without_targets_all_linear_layers_of_the_blocks_are_adapted() -> None:
    assert len(bank_of("Bert", targets=None).layers) == 12  # not the pooler
    assert len(bank_of("GPT2", targets=None).layers) == 8


def test_another_family_is_refused() -> None:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)
    with pytest.raises(CannotRun, match="do not know models of the kind 't5'"):
        ClassifierModel(T5EncoderModel(config))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_has_values_and_heads_in_fp32(dtype: torch.dtype) -> None:
    """Losses of float16 are scaled; a step whose gradient overflows is skipped and halves the scale of its slot."""
    model = stock("DistilBert").base_model.to(dtype)
    half, whole = ClassifierBank(ClassifierModel(model), 2, 4, None, LABELS), bank_of(slots=2, targets=None)
    for bank in (half, whole):
        for slot in range(2):
            filled(bank, slot, seed=slot)
    losses = [bank.backward([*batch(0, 0), *batch(1, 1)]) for bank in (half, whole)]
    assert half.values.dtype == losses[0].dtype == torch.float32
    assert torch.allclose(*losses, atol=0.05)
    for name, value in half.gradients_of_b(0).items():
        wanted = whole.gradients_of_b(0)[name]
        assert (value - wanted).norm() < 0.1 * wanted.norm()
    scaled = dtype == torch.float16
    assert half.optimizer.scale.tolist() == [1024.0 if scaled else 1.0] * 2
    assert half.step([0, 1], 1e-2).tolist() == [0, 0]
    half.backward([*batch(2, 0), *(text._replace(weight=1e9) for text in batch(3, 1))])
    if scaled:
        assert half.step([0, 1], 1e-2).tolist() == [0, 1]
        assert half.optimizer.scale.tolist() == [1024.0, 512.0]


@pytest.mark.parametrize(("family", "query"), [("Bert", "attention.self.query"), ("DistilBert", "attention.q_lin")])
def test_in_the_last_layer_only_what_the_head_reads_asks(family: str, query: str) -> None:
    model = shared_base(family)
    texts = [EncodedText(tuple(range(2, 2 + length))) for length in (3, 9, 4)]
    seen = {}
    layers = {name: one for name, one in model.base.named_modules() if name.endswith(query)}
    hooks = [
        layer.register_forward_hook(lambda _, rows, __, name=name: seen.update({name: rows[0].shape[1]}))
        for name, layer in layers.items()
    ]
    model.features(model.pack(texts))
    for hook in hooks:
        hook.remove()
    assert list(seen.values()) == [16] * (len(layers) - 1) + [3]
