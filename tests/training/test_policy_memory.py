"""The memory of policies: the formulas against their tables, the plan against what is allocated, and the refusal."""

from __future__ import annotations

import pytest
import torch

from hybrid.errors import CannotRun
from hybrid.training.full_policies import FullBank
from hybrid.training.measure import peak_bytes
from hybrid.training.policies import policy_bank
from hybrid.training.policy_bank import PolicyBank
from hybrid.training.policy_measure import pass_costs
from hybrid.training.policy_memory import (
    GIB,
    Shape,
    adapter_bytes,
    full_bytes,
    plain_bytes,
    process_bytes,
)
from hybrid.training.policy_pack import passes, size_of
from hybrid.tuning import PolicyTuning
from tests.support.small_policies import group, stock

torch.set_num_threads(1)

GPT2 = Shape(124_440_000, 50257, 12, 768)
QWEN = Shape(494_030_000, 151936, 24, 896)
PROMPT = 450


@pytest.mark.parametrize(
    ("shape", "sequences", "completion", "simulated", "formula"),
    [
        (GPT2, 16, 256, 5.00, 4.9),
        (GPT2, 32, 258, 8.52, 8.43),
        (GPT2, 64, 256, 15.55, 15.4),
        (QWEN, 8, 256, 10.66, 10.7),
        (QWEN, 16, 256, 15.80, 15.8),
        (QWEN, 32, 256, 26.07, 26.1),
        (QWEN, 64, 256, 46.62, 46.7),
    ],
)
def test_the_plain_way_takes_what_a_simulator_of_all_tensors_counts(
    shape: Shape, sequences: int, completion: int, simulated: float, formula: float
) -> None:
    found = plain_bytes(shape, sequences, completion, PROMPT + completion) / GIB
    assert found == pytest.approx(formula, abs=0.05)
    assert found == pytest.approx(simulated, rel=0.03)


def test_a_process_takes_what_real_ones_took() -> None:
    """GPT-2 with 32 sequences on an L4: 9.76 and 9.94 GiB in the log that ended without memory."""
    found = process_bytes(plain_bytes(GPT2, 32, 258, PROMPT + 258)) / GIB
    assert found == pytest.approx(9.67, abs=0.01)
    assert found == pytest.approx((9.76 + 9.94) / 2, rel=0.03)


def test_eight_nodes_in_one_process() -> None:
    assert full_bytes(GPT2.parameters, 8) / GIB + 1.4 == pytest.approx(13.0, abs=0.05)
    assert full_bytes(QWEN.parameters, 8) / GIB + 1.7 == pytest.approx(47.7, abs=0.05)
    assert adapter_bytes(17_600_000, 8) / GIB == pytest.approx(8 * 0.26, abs=0.02)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("rank", [8, 0])
def test_a_pass_takes_what_was_measured_on_short_ones(rank: int, *, checkpointed: bool) -> None:
    model = stock("Llama", num_hidden_layers=4, max_position_embeddings=512, vocab_size=301)
    made = PolicyBank if rank else FullBank
    bank = made(model, 1, PolicyTuning(rank=rank), tokens=4096, checkpointed=checkpointed)
    bank.begin(0, 0)
    texts = [text for seed in range(6) for text in group(seed, count=8, longest=60)]
    (part,) = passes(texts, lambda *_: True)
    size = [0, 0, 0]
    for seed in range(6):
        for at, more in enumerate(size_of(group(seed, count=8, longest=60))):
            size[at] += more
    planned = pass_costs(bank).of(*size)
    assert planned / peak_bytes(lambda: bank.backward(part)) == pytest.approx(1, abs=0.1)


def test_policies_that_do_not_fit_are_refused_with_the_arithmetic() -> None:
    model = stock()
    parameters = sum(one.numel() for one in model.parameters())
    with pytest.raises(CannotRun, match=f"12 bytes x {parameters:,} parameters x 8 nodes .* 4 x {parameters:,}"):
        policy_bank(model, 8, PolicyTuning(rank=0), free=12 * 8 * parameters)
    with pytest.raises(CannotRun, match=r"16 bytes x .* of an adapter x 4 nodes"):
        policy_bank(model, 4, PolicyTuning(rank=8), free=1 << 20)
    held = full_bytes(parameters, 2)
    with pytest.raises(CannotRun, match="a text of 64 tokens takes"):
        policy_bank(model, 2, PolicyTuning(rank=0), free=int(held / 0.9) + 1000)
    bank = policy_bank(model, 2, PolicyTuning(rank=0), free=held + (64 << 20))
    assert bank.plan is not None
    assert "for passes of up to" in bank.plan.explain()
    bank.close()


def test_a_state_that_cannot_be_kept_is_refused_before_anything_is_made() -> None:
    parameters = sum(one.numel() for one in stock().parameters())
    with pytest.raises(CannotRun, match=f"12 bytes x {parameters:,} parameters x 3 nodes") as refused:
        policy_bank(stock(), 3, PolicyTuning(rank=0), most_state=36 * parameters - 1)
    assert "exchange=folder" in refused.value.hint
    policy_bank(stock(), 3, PolicyTuning(rank=0), most_state=36 * parameters).close()


def test_where_memory_is_little_layers_are_computed_again_and_passes_are_within_it() -> None:
    model = stock("Llama", num_hidden_layers=6)
    tuning = PolicyTuning(rank=8)
    costs = pass_costs(PolicyBank(model, 1, tuning))
    held = adapter_bytes(PolicyBank.parameters_of(model, tuning), 1)
    free = int((held + costs.of(250, 250, 250)) / 0.9)
    bank = policy_bank(model, 1, tuning, free=free)
    assert bank.checkpointed
    bank.begin(0, 0)
    texts = [text for seed in range(12) for text in group(seed, count=8)]
    room = int(free * 0.9) - held
    assert peak_bytes(lambda: bank.backward(texts)) < 1.1 * room
