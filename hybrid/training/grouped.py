"""Matrix products in which each group of rows has a matrix of its own, in three ways with equal results.

`grouped` is torch's grouped product: one call however many groups; quick on a CPU, and on GPUs from Hopper on in
bfloat16. `loop` is one product a group, for few groups. `padded` gathers the rows into a rectangle and multiplies once:
for GPUs without a quick grouped product, where the groups' number of calls would cost more than the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (what torch's own documents call it)

Way = Literal["grouped", "loop", "padded"]
MOST_GROUPS = 1023
FEW = 4
"""Up to so many groups a loop is quicker than padding."""


class Groups:
    """Rows cut into groups of neighbours, `lengths[k]` of them for group k. Some may be empty."""

    def __init__(self, lengths: Sequence[int], device: torch.device, way: Way) -> None:
        self.lengths = list(lengths)
        self.way = way
        self.rows = sum(lengths)
        ends = torch.tensor(lengths).cumsum(0).to(torch.int32)
        self._ends = ends.to(device)
        if way == "padded":
            longest, starts = max(lengths), (ends - torch.tensor(lengths)).tolist()
            place = torch.full((len(lengths), longest), self.rows)
            for group, (start, length) in enumerate(zip(starts, lengths, strict=True)):
                place[group, :length] = torch.arange(start, start + length)
            self._place = place.to(device)
            self._back = (place < self.rows).flatten().nonzero()[:, 0].to(device)

    def times(self, rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        """rows [T, a] times matrices [K, a, b], each row with its group's matrix -> [T, b]."""
        if self.way == "grouped":
            return F.grouped_mm(rows, matrices, offs=self._ends)
        if self.way == "padded":
            return torch.bmm(self._rectangle(rows), matrices).flatten(0, 1)[self._back]
        parts = zip(rows.split(self.lengths), matrices, strict=True)
        return torch.cat([part @ matrix for part, matrix in parts])

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The sum over a group's rows of left [T, a] (outer) right [T, b] -> [K, a, b]; zero for an empty group."""
        if self.way == "grouped":
            return F.grouped_mm(left.t(), right, offs=self._ends)
        if self.way == "padded":
            return torch.bmm(self._rectangle(left).transpose(1, 2), self._rectangle(right))
        pairs = zip(left.split(self.lengths), right.split(self.lengths), strict=True)
        return torch.stack([a.t() @ b for a, b in pairs])

    def _rectangle(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])[self._place]


def best_way(device: torch.device, dtype: torch.dtype, groups: int, rank: int) -> Way:
    """The quickest way here. torch's grouped product wants rows of a multiple of 16 bytes."""
    aligned = rank * dtype.itemsize % 16 == 0 and groups <= MOST_GROUPS and dtype != torch.float64
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0) and dtype == torch.bfloat16
    if aligned and hasattr(F, "grouped_mm") and (device.type == "cpu" or hopper):
        return "grouped"
    return "loop" if groups <= FEW or device.type == "cpu" else "padded"
