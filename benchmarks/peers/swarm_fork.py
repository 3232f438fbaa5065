"""The rounds of `swarm_round` as the fork of rl-swarm does them: one `generate` a question, and one padded pass a node.

Written anew from a description of what that code does: each node in turn has a model of its own, asks `generate` for
eight completions of one question after another, and trains on the 64 completions of its training set in one batch
whose logits are held whole, with gradient checkpointing. Unlike there, adapters are trained, the end token has a loss,
and positions are right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import peft
import torch
from transformers import AutoTokenizer

from peers import swarm
from peers.swarm import FOREIGN, GROUP, NODES, OWN, Clock, Counted, Plan, question


class Rollout(NamedTuple):
    """A question and its completions, as token ids."""

    prompt: list[int]
    answers: list[list[int]]


class ByFork:
    """Eight nodes in turn."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=swarm.RANK, lora_alpha=swarm.ALPHA, target_modules="all-linear"
        )
        self._model = peft.get_peft_model(swarm.load(plan.model), config)
        for node in range(1, NODES):
            self._model.add_adapter(str(node), config)
        self._model.set_adapter("default")
        self._model.gradient_checkpointing_enable()
        self._model.enable_input_require_grads()
        self._counted = Counted(self._model)
        self._tokenizer = AutoTokenizer.from_pretrained(plan.model)
        self._optimizers: dict[int, torch.optim.Optimizer] = {}

    def round(self, number: int) -> tuple[dict[str, float], int, int]:
        """Processor seconds of the halves, decode steps and tokens."""
        torch.manual_seed(number)
        clock, before = Clock(), self._counted.steps
        with clock.of("generating"):
            rollouts = [[self._rollout(node, slot) for slot in range(OWN)] for node in range(NODES)]
        with clock.of("training"):
            for node in range(NODES):
                others = [one for other in range(NODES) if other != node for one in rollouts[other]]
                self._train(node, rollouts[node] + others[node : node + FOREIGN])
        tokens = sum(len(ids) for own in rollouts for one in own for ids in one.answers)
        return clock.seconds, self._counted.steps - before, tokens

    def _node(self, node: int) -> list[Any]:
        """Use the adapter of a node, and return its parameters."""
        name = str(node) if node else "default"
        self._model.set_adapter(name)
        return [one for one in self._model.parameters() if one.requires_grad]

    def _rollout(self, node: int, slot: int) -> Rollout:
        self._node(node)
        self._model.eval()
        ids = self._tokenizer(question(node, slot)).input_ids
        given = torch.tensor([ids] * GROUP)
        with torch.no_grad():
            found = self._model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=self._plan.tokens,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        return Rollout(ids, [self._ended(one) for one in found[:, len(ids) :].tolist()])

    def _ended(self, ids: list[int]) -> list[int]:
        end = self._tokenizer.eos_token_id
        return ids[: ids.index(end) + 1] if end in ids else ids

    def _train(self, node: int, rollouts: list[Rollout]) -> None:
        parameters = self._node(node)
        optimizer = self._optimizers.setdefault(node, torch.optim.AdamW(parameters, swarm.RATE, weight_decay=0.0))
        texts = [(one.prompt, ids) for one in rollouts for ids in one.answers]
        gains = [gain for one in rollouts for gain in swarm.advantages([swarm.reward(ids) for ids in one.answers])]
        longest = max(len(prompt) + len(ids) for prompt, ids in texts)
        rows = [prompt + ids + [0] * (longest - len(prompt) - len(ids)) for prompt, ids in texts]
        mask = torch.tensor([[1] * (len(p) + len(a)) + [0] * (longest - len(p) - len(a)) for p, a in texts])
        labels = torch.tensor([[0] * len(p) + [1] * len(a) + [0] * (longest - len(p) - len(a)) for p, a in texts])
        given = torch.tensor(rows)
        self._model.train()  # else nothing is checkpointed; there is no dropout
        logits = self._model(input_ids=given, attention_mask=mask).logits[:, :-1]
        chosen = torch.log_softmax(logits, dim=-1).gather(-1, given[:, 1:, None])[..., 0]
        loss = -(chosen * torch.tensor(gains)[:, None] * labels[:, 1:]).sum() / labels.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
