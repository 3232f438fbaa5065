"""What a pass takes of memory, measured on short packs instead of derived from the architecture.

The storages that operations make are counted while a forward and a backward pass run, so that what a kernel keeps, and
what exists for a moment only, is in the figures. Three lengths give a polynomial of the second degree: where a kernel
keeps the square of a text's length, the plan knows.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybrid.training.jobs import Tokens
from hybrid.training.memory import PassCosts
from hybrid.training.out_of_memory import fits
from hybrid.training.packed_model import PackedModel
from hybrid.training.packing import PackedText
from hybrid.training.slots import AdapterBank, Route

PROBE_TOKENS = 16
"""Tokens of the shortest pack; others have two and three times as many."""
PROBES = 3
LONG_PROBE_TOKENS, SQUARES_AT = 256, 1024
"""Tokens of the shortest pack of another measurement where squares are more than a tenth at `SQUARES_AT` tokens: what
grows with the square and exists for a moment only is not the peak of a short pack.
"""


class Storages(TorchDispatchMode):  # type: ignore[misc]
    """Counts the bytes of the storages that are made inside its block, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **kwargs or {})
        given = {_storage(one) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        for one in tree_leaves(found):
            if isinstance(one, torch.Tensor) and (name := _storage(one)) not in given and name not in self._sizes:
                storage = one.untyped_storage()
                self._sizes[name] = storage.nbytes()
                self.bytes += self._sizes[name]
                weakref.finalize(storage, self._freed, name)
        self.peak = max(self.peak, self.bytes)
        return found

    def _freed(self, name: int) -> None:
        self.bytes -= self._sizes.pop(name, 0)


def _storage(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata  # noqa: SLF001  (data_ptr is 0 for all without memory)
    return address


def peak_bytes(act: Callable[[], object]) -> int:
    """The peak of the bytes of the tensors that `act` makes."""
    with Storages() as storages:
        act()
    return int(storages.peak)


def saved_bytes(act: Callable[[], object]) -> int:
    """The bytes that autograd saves for the backward pass of `act`, each storage counted once."""
    seen: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is reused

    def keep(tensor: torch.Tensor) -> None:
        """The graph gets nothing to keep: a node that holds its own output is never freed."""
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage  # noqa: SLF001  (without memory, every data_ptr is 0)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        act()
    return sum(storage.nbytes() for storage in seen.values())


def pass_costs(model: PackedModel, rank: int, *, checkpointed: bool = False) -> PassCosts:
    """The costs of a pass with adapters of `rank`, measured once for a Hugging Face model.

    Without memory for the longer packs the shorter ones are the measure. Raises torch's error without any for these.
    """
    known = _measured.setdefault(model.model, {})
    about = tuple(model.slotted.layers), rank, checkpointed
    if about not in known:
        with model.packed():
            found = _pass_costs(model, rank, PROBE_TOKENS, checkpointed=checkpointed)
            longer = list[PassCosts]()
            if found.per_square:
                measured = partial(_pass_costs, model, rank, LONG_PROBE_TOKENS, checkpointed=checkpointed)
                fits(lambda: longer.append(measured()))
            known[about] = longer[0] if longer else found
    return known[about]


_measured: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], PassCosts]] = weakref.WeakKeyDictionary()


def _pass_costs(model: PackedModel, rank: int, unit: int, *, checkpointed: bool) -> PassCosts:
    lengths = [unit * times for times in range(1, PROBES + 1)]
    peak = partial(pass_peak, model, rank, checkpointed=checkpointed)
    low, middle, high = (peak(tokens, 0) for tokens in lengths)
    square = max(0.0, (high - 2 * middle + low) / (2 * unit**2))
    if square * SQUARES_AT <= 0.1 * (high - low) / (2 * unit):  # kernels align what they keep to 32 tokens
        square = 0.0
    per_token = (high - low) / (2 * unit) - square * (lengths[0] + lengths[2])
    per_slot = low - per_token * unit - square * unit**2
    per_label = (peak(lengths[1], lengths[1] - 1) - peak(lengths[1], unit)) / (unit - 1)
    passing = 0.0
    if checkpointed:  # the logits are gone when a layer is computed again
        few, many = (kept_bytes(model, rank, tokens) for tokens in (lengths[0], lengths[2]))
        passing = min(per_token, max(0.0, per_token - (many - few) / (2 * unit)))
    whole = max(0, int(per_slot)), max(1, int(per_token)), square, max(1, int(per_label))
    return PassCosts(*whole, checkpointed, int(passing))


def pass_peak(model: PackedModel, rank: int, tokens: int, labels: int, *, checkpointed: bool = False) -> int:
    """The peak of the bytes that a pass makes over one text with so many tokens and labels, with one adapter."""
    bank = AdapterBank(model.slotted.layers, 1, rank, model.model, training=True)
    return peak_bytes(lambda: _loss(model, bank, tokens, labels, checkpointed=checkpointed).backward())


def kept_bytes(model: PackedModel, rank: int, tokens: int) -> int:
    """The bytes between the forward and the backward pass over one text without a label, with checkpointed layers."""
    bank = AdapterBank(model.slotted.layers, 1, rank, model.model, training=True)
    with Storages() as storages:
        loss = _loss(model, bank, tokens, 0, checkpointed=True)
        kept = storages.bytes
    del loss
    return int(kept)


def _loss(model: PackedModel, bank: AdapterBank, tokens: int, labels: int, *, checkpointed: bool) -> torch.Tensor:
    text = Tokens((0,) * tokens, tuple(place >= tokens - labels for place in range(tokens)))
    one = model.pack([PackedText(0, text, 1.0)], 1)
    route = Route(bank, one.lengths, model.dtype, groups=one.groups, slot_of_row=one.slot_of_row)
    logits = model.logits_of(one, route, checkpointed=checkpointed)
    return (F.cross_entropy(logits.to(bank.values.dtype), one.targets, reduction="none") * one.weight).sum()
