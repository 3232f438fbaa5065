"""AdamW for each slot separately, over the rows of one flat buffer. Slots are independent of each other.

Each slot is one parameter of N numbers with torch's fused AdamW. Its arguments for loss scaling avoid synchronising
with the device: the gradient is divided by `grad_scale`, which combines loss scale and clipping, and a step with
`found_inf` changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch.optim.adamw import adamw

FIRST_SCALE = 1024.0
"""Initial loss scale of float16; halved whenever a gradient overflows."""


class Decay(Protocol):
    """The settings of an optimizer: `hybrid.tuning.Tuning` and `PolicyTuning` have them."""

    @property
    def weight_decay(self) -> float: ...

    @property
    def clip(self) -> float: ...


class Trained(Protocol):
    """What is trained: values [slots, N] and their gradients, which slots that never train at once may share."""

    slots: int
    values: torch.Tensor
    grads: torch.Tensor | None


class SlotAdamW:
    """The optimizer of one bank. `begin` a slot before its first `step`; `scale[k]` multiplies slot k's loss.

    `norms[k]` is the norm of the gradient of slot k's last `step`, before it was cut.
    """

    def __init__(self, bank: Trained, *, scaled: bool) -> None:
        if bank.grads is None:
            raise ValueError("a bank without gradients cannot be trained")
        self._values, self._grads = bank.values, bank.grads  # not the bank, which holds its optimizer
        self.scale = torch.full((bank.slots,), FIRST_SCALE if scaled else 1.0, device=bank.values.device)
        self.norms = torch.zeros_like(self.scale)
        self._scaled = scaled
        self._of: dict[int, torch.optim.AdamW] = {}
        self._clip: dict[int, float] = {}
        self._frozen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # mask of frozen parameters, their values

    def begin(self, slot: int, tuning: Decay, frozen: torch.Tensor | None = None) -> None:
        """Reset the state of a slot. Parameters where `frozen` [N] is true are never changed."""
        row = self._values[slot]
        row.grad = self._grads[slot].zero_()
        self._of[slot] = torch.optim.AdamW(
            [row], lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=tuning.weight_decay, fused=True
        )
        # torch would allocate the moments in the first step, and without memory for them leave half of a state.
        self._of[slot].state[row] = {
            "step": torch.zeros((), device=row.device, dtype=torch.float32),
            "exp_avg": torch.zeros_like(row),
            "exp_avg_sq": torch.zeros_like(row),
        }
        self._clip[slot] = tuning.clip
        self.scale[slot] = FIRST_SCALE if self._scaled else 1.0
        self._frozen.pop(slot, None)
        if frozen is not None:
            self._frozen[slot] = frozen.to(row.device), row.clone()

    def step(self, slot: int, learning_rate: float) -> torch.Tensor:
        """One step of one slot with its gradients in the bank, which are then zeroed. Returns 1 when skipped, else 0.

        Clipping is torch's `clip_grad_norm_`; a gradient that is not finite skips the step, as in `GradScaler`. All
        memory is allocated before anything is changed, so that a step that runs out of it can be repeated.
        """
        optimizer, grad = self._of[slot], self._grads[slot]
        frozen, kept = self._frozen.get(slot, (None, None))
        if frozen is not None:
            grad.masked_fill_(frozen, 0.0)
        norm = grad.norm() / self.scale[slot]
        self.norms[slot] = norm
        skipped = (~norm.isfinite()).float()
        clipping = (norm / self._clip[slot] + 1e-6 / self._clip[slot]).clamp(min=1.0) if self._clip[slot] else 1.0
        optimizer.grad_scale = (self.scale[slot] * clipping).float()
        optimizer.found_inf = skipped
        optimizer.param_groups[0]["lr"] = learning_rate
        scale = 1 - 0.5 * skipped
        optimizer.step()
        grad.zero_()
        if frozen is not None:  # weight decay would still change them
            row = self._values[slot]
            torch.where(frozen, kept, row, out=row)
        if self._scaled:
            self.scale[slot].mul_(scale)
        return skipped

    def step_together(self, slots: Sequence[int], learning_rate: float) -> torch.Tensor:
        """A step of several slots as one operation. Returns [slots]: 1 where skipped, else 0.

        Unlike `step`, it waits for the device once. The slots have the same weight decay.
        """
        index = torch.tensor(slots, device=self._values.device)
        for slot in slots:
            if slot in self._frozen:
                self._grads[slot].masked_fill_(self._frozen[slot][0], 0.0)
        norms = torch.stack([self._grads[slot].norm() for slot in slots]) / self.scale[index]
        clip = torch.tensor([self._clip[slot] or math.inf for slot in slots], device=norms.device)
        divisors = self.scale[index] * (norms / clip + 1e-6 / clip).clamp(min=1.0)
        finite = norms.isfinite()
        able = [slot for slot, well in zip(slots, finite.tolist(), strict=True) if well]
        rows, states = [self._values[slot] for slot in able], [self._states(slot) for slot in able]
        if able:
            grads = [self._grads[slot] for slot in able]
            torch._foreach_div_(grads, list(divisors[finite].unbind()))
            adamw(
                rows,
                grads,
                *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")),
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=learning_rate,
                weight_decay=self._of[able[0]].param_groups[0]["weight_decay"],
                eps=1e-8,
                maximize=False,
            )
        for slot in slots:
            self._grads[slot].zero_()
            if slot in self._frozen:  # weight decay would still change them
                frozen, kept = self._frozen[slot]
                torch.where(frozen, kept, self._values[slot], out=self._values[slot])
        skipped = (~finite).float()
        if self._scaled:
            self.scale[index] *= 1 - 0.5 * skipped
        return skipped

    def _states(self, slot: int) -> dict[str, torch.Tensor]:
        (row,) = self._of[slot].param_groups[0]["params"]
        state: dict[str, torch.Tensor] = self._of[slot].state[row]
        return state

    def forget_gradients(self, slot: int) -> None:
        """Zero what was accumulated of the slot's step."""
        self._grads[slot].zero_()

    def state(self, slot: int) -> dict[str, torch.Tensor]:
        """The state of a slot beside its values, not copied: moments, step count, loss scale, accumulated gradients."""
        kept = {name: value for name, value in self._states(slot).items() if isinstance(value, torch.Tensor)}
        return {**kept, "scale": self.scale[slot], "grad": self._grads[slot]}

    def restore(self, slot: int, state: Mapping[str, torch.Tensor]) -> None:
        """Restore the result of `state`. Call `begin` before."""
        device = self._values.device
        moments = {name: state[name].to(device) for name in ("step", "exp_avg", "exp_avg_sq") if name in state}
        if moments:
            self._states(slot).update(moments)
        self.scale[slot] = state["scale"].to(device)
        if "grad" in state:
            self._grads[slot].copy_(state["grad"])
