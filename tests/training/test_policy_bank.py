"""Policies with adapters that train together are those that train alone, and those of PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import safetensors.torch
import torch

from hybrid.errors import BadData
from hybrid.loops import PolicyText
from hybrid.training.policy_bank import PolicyBank
from hybrid.tuning import PolicyTuning
from tests.support.small_policies import TARGETS, group, loss_of, of_labels, padded_loss, stock, with_peft

torch.set_num_threads(1)

TUNING: dict[str, Any] = {"rank": 4, "alpha": 8.0}


def bank_of(family: str = "Llama", slots: int = 1, **how: Any) -> PolicyBank:
    """A bank whose policies have begun and differ from the base model."""
    more = {one: how.pop(one) for one in ("tokens", "checkpointed") if one in how}
    bank = PolicyBank(stock(family), slots, PolicyTuning(**{**TUNING, "targets": TARGETS[family], **how}), **more)
    for slot in range(slots):
        bank.begin(slot, slot)
    stepped(bank, [text for slot in range(slots) for text in group(100 + slot, slot)], range(slots))
    return bank


def stepped(bank: PolicyBank, texts: Sequence[PolicyText], slots: Sequence[int], rate: float = 0.05) -> list[float]:
    bank.backward(texts)
    return [bank.step(slot, rate).norm for slot in slots]


def gradients(bank: PolicyBank, slot: int = 0) -> dict[str, torch.Tensor]:
    """By PEFT's names."""
    found = {}
    for name in bank._bank.places:
        a, b = bank._bank.pair(bank._bank.grads, name)
        found[f"base_model.model.{name}.lora_A.weight"] = a[slot, :, : bank.tuning.rank].t().clone()
        found[f"base_model.model.{name}.lora_B.weight"] = b[slot, : bank.tuning.rank].t().clone()
    return found


def by_peft(bank: PolicyBank, family: str, texts: Sequence[PolicyText], temperature: float, loss: Any = loss_of) -> Any:
    """The loss, its gradients by name, and the model, all by PEFT and autograd."""
    how = bank.tuning
    wrapped = with_peft(stock(family), bank.adapter(0), how.targets, how.rank, how.alpha)
    value = loss(wrapped, texts, temperature)
    value.backward()
    grads = {name.replace(".default", ""): one.grad for name, one in wrapped.named_parameters() if one.grad is not None}
    return float(value.detach()), grads, wrapped


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], within: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=within, atol=within), name


@pytest.mark.parametrize("loss", [loss_of, padded_loss])
@pytest.mark.parametrize(("family", "temperature"), [("Llama", 1.0), ("GPT2", 0.7)])
def test_gradients_are_those_of_peft_whether_padded_or_alone(family: str, temperature: float, loss: Any) -> None:
    bank = bank_of(family)
    texts = [*group(1), *group(2), *group(3, count=1)]
    wanted, grads, wrapped = by_peft(bank, family, texts, temperature, loss)
    assert bank.backward(texts, temperature) == pytest.approx((wanted,), abs=1e-5)
    assert_same(gradients(bank), grads)
    for ours, text in zip(bank.logprobs(texts, temperature), texts, strict=True):
        assert ours == pytest.approx(of_labels(wrapped, text, temperature).tolist(), abs=1e-5)


def test_slots_that_train_together_are_those_that_train_alone() -> None:
    both = [text for slot in range(3) for seed in range(2) for text in group(9 * slot + seed, slot)]
    together = bank_of(slots=3)
    norms = stepped(together, both, range(3))
    for slot in range(3):
        alone = bank_of(slots=3)
        assert stepped(alone, [text for text in both if text.slot == slot], [slot]) == pytest.approx([norms[slot]])
        one, other = (safetensors.torch.load(bank.adapter(slot)) for bank in (together, alone))
        assert_same(one, other)


def grpo(model: Any, texts: Sequence[PolicyText], temperature: float) -> torch.Tensor:
    """GRPO's loss with one update a batch: ratios to the policy itself, cut unevenly, the mean over all labels.

    The texts' weights are advantages.
    """
    each = []
    for text in texts:
        logprobs, advantage = of_labels(model, text, temperature), torch.tensor(text.weights)
        ratio = (logprobs - logprobs.detach()).exp()
        each.append(-torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage))
    return torch.cat(each).mean()


def test_gradients_are_those_of_grpo_with_a_mean_over_all_labels() -> None:
    bank = bank_of()
    texts = [
        text._replace(weights=(advantage,) * len(text.weights))
        for text, advantage in zip(group(7), (1.2, -0.4, 0.0, -0.8), strict=True)
    ]
    _, grads, _ = by_peft(bank, "Llama", texts, 0.9, grpo)
    labels = sum(len(text.weights) for text in texts)  # those of the text without advantage count, too
    bank.backward([text._replace(weights=tuple(one / labels for one in text.weights)) for text in texts], 0.9)
    assert_same(gradients(bank), grads)


@pytest.mark.parametrize("how", [{"tokens": 1}, {"tokens": 20}, {"checkpointed": True}])
def test_passes_of_any_size_give_the_same(how: dict[str, Any]) -> None:
    texts = [*group(1), *group(2, 1), *group(3)]
    whole, cut = bank_of(slots=2), bank_of(slots=2, **how)
    assert cut.backward(texts) == pytest.approx(whole.backward(texts), abs=1e-5)
    assert cut.logprobs(texts)[5] == pytest.approx(whole.logprobs(texts)[5], abs=1e-5)
    for slot in range(2):
        assert_same(gradients(cut, slot), gradients(whole, slot))


