"""Phase 1 as the guide publishes it: one token of the stream after the other, an optimizer step after each.

It is here so that its figures can be seen. Each token begins with the context that the one before it has just been
given, with noise; the first one of a sweep with the last one of the sweep before.
"""

from __future__ import annotations

import torch

from hybrid.errors import CannotRun
from hybrid.sampling import item_seed
from pipelines.cvfp import objectives
from pipelines.cvfp.diagnostics import change as change_of
from pipelines.cvfp.model import Model
from pipelines.cvfp.phase1 import PhaseOne, Settings, Sweep

MOST_TOKENS = 10_000
"""A sweep of so many takes minutes to an hour."""
MOMENTUM = 0.99
"""Of the running mean of contexts."""


class TokenByToken(PhaseOne):
    """The sweeps over the stream of documents `ids` [B, T]. `seed`: of the noise on contexts. Raises CannotRun."""

    def __init__(self, model: Model, ids: torch.Tensor, settings: Settings, seed: int) -> None:
        if ids.numel() > MOST_TOKENS:
            raise CannotRun(
                f"execution=token-by-token walks {ids.numel():,} tokens one by one; {MOST_TOKENS:,} are the most",
                hint=f"--set pieces={MOST_TOKENS // ids.shape[1]}, or leave execution out",
            )
        super().__init__(model, ids, settings, seed)
        self.contexts = torch.zeros(ids.numel(), model.shape.width, device=ids.device)

    def sweep(self, number: int) -> Sweep:
        """Walk the stream once; the losses are means over its tokens."""
        with torch.no_grad():
            tokens = self.model.embedded(self.ids.flatten())
        generator = torch.Generator().manual_seed(item_seed(self.seed, "stream", number))
        context, new = self.contexts[-1], torch.empty_like(self.contexts)
        changes, spreads, steps = 0.0, 0.0, 0
        for place, token in enumerate(tokens):
            if place:
                context = context + self.settings.noise * torch.randn(context.shape, generator=generator).to(context)
            made, _ = self.model.step(context[None], token[None])
            change, spread = self._losses(made[0], self.contexts[place], first=number == 0)
            changes, spreads = changes + float(change.detach()), spreads + float(spread.detach())
            loss = (1 - self.settings.weight) * change + self.settings.weight * spread
            if self._steps(loss):
                loss.backward()
                steps += self._step()
            context = made[0].detach()
            self.mean = MOMENTUM * self.mean + (1 - MOMENTUM) * context
            new[place] = context
        moved = change_of(new, self.contexts)
        self.contexts = new
        return Sweep(changes / len(tokens), spreads / len(tokens), moved, steps > 0)

    def _losses(
        self, contexts: torch.Tensor, before: torch.Tensor, *, first: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalised change of a token's context since the sweep before, and minus its distance to the mean."""
        change = contexts.new_zeros(()) if first else objectives.normalised_change_loss(contexts, before)
        return change, -(contexts - self.mean).norm()


def log_line(number: int, sweep: Sweep, rank: float | None) -> str:
    """What the guide prints of a sweep. Its loss is 2 (1 - cos) / d: the cosine tells how little it means."""
    told = "" if rank is None else f", effective rank {rank:.1%}"
    return (
        f"Iteration {number + 1}: CVFP loss {sweep.change:.6f}, distance {-sweep.diversity:.3f}, "
        f"converged {sweep.moved.converged:.1%}{told}"
    )
