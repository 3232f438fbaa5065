"""Sequence packing: texts of several slots in one row without padding; logits are computed only where labels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from hybrid.training.attention import PackLayout, layout_of
from hybrid.training.jobs import Tokens


@dataclass(frozen=True, slots=True)
class PackedText:
    """A text in a pass: its slot, and the weight of each of its labels in the slot's loss."""

    slot: int
    text: Tokens
    weight: float


@dataclass(frozen=True, slots=True)
class Pack:
    """One pass: ids and positions [1, T], and the labels.

    Label i: `rows[i]` is its index in the pack, `targets[i]` the next token, `slot[i]` and `weight[i]` the slot and the
    weight of its loss. `lengths[k]` consecutive tokens belong to slot k.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    slot: torch.Tensor
    weight: torch.Tensor
    lengths: tuple[int, ...]
    layout: PackLayout


def pack(entries: Sequence[PackedText], slots: int, device: torch.device, *, varlen: bool = False) -> Pack:
    """Pack the texts, sorted by slot. No label crosses from one text into the next."""
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
        layout=layout_of(sizes, [entry.text.padding for entry in entries], device, varlen=varlen),
    )