def test_the_end_token_is_trained_and_texts_without_a_weight_are_not() -> None:
    bank = bank_of()
    end = PolicyText(0, (5, 6, 7, 1), 2, (0.0, 1.0))
    (before,) = bank.logprobs([end])
    bank.backward([end, PolicyText(0, (5, 6, 9), 2, (0.0,)), PolicyText(0, (5, 6), 2, ())])
    bank.step(0, 0.01)
    (after,) = bank.logprobs([end])
    assert after[1] > before[1]
    assert bank.backward([PolicyText(0, (5, 6, 9), 2, (0.0,))]) == (0.0,)
    assert all(not one.any() for one in gradients(bank).values())


def test_a_run_that_goes_on_from_its_state_is_the_same_to_the_bit() -> None:
    texts = [[text for slot in range(2) for text in group(step + 50 * slot, slot)] for step in range(4)]
    whole, begun, other = bank_of(slots=2), bank_of(slots=2), bank_of(slots=2)
    for step in range(4):
        stepped(whole, texts[step], range(2))
        if step < 2:
            stepped(begun, texts[step], range(2))
    other.load(begun.state())
    for step in range(2, 4):
        stepped(other, texts[step], range(2))
    assert other.state() == whole.state()
    assert [other.digest(slot) for slot in range(2)] == [whole.digest(slot) for slot in range(2)]
    assert other.adapter(1) == whole.adapter(1)
    assert whole.digest(0) != whole.digest(1)


def test_bytes_that_are_no_state_are_refused_and_change_nothing() -> None:
    bank = bank_of(slots=2)
    good, digest = bank.state(), bank.digest(0)
    tensors = safetensors.torch.load(good)
    header = int.from_bytes(good[:8], "little")
    wrong = {**tensors, "0/values": tensors["0/values"].clone().fill_(torch.nan)}
    told = {"policies": good[8 : 8 + header].decode()}
    hostile = [b"", b"\xff" * 40, good[:-9], safetensors.torch.save(tensors), safetensors.torch.save(wrong, told)]
    for data in [*hostile, bank_of(slots=3).state(), bank_of(slots=2, rank=12).state(), bank_of("GPT2", 2).state()]:
        with pytest.raises(BadData):
            bank.load(data)
    assert bank.digest(0) == digest


@pytest.mark.parametrize(
    "text",
    [
        PolicyText(3, (1, 2), 1, (1.0,)),
        PolicyText(1, (1, 2), 1, (1.0,)),
        PolicyText(0, (1, 2), 0, (1.0, 1.0)),
        PolicyText(0, (1, 2), 1, ()),
        PolicyText(0, (1, 97), 1, (1.0,)),
        PolicyText(0, (1, -1), 1, (1.0,)),
        PolicyText(0, (1,) * 65, 1, (1.0,) * 64),
    ],
)
def test_texts_that_the_model_cannot_compute_are_refused(text: PolicyText) -> None:
    bank = PolicyBank(stock(), 2, PolicyTuning(**TUNING))
    bank.begin(0, 0)
    with pytest.raises(ValueError, match=r"slot|token|label"):
        bank.backward([text])


def test_a_gradient_that_is_not_finite_is_skipped() -> None:
    bank = bank_of()
    digest = bank.digest(0)
    bank.backward([PolicyText(0, (1, 2), 1, (float("inf"),))])
    assert bank.step(0, 0.1).skipped
    assert bank.digest(0) == digest
    bank.backward(group(1))
    assert not bank.step(0, 0.1).skipped


def test_the_gradient_is_cut_after_its_norm_is_told() -> None:
    one, other = bank_of(), bank_of(clip=1e-3)
    one.load(other.state())
    for bank in (one, other):
        bank.backward(group(1))
    step, cut = one.step(0, 1.0), other.step(0, 1.0)
    assert step.norm == cut.norm > 1e-3


def test_decoding_with_a_cache_has_the_log_probabilities_of_the_labels() -> None:
    bank = bank_of(slots=3)
    texts = [text for slot in (0, 2) for text in group(slot, slot, count=2)]
    wanted = bank.logprobs(texts)
    before = bank.policy_model.model.config._attn_implementation
    for text, one in zip(texts, wanted, strict=True):
        lengths = [len(text.ids) if slot == text.slot else 0 for slot in range(3)]
        with torch.inference_mode(), bank.using(lengths):
            assert of_labels(bank.policy_model.model, text).tolist() == pytest.approx(one, abs=1e-5)
    assert bank.policy_model.model.config._attn_implementation == before
    plain = of_labels(bank.policy_model.model, texts[0])
    assert torch.allclose(plain, of_labels(stock(), texts[0]))
    assert stepped(bank, texts, [0])[0] > 0


def test_the_same_text_twice_is_one_text_with_both_weights() -> None:
    one, other = bank_of(), bank_of()
    text = PolicyText(0, (5, 6, 7, 8), 2, (0.5, -1.0))
    more = text._replace(weights=(0.25, 3.0))
    both = text._replace(weights=(0.75, 2.0))
    assert one.backward([text, more]) == pytest.approx(other.backward([both]))
    assert one.backward([text, text._replace(weights=(-0.5, 1.0))]) == (0.0,)
    assert_same(gradients(one), gradients(other))


def test_a_step_without_gradients_goes_on_with_the_moments_and_a_rest_forgets_them() -> None:
    bank = bank_of()
    digests = [bank.digest(0)]
    bank.step(0, 0.1)
    digests.append(bank.digest(0))
    bank.rest(0)
    assert bank.digest(0) == digests[1] != digests[0]
    bank.step(0, 0.1)
    assert bank.digest(0) == digests[1]
