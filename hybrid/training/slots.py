"""Several LoRA adapters over one frozen model: each row of a batch uses the adapter of its slot.

An `AdapterBank` holds the values of K slots in one flat buffer [K, N], a `SlotLinear` replaces each adapted linear
layer of the model, and the current `Route` assigns rows to slots. A row only meets the matrices of its own slot.
The A matrices of layers with the same input, such as the query and value projections, are adjacent, so that one product
computes A x for all of them: the speed of a small model depends on the number of operations, not on their size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers.pytorch_utils import Conv1D

from hybrid.errors import CannotRun
from hybrid.training.grouped import GroupingMethod, RowGroups, RowIndices, best_method
from hybrid.training.memory import ALIGNED, aligned
from hybrid.training.transfer import to_device


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """The position of a layer's A [in, rank] and B [rank, out] in a slot's values.

    Its A is number `column` of the `columns` matrices that are stored as [in, columns * rank] from `start_a` on.
    """

    name: str
    width_in: int
    width_out: int
    start_a: int
    start_b: int
    column: int
    columns: int


class LayerWidths(dict[str, tuple[int, int]]):
    """Layer name -> (input width, output width). The layers of a group of `groups` get the same input rows."""

    groups: Sequence[tuple[str, ...]] = ()


class AdapterBank:
    """The values of `slots` adapters of `rank` or less as one buffer [slots, N]; with gradients when `training`.

    Trained values are fp32 whatever the model's type (fp64 for a model in fp64, which tests use to compare logic).
    Values for inference have the model's type.

    A smaller rank is padded with zeros, whose gradients are always zero. `scales` are alpha / rank. A layer that is in
    no group of `layers.groups` is a group of its own. `more` numbers a slot come after those of the adapters.
    """

    def __init__(
        self, layers: Mapping[str, tuple[int, int]], slots: int, rank: int, model: Any, *, training: bool, more: int = 0
    ) -> None:
        self.slots, self.rank, self.layers = slots, aligned(rank), layers
        of = {name: group for group in getattr(layers, "groups", ()) for name in group}
        self.groups = {name: of.get(name, (name,)) for name in layers}
        self.places: dict[str, LayerLayout] = {}
        size = 0
        for group in dict.fromkeys(self.groups.values()):
            start_a, size = size, size + self.rank * sum(layers[name][0] for name in group)
            for column, name in enumerate(group):
                self.places[name] = LayerLayout(name, *layers[name], start_a, size, column, len(group))
                size += self.rank * layers[name][1]
        self.size = size = size + more
        wide = torch.float64 if model.dtype == torch.float64 else torch.float32
        dtype = wide if training else model.dtype
        self.values = torch.zeros(slots, size, device=model.device, dtype=dtype)
        self.grads = torch.zeros_like(self.values) if training else None
        self.scales = [0.0] * slots
        self._scales: tuple[list[float], torch.Tensor] = [], self.values[:0, 0]

    def scales_on_device(self) -> torch.Tensor:
        """The scales [slots], copied to the device when they have changed."""
        if self._scales[0] != self.scales:
            (copied,) = to_device([torch.tensor(self.scales, dtype=self.values.dtype)], self.values.device)
            self._scales = list(self.scales), copied
        return self._scales[1]

    def window(self, first: int, end: int) -> Self:
        """A bank of the slots `first` to `end` - 1 alone, with the same memory: what it adds to gradients is theirs."""
        part = copy(self)
        part.slots, part.values, part.scales = end - first, self.values[first:end], self.scales[first:end]
        part.grads = None if self.grads is None else self.grads[first:end]
        return part

    def pair(self, flat: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The views A [slots, in, rank] and B [slots, rank, out] of a layer in a buffer laid out as `values`."""
        column = self.places[name].column * self.rank
        return self.stacked_a(flat, name)[:, :, column : column + self.rank], self._b(flat, name)

    def matrices(self, flat: torch.Tensor, group: Sequence[str]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The views A [slots, in, layers * rank] of all layers of a group and B [slots, rank, out] of each."""
        return self.stacked_a(flat, group[0]), [self._b(flat, name) for name in group]

    def stacked_a(self, flat: torch.Tensor, name: str) -> torch.Tensor:
        """The view of all A matrices of the layer's group."""
        place = self.places[name]
        width = place.columns * self.rank
        return flat[:, place.start_a : place.start_a + place.width_in * width].view(-1, place.width_in, width)

    def _b(self, flat: torch.Tensor, name: str) -> torch.Tensor:
        place = self.places[name]
        return flat[:, place.start_b : place.start_b + self.rank * place.width_out].view(-1, self.rank, place.width_out)


def slots_of_rows(lengths: Sequence[int]) -> torch.Tensor:
    """The slot [T] of each row on the host, where `lengths[k]` consecutive rows belong to slot k."""
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def method_for(
    layers: Mapping[str, tuple[int, int]], lengths: Sequence[int], device: torch.device, dtype: torch.dtype
) -> GroupingMethod:
    """How the rows of a pack are multiplied with the matrices of adapters of these layers."""
    width = math.gcd(ALIGNED, *(width for widths in layers.values() for width in widths))
    return best_method(device, dtype, sum(length > 0 for length in lengths), width)


class Route:
    """The assignment of rows to slots: the rows of a pack are sorted by slot; for others `order` sorts them.

    `lengths[k]` rows belong to slot k. With `order`, row order[i] of the batch is the i-th sorted row; rows without a
    slot are not in it. `values` is the bank's buffer in the type of the computation. `groups` and `slot_of_row`: the
    same on the device, if it is there.
    """

    def __init__(
        self,
        bank: AdapterBank,
        lengths: Sequence[int],
        dtype: torch.dtype,
        order: torch.Tensor | None = None,
        *,
        groups: RowGroups | None = None,
        slot_of_row: torch.Tensor | None = None,
    ) -> None:
        if groups is None or slot_of_row is None:
            method = method_for(bank.layers, lengths, bank.values.device, dtype)
            groups, slot_of_row = _grouped(lengths, method, bank.values.device)
        self.bank, self.groups, self.order = bank, groups, order
        self.values = bank.values.to(dtype)  # the same buffer when the types agree
        self.scale = self._scales(slot_of_row)
        self.anchor = torch.zeros((), device=bank.values.device, requires_grad=bank.grads is not None)
        # Layer -> the input it is expected to get, and its output.
        self.ready: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def narrowed(self, lengths: Sequence[int]) -> Route:
        """The same for fewer rows, `lengths[k]` of slot k."""
        route = copy(self)
        route.groups, slot_of_row = _grouped(lengths, self.groups.method, self.values.device)
        route.scale, route.ready = self._scales(slot_of_row), {}
        return route

    def _scales(self, slot_of_row: torch.Tensor) -> torch.Tensor:
        return self.bank.scales_on_device().to(self.values.dtype)[slot_of_row][:, None]


def _grouped(lengths: Sequence[int], method: GroupingMethod, device: torch.device) -> tuple[RowGroups, torch.Tensor]:
    """Groups of rows, and the slot of each row, in one copy to the device."""
    indices = RowIndices(lengths, method)
    slot_of_row, *sent = to_device([slots_of_rows(lengths), *indices.arrays()], device)
    return RowGroups(indices, device, method, sent), slot_of_row


class SlotLinear(torch.nn.Module):  # type: ignore[misc]
    """A frozen linear layer plus the LoRA update of each row's slot: W x + b + alpha / rank * B A x (Hu et al. 2021).

    `routes`, a stack, and `layers`, by name, are shared by all such layers of a model. Without a route the layer is the
    plain one.
    """

    def __init__(
        self, name: str, plain: torch.nn.Linear, routes: list[Route], layers: Mapping[str, torch.nn.Linear]
    ) -> None:
        super().__init__()
        self.name, self.plain, self._routes, self._layers = name, plain, routes, layers

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight: models read its type and device."""
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
        """The first layer of a group computes the outputs of all; the others take theirs if their input is the same."""
        given, found = route.ready.pop(self.name, (None, None))
        if given is rows:
            return found
        group = route.bank.groups[self.name]
        outputs = dict(
            zip(group, _Packed.apply(flat, route.anchor, [self._layers[n] for n in group], group, route), strict=True)
        )
        found = outputs.pop(self.name)
        route.ready |= {name: (rows, one) for name, one in outputs.items()}
        return found

    def _added(self, rows: torch.Tensor, route: Route) -> torch.Tensor:
        a, b = route.bank.pair(route.values, self.name)
        return route.groups.times(route.groups.times(rows, a) * route.scale, b)


class _Packed(torch.autograd.Function):  # type: ignore[misc]
    """The outputs of a group's layers over a pack; all get the same rows.

    The gradients of A and B are accumulated in the bank, as one sum over the rows of a slot.
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
        """`anchor` requires a gradient, so that the first layers, whose input requires none, have a backward pass
        too.
        """
        a, bs = route.bank.matrices(route.values, group)
        inner = route.groups.times(rows, a) * route.scale
        ctx.layers, ctx.group, ctx.route = layers, group, route
        ctx.save_for_backward(rows, inner)
        parts = zip(inner.split(route.bank.rank, dim=1), bs, layers, strict=True)
        return tuple(_add_plain(route.groups.times(part, b), rows, layer) for part, b, layer in parts)

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
            of_rows.addmm_(grad, _matrix(layer).t())
        return of_rows, None, None, None, None


def _add_plain(added: torch.Tensor, rows: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    """Add the output of the plain layer to `added`, in place."""
    added.addmm_(rows, _matrix(layer))
    return added if layer.bias is None else added.add_(layer.bias)


def _matrix(layer: Any) -> torch.Tensor:
    """The weight as [in, out]: GPT-2's Conv1D has it so, a linear layer transposed."""
    weight: torch.Tensor = layer.weight
    return weight if isinstance(layer, Conv1D) else weight.t()


def widths(layer: Any) -> tuple[int, int]:
    """The widths of a linear layer's input and output."""
    return (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)


def shared_inputs(
    model: Any, layers: Mapping[str, torch.nn.Module], probe: Callable[[], object] | None = None
) -> list[tuple[str, ...]]:
    """The groups of layers that get the same input tensor, observed in a forward pass over one token."""
    given: list[tuple[str, torch.Tensor]] = []  # keeps the tensors alive: an id is reused when its tensor is freed
    watched = [
        layer.register_forward_pre_hook(lambda _, rows, name=name: given.extend((name, one) for one in rows))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            # With a cache, transformers does not look for packed texts, which needs values and synchronises.
            probe() if probe else model(
                input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True
            )
    finally:
        for hook in watched:
            hook.remove()
    groups: dict[int, dict[str, None]] = {}
    for name, rows in given:
        groups.setdefault(id(rows), {})[name] = None
    once = Counter(name for group in groups.values() for name in group)
    return [tuple(group) for group in groups.values() if all(once[name] == 1 for name in group)]


def linear_layers(
    model: torch.nn.Module, targets: Sequence[str] | None, inside: Sequence[torch.nn.Module] = ()
) -> dict[str, torch.nn.Module]:
    """The linear layers, Conv1D among them, whose full name is or ends with one of `targets`, by full name.

    None: all. The output head is never among them: its rows are selected separately. `inside`: only those of these
    modules. Raises CannotRun for a target without any.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    allowed = {id(one) for part in inside or (model,) for one in part.modules()}
    linear = {
        name: one
        for name, one in model.named_modules()
        if type(one) in (torch.nn.Linear, Conv1D) and one is not head and id(one) in allowed
    }
    names = sorted({name.rpartition(".")[2] for name in linear})
    wanted = names if targets is None else targets
    found = {name: layer for name, layer in linear.items() if any(_ends(name, target) for target in wanted)}
    missing = {target for target in wanted if not any(_ends(name, target) for name in found)}
    if missing or not found:
        raise CannotRun(
            f"{type(model).__name__} has no linear layer called {', '.join(sorted(missing)) or 'anything'}",
            hint=f"its linear layers are called {', '.join(names) or 'nothing: it has none'}; --set targets=...",
        )
    return found


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


class SlottedModel:
    """A model whose linear layers apply the adapter of each row's slot while a route is set; else the plain model.

    The parameters of the base model are frozen. `group_inputs`: find the layers that share their input, for training;
    `probe` computes the model over a token for that, if it needs more than ids.
    `targets` and `inside` as in `linear_layers`. `close` restores the plain layers; `open` undoes that.
    """

    def __init__(
        self,
        model: Any,
        targets: Sequence[str] | None,
        *,
        group_inputs: bool = False,
        inside: Sequence[torch.nn.Module] = (),
        probe: Callable[[], object] | None = None,
    ) -> None:
        self.model = model
        self._routes: list[Route] = []
        self._plain = linear_layers(model, targets, inside)
        self.layers = LayerWidths((name, widths(one)) for name, one in self._plain.items())
        if group_inputs or probe:
            self.layers.groups = shared_inputs(model, self._plain, probe)
        model.requires_grad_(requires_grad=False)
        self._slotted = {
            name: SlotLinear(name, layer, self._routes, self._plain) for name, layer in self._plain.items()
        }
        self.open()

    @contextmanager
    def routed(self, route: Route) -> Iterator[None]:
        """Inside the block, rows use the adapters that `route` assigns."""
        self._routes.append(route)
        try:
            yield
        finally:
            self._routes.pop()

    def open(self) -> None:
        """Put the layers with slots into the model."""
        for name, layer in self._slotted.items():
            _put(self.model, name, layer)

    def close(self) -> None:
        """Restore the plain layers."""
        for name, layer in self._plain.items():
            _put(self.model, name, layer)


def _put(model: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
