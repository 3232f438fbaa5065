"""Policies all of whose parameters are trained, against plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import safetensors.torch
import torch

from hybrid.errors import BadData
from hybrid.loops import PolicyText
from hybrid.training.full_policies import FullBank
from hybrid.tuning import PolicyTuning
from tests.support.small_policies import group, loss_of, of_labels, stock

torch.set_num_threads(1)

FULL = PolicyTuning(rank=0)


def bank_of(family: str = "GPT2", slots: int = 2, dtype: torch.dtype = torch.float32, **how: Any) -> FullBank:
    bank = FullBank(stock(family, dtype), slots, FULL, **how)
    for slot in range(slots):
        bank.begin(slot, slot)
    return bank


def stepped(bank: FullBank, texts: Sequence[PolicyText], slot: int) -> float:
    bank.backward(texts)
    return bank.step(slot, 1e-3).norm


def by_torch(family: str, steps: Sequence[Sequence[PolicyText]], temperature: float = 1.0) -> tuple[Any, list[float]]:
    """The model after steps of torch's AdamW, and the norms of the gradients."""
    model = stock(family, torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    norms = []
    for texts in steps:
        loss_of(model, texts, temperature).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), torch.inf)))
        optimizer.step()
        optimizer.zero_grad()
    return model, norms


@pytest.mark.parametrize(
    ("family", "how"), [("GPT2", {}), ("Llama", {}), ("GPT2", {"tokens": 1, "checkpointed": True})]
)
def test_a_policy_is_trained_as_by_torch(family: str, how: dict[str, Any]) -> None:
    # In float64: keys' biases have a gradient of zero, and AdamW would make a step of the size 1 of its rounding.
    bank = bank_of(family, dtype=torch.float64, **how)
    steps = [[*group(step, 1), *group(step + 30, 1)] for step in range(3)]
    wanted, norms = by_torch(family, steps)
    assert [stepped(bank, texts, 1) for texts in steps] == pytest.approx(norms, rel=1e-5)
    ours = safetensors.torch.load(bank.adapter(1))
    for name, value in wanted.named_parameters():
        assert torch.allclose(ours.pop(name), value, atol=1e-6), name
    assert not ours
    text = steps[0][0]
    with torch.no_grad():
        assert bank.logprobs([text], 0.9)[0] == pytest.approx(of_labels(wanted, text, 0.9).tolist(), abs=1e-5)


def test_gradients_are_those_of_the_whole_logits() -> None:
    bank, model = bank_of(), stock("GPT2")
    texts = [*group(1), *group(2)]
    loss = loss_of(model, texts, 0.7)
    loss.backward()
    assert bank.backward(texts, 0.7) == pytest.approx((float(loss.detach()), 0.0), abs=1e-5)
    for name, view in bank._views(bank._gradients()).items():
        wanted = model.get_parameter(name).grad
        assert torch.allclose(view, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max())), name


def test_slots_do_not_change_each_other_and_share_one_gradient() -> None:
    bank = bank_of()
    start = bank.digest(0)
    stepped(bank, group(1, 1), 1)
    assert bank.digest(0) == start != bank.digest(1)
    assert bank.grads is not None
    assert bank.grads.untyped_storage().nbytes() == 4 * bank.size
    bank.backward(group(1, 1))
    with pytest.raises(ValueError, match="slot 1 must step"):
        bank.backward(group(1, 0))
    with pytest.raises(ValueError, match="slot 1 must step"):
        bank.step(0, 0.1)
    bank.step(1, 0.1)
    with pytest.raises(ValueError, match="one slot after the other"):
        bank.backward([*group(1, 0), *group(1, 1)])
    with torch.inference_mode(), bank.using([3, 0]):
        text = group(5, 0)[0]
        found = of_labels(bank.policy_model.model, text).tolist()
    assert found == pytest.approx(bank.logprobs([text])[0], abs=1e-5)
    assert stepped(bank, group(1, 0), 0) > 0


def test_a_run_that_goes_on_from_its_state_is_the_same_to_the_bit() -> None:
    whole, begun, other = bank_of(), bank_of(), bank_of()
    for step in range(4):
        for slot in range(2):
            stepped(whole, group(step, slot), slot)
            if step < 2:
                stepped(begun, group(step, slot), slot)
    other.load(begun.state())
    for step in range(2, 4):
        for slot in range(2):
            stepped(other, group(step, slot), slot)
    assert other.state() == whole.state()
    with pytest.raises(BadData):
        other.load(whole.state()[:-4])
    with pytest.raises(BadData):
        other.load(bank_of("Llama").state())


def test_the_model_is_as_it_was_after_the_policies_are_closed() -> None:
    bank = bank_of()
    model, texts = bank.policy_model.model, group(1)
    stepped(bank, texts, 0)
    bank.close()
    wanted = stock("GPT2")
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(of_labels(model, texts[0]), of_labels(wanted, texts[0]))
