"""Without foreign rollouts a round is GRPO: the gradients of a step that TRL's GRPOTrainer made (beta 0).

`python benchmarks/swarm_round.py --tokens 40 --record tests/data/trl-grpo-step.safetensors` records it: weights of a
small random model, what TRL sampled of it for three questions, rewards (one group is dead), and the gradients.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from hybrid.training.full_policies import FullBank
from hybrid.training.policy_bank import PolicyBank
from hybrid.tuning import PolicyTuning
from pipelines.sapo.advantages import advantages
from pipelines.sapo.ledger import Group
from pipelines.sapo.rollouts import Answer, Rollout
from pipelines.sapo.training_set import Reader, TrainingSet, training_set

torch.set_num_threads(1)
RECORDED = Path(__file__).parents[2] / "data" / "trl-grpo-step.safetensors"
GROUP = 8


class Recorded:
    """What TRL had and what it made of it."""

    def __init__(self) -> None:
        with safe_open(RECORDED, framework="pt") as file:
            self.about: dict[str, Any] = {name: json.loads(text) for name, text in file.metadata().items()}
            names = [name.partition("/") for name in file.keys()]  # noqa: SIM118  (it is no mapping)
            self.weights = {name: file.get_tensor(f"{kind}/{name}") for kind, _, name in names if kind == "weight"}
            self.gradients = {name: file.get_tensor(f"{kind}/{name}") for kind, _, name in names if kind == "gradient"}
        self.model = LlamaForCausalLM(LlamaConfig(**self.about["config"])).eval()
        self.model.load_state_dict(self.weights, strict=False)  # the head is the embedding
        self.end = int(self.model.config.eos_token_id)

    def groups(self) -> Iterator[tuple[tuple[int, ...], Group]]:
        """The prompt of each group, and the group as the pipeline has it."""
        for start in range(0, len(self.about["prompts"]), GROUP):
            completions = self.about["completions"][start : start + GROUP]
            answers = tuple(Answer("", ids[-1] == self.end, tuple(ids)) for ids in completions)
            rewards = tuple(round(10_000 * one) for one in self.about["rewards"][start : start + GROUP])
            rollout = Rollout("c" * 64, 0, 0, start // GROUP, "basic_arithmetic", start, answers, "t" * 64)
            yield tuple(self.about["prompts"][start]), Group(rollout, rewards, advantages(rewards), own=True)

    def training_set(self) -> TrainingSet:
        prompts = {group.rollout.id: prompt for prompt, group in self.groups()}
        reader = Reader(lambda text: (), self.end, "t" * 64)
        groups = [group for _, group in self.groups()]
        return training_set(0, groups, reader, lambda one: prompts[one.id], context=512)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


def test_advantages_are_those_of_trl_and_a_dead_group_has_none(recorded: Recorded) -> None:
    groups = [group for _, group in recorded.groups()]
    ours = [one for group in groups for one in group.advantages or (0.0,) * GROUP]
    assert ours == pytest.approx(recorded.about["advantages"], abs=1e-5)
    assert sum(group.advantages is None for group in groups) == 1
    made = recorded.training_set()
    assert made.tokens == sum(map(len, recorded.about["completions"]))
    assert len(made.texts) == 2 * GROUP


@pytest.mark.parametrize("how", [{}, {"tokens": 1, "checkpointed": True}], ids=["one pass", "many passes"])
def test_gradients_are_those_of_trl(recorded: Recorded, how: dict[str, Any]) -> None:
    bank = FullBank(recorded.model, 1, PolicyTuning(rank=0), **how)
    bank.begin(0, 0)
    bank.backward(recorded.training_set().texts)
    found = bank._views(bank._gradients())
    assert found.keys() == recorded.gradients.keys()
    for name, wanted in recorded.gradients.items():
        assert torch.allclose(found[name], wanted, rtol=1e-5, atol=1e-5), name
    assert max(float(one.abs().max()) for one in recorded.gradients.values()) > 0.01  # so that the test says something
    bank.close()


def test_an_adapter_gets_the_gradient_that_the_layer_of_trl_has(recorded: Recorded) -> None:
    """With A drawn and B zero, the gradient of B is alpha / rank * (dL/dW A) of the layer that TRL trained."""
    tuning = PolicyTuning(rank=8, alpha=8.0, targets=("down_proj",))
    bank = PolicyBank(recorded.model, 1, tuning)
    bank.begin(0, 0)
    bank.backward(recorded.training_set().texts)
    for name in bank._bank.layers:
        a, _ = bank._bank.pair(bank.values, name)
        assert bank._bank.grads is not None
        _, grad_b = bank._bank.pair(bank._bank.grads, name)
        wanted = recorded.gradients[f"{name}.weight"] @ a[0].detach()
        assert torch.allclose(grad_b[0].t(), wanted, rtol=1e-4, atol=1e-5), name
    bank.close()
