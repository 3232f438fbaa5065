"""K policies each of which has parameters of its own: full fine-tuning. One of them is in the model at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import safetensors.torch
import torch

from hybrid.canonical import Json
from hybrid.loops import PolicyText, Step
from hybrid.training import policy_state
from hybrid.training.label_loss import Head
from hybrid.training.optimizer import SlotAdamW
from hybrid.training.policy_model import PolicyModel
from hybrid.training.policy_passes import PolicyPasses
from hybrid.tuning import PolicyTuning

ALIGNED = 16
"""Numbers to which each parameter is aligned in a slot's values: 64 bytes in fp32."""


class FullBank(PolicyPasses):
    """The training side of `hybrid.loops.Policies` with `slots` copies of all parameters, in fp32, of `model`.

    Weights and moments of all slots stay; gradients exist once, so a slot must `step` before another has texts. Passes
    compute in the model's own type. The model has the parameters of the slot that was used last, until `close`.
    """

    together = False

    def __init__(
        self, model: Any, slots: int, tuning: PolicyTuning, *, tokens: int = 0, checkpointed: bool = False
    ) -> None:
        super().__init__(PolicyModel(model), slots, tokens=tokens, checkpointed=checkpointed)
        self.slots, self.tuning = slots, tuning
        self._parameters: dict[str, Any] = dict(model.named_parameters())  # tied ones once
        self._required = {name: one.requires_grad for name, one in self._parameters.items()}
        device, dtype = self.policy_model.device, self.policy_model.dtype
        # On a GPU the memory is for the slots: what they begin with waits in the host's.
        self._base = {name: one.data.to("cpu") for name, one in self._parameters.items()}
        self._places: dict[str, int] = {}
        self.size = 0
        for name, one in self._parameters.items():
            self._places[name] = self.size
            self.size += -(-one.numel() // ALIGNED) * ALIGNED
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.values = torch.zeros(slots, self.size, device=device, dtype=wide)
        self.grads: torch.Tensor | None = self.values.new_zeros(1, self.size).expand(slots, -1)
        self.optimizer = SlotAdamW(self, scaled=dtype == torch.float16)
        self._half = dtype in (torch.float16, torch.bfloat16)
        self._held: set[int] = set()
        self._present: int | None = None  # the slot whose parameters are in the model

    @staticmethod
    def parameters_of(model: Any, _: PolicyTuning) -> int:
        """The numbers of a slot."""
        return sum(one.numel() for one in model.parameters())

    def begin(self, slot: int, seed: int) -> None:
        """`hybrid.loops.Policies`."""
        self._refuse_open(slot)
        self._pending[slot] = []
        self.optimizer.begin(slot, self.tuning)
        for name, view in self._views(self.values[slot]).items():
            view.copy_(self._base[name])
        self._held.add(slot)

    def backward(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> tuple[float, ...]:
        """`hybrid.loops.Policies`. Raises ValueError for texts of several slots, or while another slot must step."""
        for slot in {text.slot for text in texts}:
            self._refuse_open(slot)
        if len({text.slot for text in texts}) > 1:
            raise ValueError("with full fine-tuning one slot after the other has texts and steps")
        return super().backward(texts, temperature)

    def step(self, slot: int, learning_rate: float) -> Step:
        """`hybrid.loops.Policies`."""
        self._refuse_open(slot)
        return super().step(slot, learning_rate)

    @contextmanager
    def using(self, lengths: Sequence[int]) -> Iterator[None]:
        """Within it, a call of the model computes rows of the one slot k with lengths[k] of them."""
        (slot,) = [slot for slot, length in enumerate(lengths) if length]
        self._put(slot)
        with self._precision():
            yield

    def training(self) -> AbstractContextManager[None]:
        """Within it, passes may be computed."""
        return self.policy_model.packed()

    def computing(
        self,
        lengths: Sequence[int],
        *,
        gradients: bool,
    ) -> Callable[[], AbstractContextManager[Any]]:
        """What makes the context in which the model computes a pack of one slot."""
        (slot,) = [slot for slot, length in enumerate(lengths) if length]
        self._put(slot)
        return self._precision

    def head(self, slot: int) -> Head:
        """The head of a slot, whose gradients are accumulated."""
        self._put(slot)
        head, dtype = self.policy_model.head, self.policy_model.dtype
        bias = None if head.bias is None else head.bias.detach().to(dtype)
        return Head(head.weight.detach().to(dtype), bias, self.policy_model.scale, trained=(head.weight, head.bias))

    def adapter(self, slot: int) -> bytes:
        """`hybrid.loops.Policies`: all parameters, in fp32."""
        parts = {name: view.to("cpu", copy=True) for name, view in self._views(self._of(slot)).items()}
        data: bytes = safetensors.torch.save(parts, {"format": "pt"})
        return data

    def digest(self, slot: int) -> str:
        """`hybrid.loops.Policies`."""
        return hashlib.sha256(self._of(slot).cpu().numpy().tobytes()).hexdigest()

    def load(self, state: bytes) -> None:
        """`hybrid.loops.Policies`."""
        found = policy_state.from_bytes(state, self._about(), self.slots, self.size)
        self._held, self._pending = set(), [[] for _ in range(self.slots)]
        for slot, one in enumerate(found):
            if one is not None:
                self.optimizer.begin(slot, self.tuning)
                self.values[slot].copy_(one["values"])
                self.optimizer.restore(slot, one)
                self._held.add(slot)

    def close(self) -> None:
        """Free the memory, and give the model its own parameters again."""
        for name, one in self._parameters.items():
            one.grad, one.data = None, self._base[name].to(self.policy_model.device)
            one.requires_grad_(self._required[name])
        self.values = self.values.new_zeros(0, self.size)
        self.grads = self._present = None
        del self.optimizer

    def refuse(self, texts: Sequence[PolicyText]) -> None:
        """Raise ValueError for texts that cannot be computed."""
        super().refuse(texts)
        for slot in {text.slot for text in texts}:
            self._of(slot)

    def _put(self, slot: int) -> None:
        """Give the model the parameters of a slot, and the gradients that it shares with the others."""
        if self._present == slot:
            return
        with torch.inference_mode(mode=False):  # the caller may be in it
            grads = self._views(self._gradients())
            for name, view in self._views(self.values[slot].detach()).items():
                one = self._parameters[name]
                one.grad = None
                one.data = view
                one.requires_grad_(requires_grad=True)
                one.grad = grads[name]
        self._present = slot

    def _gradients(self) -> torch.Tensor:
        if self.grads is None:
            raise ValueError("the policies are closed")
        return self.grads[0]

    def _views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters in a slot's values, by name."""
        return {
            name: flat[start : start + self._base[name].numel()].view(self._base[name].shape)
            for name, start in self._places.items()
        }

    def _precision(self) -> AbstractContextManager[Any]:
        model = self.policy_model
        return torch.autocast(model.device.type, model.dtype) if self._half else nullcontext()

    def _of(self, slot: int) -> torch.Tensor:
        if slot not in self._held:
            raise ValueError(f"slot {slot} holds no policy: begin it first")
        return self.values[slot].detach()

    def _refuse_open(self, slot: int) -> None:
        for other, pending in enumerate(self._pending):
            if pending and other != slot:
                raise ValueError(f"slot {other} must step before slot {slot} has texts: they share one gradient")

    def _about(self) -> dict[str, Json]:
        shapes = sorted((name, tuple(one.shape)) for name, one in self._base.items())
        return {"kind": "full", "parameters": hashlib.sha256(repr(shapes).encode()).hexdigest()}
