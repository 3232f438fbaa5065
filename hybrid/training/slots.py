"""Several LoRA adapters over one frozen model: each row of a batch takes the adapter of its slot.

A `Bank` holds the values of K slots in one flat buffer [K, N], a `SlotLinear` stands in the model where a linear layer
was, and the `Route` of the moment says which rows belong to which slot. Slots never mix: every product takes a row only
with its own slot's matrices. Layers with one input, as those to queries and values, have their A side by side, so that
one product makes the inner rows of all of them: a small model waits for the number of operations, not for their size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hybrid.errors import CannotRun
from hybrid.training.grouped import Groups, best_way

ALIGNED = 8
"""Ranks are rounded up to a multiple of this, as torch's grouped product wants rows of a multiple of 16 bytes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an adapted layer's A [in, rank] and B [rank, out] lie in a slot's values.

    Its A is `column` of those that stand side by side as [in, columns * rank] from `start_a` on.
    """

    name: str
    width_in: int
    width_out: int
    start_a: int
    start_b: int
    column: int
    columns: int


class Layers(dict[str, tuple[int, int]]):
    """Name -> width in and out of layers, of which those of a group are given the same rows."""

    groups: Sequence[tuple[str, ...]] = ()


def aligned(rank: int) -> int:
    """The rank that a bank has for adapters of `rank`."""
    return -(-rank // ALIGNED) * ALIGNED


class Bank:
    """The values of `slots` adapters of `rank` or less as one buffer [slots, N]; with gradients when `training`.

    What is trained is fp32 whatever the model computes in (fp64 for a model that does: tests compare logic that way);
    what only answers is in the model's type.

    A smaller rank is padded with zeros: then their gradients are zero and stay so. `scales` are alpha / rank. A layer
    that is in no group is one by itself.
    """

    def __init__(
        self, layers: Mapping[str, tuple[int, int]], slots: int, rank: int, model: Any, *, training: bool
    ) -> None:
        self.slots, self.rank = slots, aligned(rank)
        of = {name: group for group in getattr(layers, "groups", ()) for name in group}
        self.groups = {name: of.get(name, (name,)) for name in layers}
        self.places: dict[str, Place] = {}
        size = 0
        for group in dict.fromkeys(self.groups.values()):
            start_a, size = size, size + self.rank * sum(layers[name][0] for name in group)
            for column, name in enumerate(group):
                self.places[name] = Place(name, *layers[name], start_a, size, column, len(group))
                size += self.rank * layers[name][1]
        self.size = size
        wide = torch.float64 if model.dtype == torch.float64 else torch.float32
        dtype = wide if training else model.dtype
        self.values = torch.zeros(slots, size, device=model.device, dtype=dtype)
        self.grads = torch.zeros_like(self.values) if training else None
        self.scales = [0.0] * slots

    def pair(self, flat: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The views A [slots, in, rank] and B [slots, rank, out] of a layer in a buffer laid out as `values`."""
        column = self.places[name].column * self.rank
        return self.side_by_side(flat, name)[:, :, column : column + self.rank], self._second(flat, name)

    def matrices(self, flat: torch.Tensor, group: Sequence[str]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The views A [slots, in, layers * rank] of all layers of a group and B [slots, rank, out] of each."""
        return self.side_by_side(flat, group[0]), [self._second(flat, name) for name in group]

    def side_by_side(self, flat: torch.Tensor, name: str) -> torch.Tensor:
        """The view of all A that stand beside the layer's."""
        place = self.places[name]
        width = place.columns * self.rank
        return flat[:, place.start_a : place.start_a + place.width_in * width].view(-1, place.width_in, width)

    def _second(self, flat: torch.Tensor, name: str) -> torch.Tensor:
        place = self.places[name]
        return flat[:, place.start_b : place.start_b + self.rank * place.width_out].view(-1, self.rank, place.width_out)


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
        self.ready: dict[
            str, tuple[torch.Tensor, torch.Tensor]
        ] = {}  # layer -> the rows it is to get, what it will say


class SlotLinear(torch.nn.Module):  # type: ignore[misc]
    """A frozen linear layer, and for each row what its slot adds: y = W x + b + alpha / rank * B A x (Hu et al. 2021).

    `routes` and `layers`, all of them by name, are shared by those of a model; without a route the layer is the plain
    one.
    """

    def __init__(
        self, name: str, plain: torch.nn.Linear, routes: list[Route], layers: Mapping[str, torch.nn.Linear]
    ) -> None:
        super().__init__()
        self.name, self.plain, self._routes, self._layers = name, plain, routes, layers

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
            found = self._packed(rows, flat, route)
        else:
            found = self.plain(flat)
            if len(route.order):
                found.index_add_(0, route.order, self._added(flat[route.order], route))
        return found.view(*rows.shape[:-1], found.shape[-1])

    def _packed(self, rows: torch.Tensor, flat: torch.Tensor, route: Route) -> torch.Tensor:
        """The layer of a group asked first computes for all; the others find theirs, if their rows are the same."""
        given, found = route.ready.pop(self.name, (None, None))
        if given is rows:
            return found
        group = route.bank.groups[self.name]
        every = dict(
            zip(group, _Packed.apply(flat, route.anchor, [self._layers[n] for n in group], group, route), strict=True)
        )
        found = every.pop(self.name)
        route.ready |= {name: (rows, one) for name, one in every.items()}
        return found

    def _added(self, rows: torch.Tensor, route: Route) -> torch.Tensor:
        a, b = route.bank.pair(route.values, self.name)
        return route.groups.times(route.groups.times(rows, a) * route.scale, b)


class _Packed(torch.autograd.Function):  # type: ignore[misc]
    """The step of a group's layers over a pack, which all get the same rows.

    The gradients of A and B go straight into the bank, as one sum over a slot's rows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        anchor: torch.Tensor,  # noqa: ARG004
        layers: Sequence[torch.nn.Linear],
        group: Sequence[str],
        route: Route,
    ) -> tuple[torch.Tensor, ...]:
        """`anchor` wants a gradient, so that the first layers, whose rows want none, have a backward step too."""
        a, bs = route.bank.matrices(route.values, group)
        inner = route.groups.times(rows, a) * route.scale
        ctx.layers, ctx.group, ctx.route = layers, group, route
        ctx.save_for_backward(rows, inner)
        parts = zip(inner.split(route.bank.rank, dim=1), bs, layers, strict=True)
        return tuple(_onto(route.groups.times(part, b), rows, layer) for part, b, layer in parts)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:
        layers, route, rank = ctx.layers, ctx.route, ctx.route.bank.rank
        rows, inner = ctx.saved_tensors
        grads = tuple(grad.contiguous() for grad in grads)
        a, bs = route.bank.matrices(route.values, ctx.group)
        grad_a, grad_bs = route.bank.matrices(route.bank.grads, ctx.group)
        found = []
        for grad, part, b, grad_b in zip(grads, inner.split(rank, dim=1), bs, grad_bs, strict=True):
            grad_b.add_(route.groups.outer(part, grad))
            found.append(route.groups.times(grad, b.transpose(1, 2)))
        of_inner = (torch.cat(found, dim=1) if len(found) > 1 else found[0]) * route.scale
        grad_a += route.groups.outer(rows, of_inner)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        of_rows = route.groups.times(of_inner, a.transpose(1, 2))
        for grad, layer in zip(grads, layers, strict=True):
            of_rows.addmm_(grad, layer.weight)
        return of_rows, None, None, None, None


def _onto(added: torch.Tensor, rows: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    """`added` and what the plain layer makes of the rows, summed in place."""
    added.addmm_(rows, layer.weight.t())
    return added if layer.bias is None else added.add_(layer.bias)


def sharing(model: Any, layers: Mapping[str, torch.nn.Module]) -> list[tuple[str, ...]]:
    """The layers that are given one and the same tensor, in groups, as seen in a pass over one token."""
    given: list[tuple[str, torch.Tensor]] = []  # the tensors themselves: an id is given anew when one is freed
    watched = [
        layer.register_forward_pre_hook(lambda _, rows, name=name: given.extend((name, one) for one in rows))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in watched:
            hook.remove()
    groups: dict[int, dict[str, None]] = {}
    for name, rows in given:
        groups.setdefault(id(rows), {})[name] = None
    once = Counter(name for group in groups.values() for name in group)
    return [tuple(group) for group in groups.values() if all(once[name] == 1 for name in group)]


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

    The base's parameters are frozen. `together`: it is looked which layers share their input, for banks that train.
    `close` puts the plain layers back.
    """

    def __init__(self, model: Any, targets: Sequence[str], *, together: bool = False) -> None:
        self.model = model
        self._routes: list[Route] = []
        self._plain = linear_layers(model, targets)
        self.layers = Layers((name, (one.in_features, one.out_features)) for name, one in self._plain.items())
        if together:
            self.layers.groups = sharing(model, self._plain)
        model.requires_grad_(requires_grad=False)
        for name, layer in self._plain.items():
            _put(model, name, SlotLinear(name, layer, self._routes, self._plain))

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
