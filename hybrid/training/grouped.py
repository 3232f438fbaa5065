"""Grouped matrix products, in which each group of rows has its own matrix: three methods with equal results.

`grouped` is torch's grouped_mm: one call for all groups; fast on a CPU, and in bfloat16 on Hopper. `loop`
is one product per group, for few groups. `padded` copies the rows into a rectangle and calls bmm once: for GPUs without
a fast grouped_mm, where one call per group would cost more than the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the name in torch's documentation)

GroupingMethod = Literal["grouped", "loop", "padded"]
MAX_GROUPS = 1023
MAX_LOOP_GROUPS = 4
"""Up to this number of groups `loop` is faster than `padded`."""


class RowGroups:
    """Consecutive groups of rows: group k has `lengths[k]` rows, perhaps none."""

    def __init__(self, lengths: Sequence[int], device: torch.device, method: GroupingMethod) -> None:
        self.lengths = list(lengths)
        self.method = method
        self.rows = sum(lengths)
        ends = torch.tensor(lengths).cumsum(0).to(torch.int32)
        self._ends = ends.to(device)
        if method == "padded":
            longest, starts = max(lengths), (ends - torch.tensor(lengths)).tolist()
            row_index = torch.full((len(lengths), longest), self.rows)
            for group, (start, length) in enumerate(zip(starts, lengths, strict=True)):
                row_index[group, :length] = torch.arange(start, start + length)
            self._row_index = row_index.to(device)
            self._rows_in_rectangle = (row_index < self.rows).flatten().nonzero()[:, 0].to(device)

    def times(self, rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        """rows [T, a] times matrices [K, a, b], each row with the matrix of its group -> [T, b]."""
        if self.method == "grouped":
            return F.grouped_mm(rows, matrices, offs=self._ends)
        if self.method == "padded":
            return torch.bmm(self._rectangle(rows), matrices).flatten(0, 1)[self._rows_in_rectangle]
        parts = zip(rows.split(self.lengths), matrices, strict=True)
        return torch.cat([part @ matrix for part, matrix in parts])

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The sum over a group's rows of left [T, a] (outer) right [T, b] -> [K, a, b]; zero for an empty group."""
        if self.method == "grouped":
            return F.grouped_mm(left.t(), right, offs=self._ends)
        if self.method == "padded":
            return torch.bmm(self._rectangle(left).transpose(1, 2), self._rectangle(right))
        pairs = zip(left.split(self.lengths), right.split(self.lengths), strict=True)
        return torch.stack([a.t() @ b for a, b in pairs])

    def _rectangle(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])[self._row_index]


def best_method(device: torch.device, dtype: torch.dtype, groups: int, rank: int) -> GroupingMethod:
    """The fastest method here. torch's grouped_mm needs rows of a multiple of 16 bytes; on Blackwell (10, 0) its
    gradients of empty groups are not zero, and a pass does leave slots out.
    """
    aligned = rank * dtype.itemsize % 16 == 0 and groups <= MAX_GROUPS and dtype != torch.float64
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0) and dtype == torch.bfloat16
    if aligned and hasattr(F, "grouped_mm") and (device.type == "cpu" or hopper):
        return "grouped"
    return "loop" if groups <= MAX_LOOP_GROUPS or device.type == "cpu" else "padded"
