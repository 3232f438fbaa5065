"""What training takes of memory, from a shape alone, beside what is measured."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid.plan.gpus import chosen
from hybrid.plan.memory import CONTEXT
from hybrid.plan.shapes import ModelShape, shape_of, shape_of_config
from hybrid.plan.training_memory import (
    On,
    TrainingTexts,
    adapter_parameters,
    pass_costs,
    policy_costs,
    policy_needs,
    training_needs,
)
from hybrid.tuning import SEAL_TARGETS, PolicyTuning

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 900, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048,
}  # fmt: skip
CASES = [
    ("Llama", 8, SEAL_TARGETS, {}),
    ("Llama", 32, SEAL_TARGETS, {"hidden_size": 192, "intermediate_size": 384}),
    ("Qwen2", 16, (), {"num_hidden_layers": 6}),
    ("Qwen3", 16, SEAL_TARGETS, {"vocab_size": 3000}),
    ("Mistral", 64, SEAL_TARGETS, {"intermediate_size": 640, "num_key_value_heads": 6}),
]


def made(family: str, told: dict[str, int]) -> tuple[Any, ModelShape]:
    config = getattr(transformers, f"{family}Config")(**SMALL | told)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    return model, shape_of_config(config.to_dict(), family, "its configuration")


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(("family", "rank", "targets", "told"), CASES)
def test_the_bytes_of_a_pass_are_within_a_tenth_of_the_measured_ones(
    family: str, rank: int, targets: tuple[str, ...], told: dict[str, int], checkpointed: bool
) -> None:
    from hybrid.training.measure import pass_costs as measured
    from hybrid.training.packed_model import PackedModel

    model, shape = made(family, told)
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    there = measured(PackedModel(model, targets or every), rank, checkpointed=checkpointed)
    ours = pass_costs(shape, rank, targets, 4, expanded=False, checkpointed=checkpointed)
    for tokens, labels in ((200, 20), (1000, 100)):
        assert 0.9 <= ours.of_text(tokens, labels) / there.of_text(tokens, labels) <= 1.1


def test_an_adapter_has_as_many_parameters_as_its_bank() -> None:
    from hybrid.training.packed_model import PackedModel

    model, shape = made("Llama", {})
    widths = PackedModel(model, SEAL_TARGETS).slotted.layers.values()
    assert adapter_parameters(shape, 8, SEAL_TARGETS) == 8 * sum(sum(one) for one in widths)
    assert adapter_parameters(shape_of("llama3.2-1b"), 128, SEAL_TARGETS) == 76_546_048


@pytest.mark.parametrize("rank", [8, 0])
def test_the_bytes_of_a_pass_of_policies_are_within_a_fifth_of_the_measured_ones(rank: int) -> None:
    from hybrid.training.full_policies import FullBank
    from hybrid.training.policy_bank import PolicyBank
    from hybrid.training.policy_measure import pass_costs as measured

    model, shape = made("Llama", {"num_hidden_layers": 8})
    tuning = PolicyTuning(rank)
    there = measured((PolicyBank if rank else FullBank)(model, 1, tuning))
    (cpu,) = chosen(["cpu"])
    ours = policy_costs(On(shape, 4, cpu), tuning, checkpointed=False)
    assert ours.chunk == there.chunk
    assert ours.per_logits == there.per_logits
    for tokens in (500, 4000):
        assert 0.8 <= ours.of(tokens, tokens, tokens) / there.of(tokens, tokens, tokens) <= 1.2


def test_adapters_of_a_model_of_1b_fit_a_t4_as_the_specification_says() -> None:
    """1.2 GB a slot at rank 128, so one to four; no fewer of rank 16, whose passes are limited by their tokens."""
    texts = TrainingTexts(16, 16 * 7190, 16 * 780, 16 * 5, ((719, 78),) * 16)
    (t4,) = chosen(["t4"])
    shape, slots = shape_of("llama3.2-1b"), dict[int, int]()
    for rank in (128, 16):
        needs, plan = training_needs(shape, texts, (rank, SEAL_TARGETS), {}, t4, "transformers")
        assert needs.fits
        assert plan is not None
        slots[rank] = plan.slots
    assert 1 <= slots[128] <= 4
    assert slots[16] >= slots[128]


def test_what_cannot_be_trained_is_refused_with_the_engines_own_words() -> None:
    texts = TrainingTexts(1, 4000, 400, 1, ((4000, 400),))
    (t4,) = chosen(["t4"])
    needs, plan = training_needs(shape_of("llama3.1-8b"), texts, (128, SEAL_TARGETS), {}, t4, "transformers")
    assert plan is None
    assert not needs.fits
    assert "training does not fit" in needs.lines[-1].how
    assert "--set rank=16" in needs.hint


def test_policies_that_vllm_samples_for_have_less_room_and_those_without_adapters_are_refused() -> None:
    (t4, l4) = chosen(["t4", "l4"])
    small, large = shape_of("llama3.2-1b"), shape_of("llama3.1-8b")
    alone = policy_needs(small, 8, PolicyTuning(rank=32), 1000, {}, t4)
    beside = policy_needs(small, 8, PolicyTuning(rank=32), 1000, {"sampler": "vllm"}, t4)
    lines = {line.name: line.bytes for line in beside.lines}
    weights = small.weight_bytes(2)
    free = t4.memory - CONTEXT - weights
    assert lines["vLLM, which samples"] == pytest.approx(weights + 0.4 * (free - weights), abs=2)
    assert alone.fits
    assert beside.fits
    assert beside.most == alone.most
    assert lines["activations"] <= {line.name: line.bytes for line in alone.lines}["activations"]
    given = policy_needs(small, 8, PolicyTuning(rank=32), 1000, {"sampler": "vllm", "memory": "0.5"}, t4)
    assert {line.name: line.bytes for line in given.lines}["vLLM, which samples"] == t4.memory // 2
    for shape, rank in ((large, 32), (small, 0)):
        assert not (refused := policy_needs(shape, 8, PolicyTuning(rank=rank), 1000, {"sampler": "vllm"}, l4)).fits
        assert "without that sampler" in refused.hint
