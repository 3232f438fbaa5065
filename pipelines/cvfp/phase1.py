"""Phase 1: the blocks are trained so that contexts stay what they were a sweep before, and differ from each other.

One sweep is one optimizer step. Documents are independent, and each begins with the context 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hybrid.sampling import item_seed
from pipelines.cvfp import objectives
from pipelines.cvfp.adam import Adam
from pipelines.cvfp.diagnostics import Change
from pipelines.cvfp.diagnostics import change as change_of
from pipelines.cvfp.execution import sweep
from pipelines.cvfp.model import Model
from pipelines.cvfp.state import taken

KEPT = torch.float16
"""The type of contexts between two sweeps: half the memory, and a state that holds them is half as large."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How phase 1 trains. `weight`: of the diversity beside the change; `tokens`: of one part of a sweep."""

    objective: objectives.Objective
    weight: float
    learning_rate: float
    clip: float
    noise: float
    tokens: int
    stream: bool = False  # the first token of a document begins with the last context of the one before


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep came to: mean losses over its parts, how far contexts moved, and whether there was a step."""

    change: float
    diversity: float
    moved: Change
    stepped: bool


class PhaseOne:
    """The sweeps over documents `ids` [B, T] of a model. `seed`: of the noise on contexts."""

    def __init__(self, model: Model, ids: torch.Tensor, settings: Settings, seed: int) -> None:
        self.model, self.ids, self.settings, self.seed = model, ids, settings, seed
        self.trained = [*model.blocks.parameters()]
        self.adam = Adam(self.trained)
        self.contexts = torch.zeros(*ids.shape, model.shape.width, dtype=KEPT, device=ids.device)
        self.mean = torch.zeros(model.shape.width, device=ids.device)  # the guide's running mean

    def sweep(self, number: int) -> Sweep:
        """Compute all contexts from those of the sweep before, and take a step."""
        changes, spreads = [], []
        new = torch.empty_like(self.contexts)
        parts = self._parts()
        for part in parts:
            with torch.no_grad():
                tokens = self.model.embedded(self.ids[part])
            before = self.contexts[part].to(tokens.dtype)
            noisy = self._noisy(before, number, part.start)
            contexts, _ = sweep(self.model, tokens, noisy, self._starts(part, noisy))
            change, spread = self._losses(contexts, before, first=number == 0)
            loss = (1 - self.settings.weight) * change + self.settings.weight * spread
            changes.append(float(change.detach()))
            spreads.append(float(spread.detach()))
            if self._steps(loss):
                (loss / len(parts)).backward()
            new[part] = contexts.detach().to(KEPT)
        moved = change_of(new.float(), self.contexts.float())
        self.contexts = new
        return Sweep(sum(changes) / len(parts), sum(spreads) / len(parts), moved, self._step())

    def state(self) -> dict[str, torch.Tensor]:
        """Contexts, the running mean and Adam's moments."""
        return {"contexts": self.contexts, "mean": self.mean, **self.adam.state()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state`. Raises BadData."""
        self.contexts = taken(state, "contexts", self.contexts)
        self.mean = taken(state, "mean", self.mean)
        self.adam.load(state)

    def _parts(self) -> list[slice]:
        """Documents that are computed together, as many as have `settings.tokens` tokens."""
        size = max(1, self.settings.tokens // self.ids.shape[1])
        count = math.ceil(len(self.ids) / size)
        size = math.ceil(len(self.ids) / count)  # parts of like size: each has its own covariance
        return [slice(at, min(at + size, len(self.ids))) for at in range(0, len(self.ids), size)]

    def _starts(self, part: slice, before: torch.Tensor) -> torch.Tensor | None:
        """The contexts [B, d] of the sweep before that the documents of a part begin with; None for 0."""
        if not self.settings.stream:
            return None
        first = self.contexts[part.start - 1, -1] if part.start else torch.zeros_like(self.contexts[0, 0])
        return torch.cat([first[None].to(before), before[:-1, -1]])

    def _noisy(self, before: torch.Tensor, number: int, start: int) -> torch.Tensor:
        if not self.settings.noise:
            return before
        generator = torch.Generator().manual_seed(item_seed(self.seed, "noise", number, start))
        return before + self.settings.noise * torch.randn(before.shape, generator=generator).to(before)

    def _losses(
        self, contexts: torch.Tensor, before: torch.Tensor, *, first: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The change since the sweep before, 0 in the first, and the diversity."""
        zero = contexts.new_zeros(())
        if self.settings.objective.startswith("guide"):
            change = zero if first else objectives.normalised_change_loss(contexts, before)
            spread = -(contexts - self.mean).norm(dim=-1).mean()
            with torch.no_grad():
                self.mean += 0.01 * (contexts.mean((0, 1)) - self.mean)
            return change, spread
        change = zero if first else objectives.change_loss(contexts, before)
        if self.settings.objective == "mean-deviation":
            return change, objectives.mean_deviation(contexts)
        return change, objectives.variance_covariance(contexts)

    def _steps(self, loss: torch.Tensor) -> bool:
        """Whether a loss is minimised: as the guide publishes it, only one above 0 is, and it never is."""
        return self.settings.objective != "guide" or float(loss.detach()) > 0

    def _step(self) -> bool:
        if all(one.grad is None for one in self.trained):
            return False
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.settings.clip or math.inf)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.adam.step(self.settings.learning_rate)
        self.model.zero_grad()
        return finite
