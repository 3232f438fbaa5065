"""K policies as LoRA adapters over one frozen causal model: all sample and train in the same passes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch

from hybrid.canonical import Json
from hybrid.loops import Step
from hybrid.training import adapters, policy_state
from hybrid.training.adapters import LoraWeights, initial_weights
from hybrid.training.label_loss import Head
from hybrid.training.memory import aligned
from hybrid.training.optimizer import SlotAdamW
from hybrid.training.policy_model import PolicyModel
from hybrid.training.policy_passes import PolicyPasses
from hybrid.training.recompute import repeatable_layers
from hybrid.training.slots import AdapterBank, Route, SlottedModel, linear_layers, widths
from hybrid.tuning import PolicyTuning


class PolicyBank(PolicyPasses):
    """The training side of `hybrid.loops.Policies` with `slots` adapters over `model`, a causal model.

    The layers with slots are in the model only while this computes. `together`: a pass may have rows of all slots.
    Raises CannotRun for targets that the model does not have.
    """

    together = True

    def __init__(
        self, model: Any, slots: int, tuning: PolicyTuning, *, tokens: int = 0, checkpointed: bool = False
    ) -> None:
        super().__init__(PolicyModel(model), slots, tokens=tokens, checkpointed=checkpointed)
        self.slots, self.tuning = slots, tuning
        self._slotted = SlottedModel(model, tuning.targets or None, inside=self.policy_model.layers, group_inputs=True)
        self._slotted.close()
        self._open = 0
        self._bank = AdapterBank(self._slotted.layers, slots, tuning.rank, model, training=True)
        self.values = self._bank.values
        self.optimizer = SlotAdamW(self._bank, scaled=self.policy_model.dtype == torch.float16)
        head = self.policy_model.head
        self._head = Head(head.weight, head.bias, self.policy_model.scale)
        self._held: dict[int, LoraWeights] = {}  # slot -> what it began with, for the shapes of the result
        self._routes: dict[tuple[int, ...], Route] = {}  # of the steps of decoding

    @staticmethod
    def parameters_of(model: Any, tuning: PolicyTuning) -> int:
        """The numbers of a slot. Raises CannotRun for targets that the model does not have."""
        layers = linear_layers(model, tuning.targets or None, repeatable_layers(model))
        return sum(aligned(tuning.rank) * sum(widths(one)) for one in layers.values())

    def begin(self, slot: int, seed: int) -> None:
        """`hybrid.loops.Policies`."""
        names = [name.rpartition(".")[2] for name in self._slotted.layers]
        self._held[slot] = initial_weights(self._slotted.layers, names, self.tuning.rank, self.tuning.alpha, seed)
        adapters.load(self._bank, slot, self._held[slot])
        self.optimizer.begin(slot, self.tuning)
        self._changed(slot)

    def step(self, slot: int, learning_rate: float) -> Step:
        """`hybrid.loops.Policies`."""
        self._routes.clear()
        return super().step(slot, learning_rate)

    @contextmanager
    def using(self, lengths: Sequence[int]) -> Iterator[None]:
        """Within it, a call of the model computes batches whose rows are sorted by slot: lengths[k] of slot k.

        A row is one token: a batch [b, t] has b * t.
        """
        about = tuple(lengths)
        if about not in self._routes:
            if len(self._routes) > 64:
                self._routes.clear()
            with torch.inference_mode(mode=False):  # the caller may be in it, and training uses some of this too
                self._routes[about] = Route(self._bank, lengths, self.policy_model.dtype)
        route = self._routes[about]
        route.ready.clear()
        with self.slots_in_place(), self._slotted.routed(route):
            yield

    @contextmanager
    def slots_in_place(self) -> Iterator[None]:
        """Within it, the layers with slots are in the model. It may be nested, which costs nothing."""
        if not self._open:
            self._slotted.open()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._slotted.close()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within it, passes may be computed."""
        with self.slots_in_place(), self.policy_model.packed():
            yield

    def computing(self, lengths: Sequence[int], *, gradients: bool) -> Callable[[], AbstractContextManager[None]]:
        """What makes the context in which the model computes a pack, lengths[k] rows of slot k."""
        used = [slot for slot, length in enumerate(lengths) if length]
        first, end = used[0], used[-1] + 1
        bank = self._bank.window(first, end)
        if not gradients:
            bank.grads = None
        return partial(self._slotted.routed, Route(bank, lengths[first:end], self.policy_model.dtype))

    def head(self, slot: int) -> Head:
        """The frozen head."""
        return self._head

    def adapter(self, slot: int) -> bytes:
        """`hybrid.loops.Policies`: PEFT's layout."""
        return adapters.extract(self._bank, slot, self._of(slot)).to_bytes(torch.float32)

    def digest(self, slot: int) -> str:
        """`hybrid.loops.Policies`."""
        self._of(slot)
        return hashlib.sha256(self.values[slot].detach().cpu().numpy().tobytes()).hexdigest()

    def load(self, state: bytes) -> None:
        """`hybrid.loops.Policies`."""
        for slot, one in enumerate(policy_state.from_bytes(state, self._about(), self.slots, self._bank.size)):
            self._held.pop(slot, None)
            self._pending[slot] = []
            if one is not None:
                self.begin(slot, 0)
                self.values[slot].copy_(one["values"])
                self.optimizer.restore(slot, one)

    def close(self) -> None:
        """Free the memory. The model is as it was."""
        self._bank.values = self.values = self.values.new_zeros(0, self._bank.size)
        self._bank.grads = None
        self._routes.clear()
        del self.optimizer

    def refuse(self, texts: Sequence[Any]) -> None:
        """Raise ValueError for texts that cannot be computed."""
        super().refuse(texts)
        for slot in {text.slot for text in texts}:
            self._of(slot)

    def _of(self, slot: int) -> LoraWeights:
        if slot not in self._held:
            raise ValueError(f"slot {slot} holds no policy: begin it first")
        return self._held[slot]

    def _changed(self, slot: int) -> None:
        self._pending[slot] = []
        self._routes.clear()

    def _about(self) -> dict[str, Json]:
        layers = hashlib.sha256(repr(sorted(self._slotted.layers.items())).encode()).hexdigest()
        return {"kind": "lora", "rank": self.tuning.rank, "alpha": self.tuning.alpha, "layers": layers}
