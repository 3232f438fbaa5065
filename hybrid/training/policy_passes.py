"""What all banks of policies do alike: gradients and log-probabilities of texts, in passes that fit the memory."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from hybrid.canonical import Json
from hybrid.errors import CannotRun
from hybrid.loops import PolicyText, Step
from hybrid.training import policy_state
from hybrid.training.label_loss import Head, cross_entropies, weighted_loss
from hybrid.training.optimizer import SlotAdamW
from hybrid.training.out_of_memory import fits
from hybrid.training.policy_memory import PolicyPlan, tokens_of_a_pass
from hybrid.training.policy_model import PolicyModel
from hybrid.training.policy_pack import PolicyPack, merged, pack, passes, size_of
from hybrid.tuning import PolicyTuning

LOG = logging.getLogger("hybrid")

Asked = tuple[Sequence[PolicyText], float]
"""Texts and their temperature."""


class PolicyPasses(ABC):
    """The passes of `slots` policies over one model. It must be used from one thread.

    `tokens`: of a pass, halved whenever memory is lacking; without memory for one text, CannotRun is raised. With a
    `plan`, passes are also within its bytes.
    """

    optimizer: SlotAdamW
    tuning: PolicyTuning
    values: torch.Tensor
    """What is trained, [slots, N]."""
    plan: PolicyPlan | None = None
    _held: Container[int]  # the slots that have begun

    def __init__(self, model: PolicyModel, slots: int, *, tokens: int = 0, checkpointed: bool = False) -> None:
        self.policy_model, self.tokens, self.checkpointed = model, tokens or pass_tokens(model), checkpointed
        self._pending: list[list[Asked]] = [[] for _ in range(slots)]  # of the slots' open steps

    @abstractmethod
    def _about(self) -> dict[str, Json]:
        """What a bank must have in common with one whose state it takes."""

    @abstractmethod
    def training(self) -> AbstractContextManager[None]:
        """Within this context, passes may be computed."""

    @abstractmethod
    def computing(self, lengths: Sequence[int], *, gradients: bool) -> Callable[[], AbstractContextManager[Any]]:
        """What makes the context in which the model computes a pack with lengths[k] rows of slot k.

        It is made again for each layer that is computed again.
        """

    @abstractmethod
    def head(self, slot: int) -> Head:
        """The head of a pack whose first text is of this slot."""

    def backward(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> tuple[float, ...]:
        """`hybrid.loops.Policies`.

        Raises ValueError for texts that the model cannot compute, CannotRun without memory for one of them.
        """
        self.refuse(texts)
        kept = merged(texts)
        slots = {text.slot for text in kept}
        open_steps = [asked for slot in slots for asked in self._pending[slot]]
        losses = self.values.new_zeros(len(self._pending))
        again: Sequence[Asked] = ()
        with self.training():
            while not fits(partial(self._accumulate_all, again, (kept, temperature), losses)):
                self._take_less(kept)
                again = open_steps  # the open steps of these slots start again, in smaller passes
                losses.zero_()
                for slot in slots:
                    self.optimizer.forget_gradients(slot)
        for slot in slots:
            self._pending[slot].append(([text for text in kept if text.slot == slot], temperature))
        return tuple(losses.tolist())

    def logprobs(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> list[tuple[float, ...]]:
        """`hybrid.loops.Policies`. Raises as `backward` does."""
        self.refuse(texts)
        found: dict[PolicyText, tuple[float, ...]] = {}
        labelled = [text for text in dict.fromkeys(texts) if text.weights]
        with self.training():
            while not fits(partial(self._fill, labelled, temperature, found)):
                self._take_less(labelled)
        return [found.get(text, ()) for text in texts]

    def step(self, slot: int, learning_rate: float) -> Step:
        """`hybrid.loops.Policies`."""
        self._pending[slot] = []
        skipped = self.optimizer.step(slot, learning_rate)
        return Step(float(self.optimizer.norms[slot]), bool(skipped))

    def rest(self, slot: int) -> None:
        """Go on with the weights of a slot and a fresh optimizer."""
        self._pending[slot] = []
        self.optimizer.begin(slot, self.tuning)

    def forget_gradients(self, slot: int) -> None:
        """Zero what was accumulated of the slot's step."""
        self._pending[slot] = []
        self.optimizer.forget_gradients(slot)

    def state(self) -> bytes:
        """`hybrid.loops.Policies`. Raises ValueError within a step."""
        if any(self._pending):
            raise ValueError("a state is of policies whose gradients are zero: step or forget them first")
        parts = [
            {"values": self.values[slot], **self.optimizer.state(slot)} if slot in self._held else None
            for slot in range(len(self._pending))
        ]
        return policy_state.to_bytes(parts, self._about())

    def refuse(self, texts: Sequence[PolicyText]) -> None:
        """Raise ValueError for texts that the model cannot compute."""
        model, slots = self.policy_model, len(self._pending)
        for text in texts:
            if not 0 <= text.slot < slots:
                raise ValueError(f"there is no slot {text.slot}: it has {slots}")
            if not 1 <= text.start <= len(text.ids) or len(text.weights) != len(text.ids) - text.start:
                raise ValueError(
                    f"{len(text.ids)} tokens from {text.start} on are not {len(text.weights)} labels after a prompt"
                )
            if len(text.ids) > model.positions:
                raise ValueError(f"a text has {len(text.ids)} tokens; the model takes {model.positions}")
            if self.plan and not self.plan.allows(*size_of([text])):
                raise CannotRun(
                    f"a text of {len(text.ids)} tokens does not fit: {self.plan.explain()}",
                    hint="take shorter texts (--set max_tokens=...), fewer nodes, a smaller model or a larger device",
                )
            if not 0 <= min(text.ids) <= max(text.ids) < model.vocabulary:
                raise ValueError(f"token ids are 0 to {model.vocabulary - 1}")

    def _accumulate_all(self, again: Sequence[Asked], asked: Asked, losses: torch.Tensor) -> None:
        for texts, temperature in again:
            self._accumulate(texts, temperature, torch.zeros_like(losses))
        self._accumulate(*asked, losses)

    def _accumulate(self, texts: Sequence[PolicyText], temperature: float, losses: torch.Tensor) -> None:
        for part in passes(texts, self._fits):
            one = self.pack(part)
            rows = self.rows(one, gradients=True)
            scaled = one.weight * self.optimizer.scale[one.slot].to(one.weight.dtype)
            loss, each = weighted_loss(rows, self.head(part[0].slot), one.targets, scaled, temperature)
            loss.backward()
            losses.index_add_(0, one.slot, each.to(losses.dtype) * one.weight)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _fill(self, texts: Sequence[PolicyText], temperature: float, found: dict[PolicyText, Any]) -> None:
        for part in passes(texts, self._fits):
            one = self.pack(part)
            rows = self.rows(one, gradients=False)
            each = -cross_entropies(rows, self.head(part[0].slot), one.targets, temperature)
            parts = each.split([len(text.weights) for text in part])
            found |= {text: tuple(own.tolist()) for text, own in zip(part, parts, strict=True)}

    def pack(self, part: Sequence[PolicyText]) -> PolicyPack:
        """The pack of a pass."""
        return pack(part, len(self._pending), self.policy_model.device, self.values.dtype)

    def rows(self, one: PolicyPack, *, gradients: bool) -> torch.Tensor:
        """The hidden rows of a pack's labels; with `gradients`, a backward pass accumulates those of its slots."""
        computing = self.computing(one.lengths, gradients=gradients)
        return self.policy_model.rows(one, computing, checkpointed=self.checkpointed and gradients)

    def _fits(self, tokens: int, keys: int, labels: int) -> bool:
        return tokens <= self.tokens and (self.plan is None or self.plan.allows(tokens, keys, labels))

    def _take_less(self, texts: Sequence[PolicyText]) -> None:
        if self.tokens <= min((len(text.ids) for text in texts), default=1):
            raise CannotRun(
                "the device has not enough memory for a pass over one text",
                hint="take shorter texts (--set max_tokens=...), a smaller model or a larger device",
            )
        self.tokens //= 2
        LOG.warning("a pass ran out of memory; from now on passes have %d tokens", self.tokens)


def pass_tokens(model: PolicyModel) -> int:
    """The tokens of a pass, unless memory is lacking."""
    return tokens_of_a_pass(model.width, cpu=model.device.type == "cpu")
