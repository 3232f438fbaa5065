"""Texts of several slots as one row of tokens: nothing is padded, and logits are computed where a label is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from hybrid.training.attention import Layout, layout_of
from hybrid.training.jobs import Tokens


@dataclass(frozen=True, slots=True)
class Entry:
    """A text in a pass: its slot, and what each of its labels weighs in the slot's loss."""

    slot: int
    text: Tokens
    weight: float


@dataclass(frozen=True, slots=True)
class Pack:
    """A pass: ids and positions [1, T], the rows that have a label, the token that each is to predict.

    `rows[i]` is a place in the pack, `targets[i]` the token after it, `slot[i]` whose loss it is and `weight[i]` how
    much. `lengths[k]` tokens are slot k's, neighbours in the pack.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    slot: torch.Tensor
    weight: torch.Tensor
    lengths: tuple[int, ...]
    layout: Layout


def pack(entries: Sequence[Entry], slots: int, device: torch.device, *, one_call: bool = False) -> Pack:
    """The entries behind one another, sorted by slot. A label inside a text never crosses into the next."""
    entries = sorted(entries, key=lambda entry: entry.slot)
    sizes = [len(entry.text.ids) for entry in entries]
    starts = [0, *accumulate(sizes)]
    labelled = [
        (start + place - 1, entry.text.ids[place], entry.slot, entry.weight)
        for entry, start in zip(entries, starts, strict=False)
        for place, learned in enumerate(entry.text.learned)
        if learned and place
    ]
    rows, targets, slot, weight = zip(*labelled, strict=True) if labelled else ((), (), (), ())
    lengths = [0] * slots
    for entry, size in zip(entries, sizes, strict=True):
        lengths[entry.slot] += size

    def whole(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long).to(device, non_blocking=True)

    return Pack(
        ids=whole([id for entry in entries for id in entry.text.ids])[None],
        positions=whole([place for size in sizes for place in range(size)])[None],
        rows=whole(rows),
        targets=whole(targets),
        slot=whole(slot),
        weight=torch.tensor(weight, dtype=torch.float32).to(device, non_blocking=True),
        lengths=tuple(lengths),
        layout=layout_of(sizes, [entry.text.padding for entry in entries], device, one_call=one_call),
    )
