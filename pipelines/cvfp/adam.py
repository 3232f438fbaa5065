"""AdamW of some parameters, whole or a few rows at a time, with moments that stand in a state.

By the function that torch's own class calls: making that class imports torch's compiler, 150 MiB and four seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.optim.adamw import adamw

from pipelines.cvfp.state import taken

BETAS, SMALLEST = (0.9, 0.999), 1e-8


class Adam:
    """AdamW (Loshchilov and Hutter 2019) of `parameters`; without `weight_decay` it is Adam (Kingma and Ba 2015).

    The moments of a parameter are made at its first step.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], weight_decay: float = 0.0) -> None:
        self.parameters, self.weight_decay = list(parameters), weight_decay
        self._steps: dict[int, torch.Tensor] = {}
        self._first: dict[int, torch.Tensor] = {}
        self._second: dict[int, torch.Tensor] = {}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, learning_rate: float) -> None:
        """A step of each parameter that has a gradient, which it has no longer after it."""
        for place, one in enumerate(self.parameters):
            if one.grad is not None:
                self.step_rows(place, slice(None), one.grad, learning_rate)
                self.count(place)
                one.grad = None

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step_rows(self, place: int, rows: slice, gradient: torch.Tensor, learning_rate: float) -> None:
        """A step of some rows of the parameter at `place`. `count` it when each of its rows has had its own."""
        whole = self.parameters[place]
        if place not in self._steps:
            self._steps[place] = torch.zeros((), device=whole.device)
            self._first[place], self._second[place] = torch.zeros_like(whole), torch.zeros_like(whole)
        adamw(
            [whole[rows]], [gradient], [self._first[place][rows]], [self._second[place][rows]], [],
            [self._steps[place].clone()], fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=learning_rate,
            weight_decay=self.weight_decay, eps=SMALLEST, maximize=False,
        )  # fmt: skip

    def count(self, place: int) -> None:
        """The parameter at `place` has had its step."""
        self._steps[place] += 1

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and step counts by the place of the parameter; none before the first step."""
        named = {"step": self._steps, "exp_avg": self._first, "exp_avg_sq": self._second}
        return {f"{name}/{place}": one for name, held in named.items() for place, one in held.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take what `state` gave. Raises BadData."""
        for place, one in enumerate(self.parameters):
            if f"step/{place}" in state:
                self._steps[place] = taken(state, f"step/{place}", torch.zeros((), device=one.device)).clone()
                self._first[place] = taken(state, f"exp_avg/{place}", one.detach()).clone()
                self._second[place] = taken(state, f"exp_avg_sq/{place}", one.detach()).clone()
