"""Sequence packing: texts of several slots in one row without padding; logits are computed only where labels are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from hybrid.training.attention import PackLayout
from hybrid.training.grouped import GroupingMethod, RowGroups, RowIndices
from hybrid.training.jobs import Tokens
from hybrid.training.slots import slots_of_rows
from hybrid.training.transfer import to_device


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
    weight of its loss. `lengths[k]` consecutive tokens belong to slot k, `slot_of_row` [T] says so on the device;
    `groups` are these tokens.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    slot: torch.Tensor
    weight: torch.Tensor
    lengths: tuple[int, ...]
    slot_of_row: torch.Tensor
    groups: RowGroups
    layout: PackLayout


def pack(
    entries: Sequence[PackedText],
    slots: int,
    device: torch.device,
    method: Callable[[Sequence[int]], GroupingMethod],
    *,
    varlen: bool = False,
) -> Pack:
    """Pack the texts, sorted by slot; everything goes to the device in one copy. No label crosses from one text into
    the next. `method`: how rows of these lengths are multiplied with the matrices of their slots.
    """
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
        return torch.tensor(values, dtype=torch.long)

    indices = RowIndices(lengths, method(lengths))
    ids, positions, label_rows, targets, slot_of_label, weights, slot_of_row, cumulative, *sent = to_device(
        [
            whole([id for entry in entries for id in entry.text.ids])[None],
            whole([place for size in sizes for place in range(size)])[None],
            whole(rows),
            whole(targets),
            whole(slot),
            torch.tensor(weight, dtype=torch.float32),
            slots_of_rows(lengths),
            torch.tensor(starts, dtype=torch.int32),
            *indices.arrays(),
        ],
        device,
    )
    padding = [entry.text.padding for entry in entries]
    # Trained padding needs a mask, so a pack with it does not use the variable-length kernel.
    layout = PackLayout(tuple(sizes), tuple(padding), cumulative if varlen and not any(padding) else None)
    groups = RowGroups(indices, device, indices.method, sent)
    labels = label_rows, targets, slot_of_label, weights
    return Pack(ids, positions, *labels, tuple(lengths), slot_of_row, groups, layout)
