"""The memory that training is expected to take, measured, and the plan that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybrid.errors import CannotRun
from hybrid.training import attention
from hybrid.training.adapters import initial_weights
from hybrid.training.jobs import Trained
from hybrid.training.measure import Storages, pass_costs, pass_peak, peak_bytes
from hybrid.training.memory import MemoryPlan, PassCosts, Work, fastest, plan_memory
from hybrid.training.session import TrainingSession
from tests.support.peft_reference import TARGETS, job, tiny_model, trainer

torch.set_num_threads(1)


def test_the_peak_of_bytes_is_that_of_the_tensors_that_live_at_the_same_time() -> None:
    held = torch.ones(1000)

    def act() -> None:
        one = held + 1  # 4,000 bytes
        two = (one * 2).view(10, 100).t()
        del one
        three = two + two
        three.add_(1)

    assert peak_bytes(act) == 8000


def test_a_backward_pass_is_in_the_peak() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    assert peak_bytes(lambda: (weight * 2).exp().sum().backward()) >= 2 * 40_000


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_peak_of_a_long_text_is_predicted_from_short_ones(
    expand: bool, checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "must_expand", lambda *_, **__: expand)
    ours = trainer(tiny_model())
    costs = pass_costs(ours, 4, checkpointed=checkpointed)
    with ours.packed():
        peak = pass_peak(ours, 4, 1500, 1, checkpointed=checkpointed)
    ours.close()
    assert costs.per_slot + costs.of_text(1500, 1) == pytest.approx(peak, rel=0.1)


def test_plain_matrix_products_are_in_the_plan_where_a_kernel_takes_them() -> None:
    ours = trainer(tiny_model())
    with sdpa_kernel(SDPBackend.MATH):
        costs = pass_costs(ours, 4)
        with ours.packed():
            peak = pass_peak(ours, 4, 700, 1)
    ours.close()
    assert costs.per_square >= 4 * 6 * 2  # a number of 4 bytes for each pair, head and layer
    assert costs.per_slot + costs.of_text(700, 1) == pytest.approx(peak, rel=0.1)


def test_a_pass_of_several_adapters_takes_what_is_planned() -> None:
    ours = trainer(tiny_model())
    jobs = [job(str(seed), seed, count=4, batch=4) for seed in range(6)]
    plan = ours.planned(jobs)
    with ours.packed():
        session = TrainingSession(ours, jobs, plan)
        session._fill()
        entries = session._chosen()
        peak = peak_bytes(lambda: session.bank.backward(ours.pack(entries, plan.slots)))
    ours.close()
    bank = session.bank
    costs = sum(plan.cost(len(entry.text.ids), entry.text.labelled) for entry in entries)
    in_slots = plan.per_slot - 4 * bank.values[0].numel() * bank.values.element_size()
    assert plan.slots * in_slots + costs == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("start", [False, True])
def test_what_slots_hold_is_planned(start: bool) -> None:
    """Values, gradients and moments, and where an adapter starts from another one, that one."""
    ours = trainer(tiny_model())
    jobs = [job(str(seed), seed, count=4, rank=8) for seed in range(3)]
    if start:
        first = initial_weights(ours.slotted.layers, TARGETS, 8, 8.0, 0)
        jobs = [replace(one, start=first) for one in jobs]
    plan = ours.planned(jobs)
    with Storages() as storages:
        session = TrainingSession(ours, jobs, plan)
        session._fill()
        held = storages.bytes
    ours.close()
    on_the_host = sum(
        part.nbytes for one in session.bank._shapes.values() for pair in one.layers.values() for part in pair
    )
    in_a_pass = pass_costs(ours, 16 if start else 8).per_slot
    assert held - on_the_host == pytest.approx(plan.slots * (plan.per_slot - in_a_pass), rel=0.02)


COSTS = PassCosts(0, 10, 0.0, 5)


def plan_of(texts: list[tuple[int, int]], free: int, step_tokens: float = 100.0, **how: Any) -> MemoryPlan:
    """A plan for adapters of 160 bytes."""
    return plan_memory(Work(texts, step_tokens, 10), COSTS, **{"slots": 8, "tokens": 100, "free": free, **how})


def test_slots_and_tokens_are_chosen_together() -> None:
    assert plan_of([(50, 10)], 10_000).slots == 8
    assert plan_of([(50, 10), (150, 10)], 1_900).slots == 1
    tight = plan_of([(50, 10), (15_000, 10)], 1_900)
    assert (tight.slots, tight.cost(50, 10) <= tight.activations < tight.cost(15_000, 10)) == (1, True)
    assert tight.peak <= 1_900
    # With steps of 20 tokens, five adapters fill what is left of 2,000 bytes; a sixth would take more than it brings.
    several = plan_of([(10, 0)], 2_000, step_tokens=20.0)
    assert (several.slots, several.tokens_in_flight(Work([(10, 0)], 20.0, 10))) == (5, 100)
    with pytest.raises(CannotRun, match="does not fit"):
        plan_of([(200, 10)], 1_900)


def test_layers_are_computed_again_only_where_that_is_faster_or_fits_more() -> None:
    small, large = Work([(1000, 0)], 2000.0, 10), Work([(3000, 0)], 6000.0, 10)
    plain, again = PassCosts(0, 1000, 0.0, 0), PassCosts(0, 100, 0.0, 0, checkpointed=True)

    def chosen(work: Work, free: int) -> tuple[bool, int]:
        plans = []
        for costs in (plain, again):
            try:
                plans.append(plan_memory(work, costs, slots=8, tokens=8192, free=free))
            except CannotRun:
                continue
        best = fastest(plans, work, 1024)
        return best.checkpointed, best.tokens_in_flight(work)

    assert chosen(small, 10_000_000) == (False, 8192)
    assert chosen(small, 5_000_000) == (False, 4499)  # 0.81 of the full speed, against 0.59
    assert chosen(small, 1_200_000) == (True, 8192)  # 0.59 against 0.51 with 1,079 tokens
    assert chosen(large, 2_000_000) == (True, 8192)  # its texts do not fit otherwise


def _trained(limit: Callable[[MemoryPlan], int] | None = None) -> dict[str, Trained]:
    jobs = [job("a", 1, count=3), job("b", 2, rank=2), job("c", 3, count=5, batch=3)]
    ours = trainer(tiny_model(), slots=2)
    plain = ours.planned(jobs)
    assert not plain.checkpointed
    if limit:
        ours._free = lambda: limit(plain)
        assert ours.planned(jobs).checkpointed
    try:
        return {one.job.name: one for one in ours.train(jobs)}
    finally:
        ours.close()


def test_layers_that_are_computed_again_give_the_same_gradients(caplog: pytest.LogCaptureFixture) -> None:
    """To the bit where a pass has the same texts."""
    jobs = [job("a", 1, count=3), job("b", 2, rank=2)]
    gradients, peaks = [], []
    for again in (False, True):
        ours = trainer(tiny_model(layers=6))
        plan = replace(ours.planned(jobs), checkpointed=again)
        with ours.packed():
            session = TrainingSession(ours, jobs, plan)
            session._fill()
            one = ours.pack(session._chosen(), plan.slots)
            peaks.append(peak_bytes(lambda session=session, one=one: session.bank.backward(one)))  # type: ignore[misc]
        assert session.bank.grads is not None
        gradients.append(session.bank.grads)
        assert not any("forward" in layer.__dict__ for layer in ours.layers)
        ours.close()
    assert torch.equal(*gradients)
    assert gradients[0].any()
    assert peaks[1] < 0.5 * peaks[0]


def test_the_plan_turns_to_layers_that_are_computed_again_when_memory_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "hybrid")
    found, whole = _trained(lambda plan: int((plan.per_slot + 0.8 * plan.cost(30, 20)) / 0.9)), _trained()
    assert "each layer computed again in the backward pass" in caplog.text
    for name, one in whole.items():
        assert found[name].losses == pytest.approx(one.losses, abs=1e-5)
