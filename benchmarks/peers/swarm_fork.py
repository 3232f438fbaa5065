"""The rounds of `swarm_round` as the fork of rl-swarm does them: one `generate` a question, and one padded pass a node.

Written anew from a description of what that code does: each node in turn has a model of its own, asks `generate` for
eight completions of one question after another, and trains on the 64 completions of its training set in one batch,
questions padded on the left, with gradient checkpointing; the logits of all completions are held whole. Unlike there,
adapters are trained, the end token has a loss, completions are padded on the right, and positions are right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import peft
import torch
from transformers import AutoTokenizer

from peers import swarm
from peers.swarm import EVERY, GROUP, NODES, OWN, Clock, Counted, Plan, questions, trained_on


class Rollout(NamedTuple):
    """A question and its completions, as token ids."""

    prompt: list[int]
    answers: list[list[int]]


class ByFork:
    """Nodes in turn: all eight, or the first of them, which then share with each other alone."""

    def __init__(self, plan: Plan) -> None:
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
        self._questions = questions(plan.model)
        self._optimizers: dict[int, torch.optim.Optimizer] = {}
        self._places = EVERY[: plan.nodes * OWN]

    def round(self, number: int, tokens: int) -> tuple[dict[str, float], int, int]:
        """Processor seconds of the halves, decode steps and tokens."""
        torch.manual_seed(number)
        clock, before = Clock(), self._counted.steps
        with clock.of("generating"):
            rollouts = {one: self._rollout(*one, tokens) for one in self._places}
        with clock.of("training"):
            for node in range(len(self._places) // OWN):
                self._train(node, [rollouts[one] for one in trained_on(node, self._places)])
        wrote = sum(len(ids) for one in rollouts.values() for ids in one.answers)
        return clock.seconds, self._counted.steps - before, wrote

    def _node(self, node: int) -> list[Any]:
        """Use the adapter of a node, and return its parameters."""
        name = str(node) if node else "default"
        self._model.set_adapter(name)
        return [one for one in self._model.parameters() if one.requires_grad]

    def _rollout(self, node: int, slot: int, tokens: int) -> Rollout:
        self._node(node)
        self._model.eval()
        ids = self._tokenizer(self._questions[node][slot]).input_ids
        given = torch.tensor([ids] * GROUP)
        with torch.no_grad():
            found = self._model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=tokens,
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
        before, after = (max(map(len, part)) for part in zip(*texts, strict=True))
        rows = [[0] * (before - len(p)) + p + a + [0] * (after - len(a)) for p, a in texts]
        shown = [[0] * (before - len(p)) + [1] * (len(p) + len(a)) + [0] * (after - len(a)) for p, a in texts]
        given, mask = torch.tensor(rows), torch.tensor(shown)
        labels, positions = mask[:, before:], (mask.cumsum(dim=1) - 1).clamp_(min=0)
        self._model.train()  # else nothing is checkpointed; there is no dropout
        logits = self._model(
            input_ids=given, attention_mask=mask, position_ids=positions, logits_to_keep=after + 1
        ).logits[:, :-1]
        chosen = torch.log_softmax(logits, dim=-1).gather(-1, given[:, before:, None])[..., 0]
        loss = -(chosen * torch.tensor(gains)[:, None] * labels).sum() / labels.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
