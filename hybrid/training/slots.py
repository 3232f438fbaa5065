"""Several LoRA adapters over one frozen model: each row of a batch takes the adapter of its slot.

A `Bank` holds the values of K slots in one flat buffer [K, N], a `SlotLinear` stands in the model where a linear layer
was, and the `Route` of the moment says which rows belong to which slot. Slots never mix: every product takes a row only
with its own slot's matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from hybrid.errors import CannotRun
from hybrid.training.grouped import Groups, best_way

ALIGNED = 8
"""Ranks are rounded up to a multiple of this, as torch's grouped product wants rows of a multiple of 16 bytes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an adapted layer's A [in, rank] and B [rank, out] lie in a slot's values."""

    name: str
    width_in: int
    width_out: int
    start: int


def aligned(rank: int) -> int:
    """The rank that a bank has for adapters of `rank`."""
    return -(-rank // ALIGNED) * ALIGNED


class Bank:
    """The values of `slots` adapters of `rank` or less as one buffer [slots, N]; with gradients when `training`.

    What is trained is fp32 whatever the model computes in (fp64 for a model that does: tests compare logic that way);
    what only answers is in the model's type.

    A smaller rank is padded with zeros: then their gradients are zero and stay so. `scales` are alpha / rank.
    """

    def __init__(
        self, layers: Mapping[str, tuple[int, int]], slots: int, rank: int, model: Any, *, training: bool
    ) -> None:
        self.slots, self.rank = slots, aligned(rank)
        self.places: dict[str, Place] = {}
        size = 0
        for name, (width_in, width_out) in layers.items():
            self.places[name] = Place(name, width_in, width_out, size)
            size += self.rank * (width_in + width_out)
        self.size = size
        wide = torch.float64 if model.dtype == torch.float64 else torch.float32
        dtype = wide if training else model.dtype
        self.values = torch.zeros(slots, size, device=model.device, dtype=dtype)
        self.grads = torch.zeros_like(self.values) if training else None
        self.scales = [0.0] * slots

    def pair(self, flat: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The views A [slots, in, rank] and B [slots, rank, out] of a layer in a buffer laid out as `values`."""
        place = self.places[name]
        middle, end = (
            place.start + place.width_in * self.rank,
            place.start + self.rank * (place.width_in + place.width_out),
        )
        first = flat[:, place.start : middle].view(-1, place.width_in, self.rank)
        return first, flat[:, middle:end].view(-1, self.rank, place.width_out)


class Route:
    """Which rows belong to which slot: for a pack, rows sorted by slot; else `order` sorts them.

    `lengths[k]` rows take slot k. With `order`, row order[i] of the batch is the i-th of the sorted rows; rows that
    are in no slot are left out of it. `values` is the bank's buffer in the type that is computed in.
    """

    def __init__(
        self, bank: Bank, lengths: Sequence[int], dtype: torch.dtype, order: torch.Tensor | None = None
    ) -> None:
        device = bank.values.device
        used = sum(length > 0 for length in lengths)
        self.bank = bank
        self.groups = Groups(lengths, device, best_way(device, dtype, used, bank.rank))
        self.order = order
        self.values = bank.values.to(dtype)  # the same buffer when the types agree
        scales = torch.tensor(bank.scales, dtype=dtype).repeat_interleave(torch.tensor(lengths))
        self.scale = scales.to(device)[:, None]
        self.anchor = torch.zeros((), device=device, requires_grad=bank.grads is not None)


class SlotLinear(torch.nn.Module):  # type: ignore[misc]
    """A frozen linear layer, and for each row what its slot adds: y = W x + b + alpha / rank * B A x (Hu et al. 2021).

    `routes` is shared by all layers of a model; without a route in it the layer is the plain one.
    """

    def __init__(self, name: str, plain: torch.nn.Linear, routes: list[Route]) -> None:
        super().__init__()
        self.name, self.plain, self._routes = name, plain, routes

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight: models look at it for its type and device."""
        return self.plain.weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """rows [..., in] -> [..., out]."""
        if not self._routes:
            return self.plain(rows)
        route, flat = self._routes[-1], rows.reshape(-1, rows.shape[-1])
        if route.order is None:
            found = _Packed.apply(flat, route.anchor, self, route)
        else:
            found = self.plain(flat)
            if len(route.order):
                found.index_add_(0, route.order, self._added(flat[route.order], route))
        return found.view(*rows.shape[:-1], found.shape[-1])

    def _added(self, rows: torch.Tensor, route: Route) -> torch.Tensor:
        a, b = route.bank.pair(route.values, self.name)
        return route.groups.times(route.groups.times(rows, a) * route.scale, b)


class _Packed(torch.autograd.Function):  # type: ignore[misc]
    """A layer's step over a pack. The gradients of A and B go straight into the bank, as one sum over a slot's rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, anchor: torch.Tensor, layer: SlotLinear, route: Route) -> torch.Tensor:  # noqa: ARG004
        """`anchor` wants a gradient, so that the first layer, whose rows want none, has a backward step too."""
        a, b = route.bank.pair(route.values, layer.name)
        inner = route.groups.times(rows, a) * route.scale
        ctx.layer, ctx.route = layer, route
        ctx.save_for_backward(rows, inner)
        return F.linear(rows, layer.plain.weight, layer.plain.bias).add_(route.groups.times(inner, b))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        (grad,), layer, route = grads, ctx.layer, ctx.route
        rows, inner = ctx.saved_tensors
        grad = grad.contiguous()
        a, b = route.bank.pair(route.values, layer.name)
        grad_a, grad_b = route.bank.pair(route.bank.grads, layer.name)
        grad_b += route.groups.outer(inner, grad)
        of_inner = route.groups.times(grad, b.transpose(1, 2)) * route.scale
        grad_a += route.groups.outer(rows, of_inner)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        of_rows = grad @ layer.plain.weight
        return of_rows.add_(route.groups.times(of_inner, a.transpose(1, 2))), None, None, None


def linear_layers(model: torch.nn.Module, targets: Sequence[str]) -> dict[str, torch.nn.Module]:
    """The linear layers whose last name is one of `targets`, by full name. Raises CannotRun for a target without any.

    The output head never counts: its rows are chosen apart.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = {name: one for name, one in model.named_modules() if type(one) is torch.nn.Linear and one is not head}
    found = {name: layer for name, layer in linear.items() if name.rpartition(".")[2] in targets}
    missing = set(targets) - {name.rpartition(".")[2] for name in found}
    if missing:
        names = sorted({name.rpartition(".")[2] for name in linear})
        raise CannotRun(
            f"{type(model).__name__} has no linear layer called {', '.join(sorted(missing))}",
            hint=f"its linear layers are called {', '.join(names) or 'nothing: it has none'}; --set targets=...",
        )
    return found


class Slots:
    """A model whose linear layers take a row's adapter from its slot while a route is set; else it is the plain model.

    The base's parameters are frozen. `close` puts the plain layers back.
    """

    def __init__(self, model: Any, targets: Sequence[str]) -> None:
        self.model = model
        self._routes: list[Route] = []
        self._plain = linear_layers(model, targets)
        model.requires_grad_(requires_grad=False)
        for name, layer in self._plain.items():
            _put(model, name, SlotLinear(name, layer, self._routes))

    @property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Name -> width in and out, of the layers that take adapters."""
        return {name: (layer.in_features, layer.out_features) for name, layer in self._plain.items()}

    @contextmanager
    def routed(self, route: Route) -> Iterator[None]:
        """Rows take the adapters that `route` says, inside the block."""
        self._routes.append(route)
        try:
            yield
        finally:
            self._routes.pop()

    def close(self) -> None:
        """Put the plain layers back."""
        for name, layer in self._plain.items():
            _put(self.model, name, layer)


def _put(model: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
