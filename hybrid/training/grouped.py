"""Grouped matrix products, in which each group of rows has its own matrix: three methods with equal results.

`grouped` is torch's grouped_mm: one call for all groups; fast on a CPU, and in bfloat16 on Hopper. `loop`
is one product per group, for few groups. `padded` copies groups of like lengths into a rectangle and calls bmm once for
each rectangle: for GPUs without a fast grouped_mm, where one call per group would cost more than the padding.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the name in torch's documentation)

from hybrid.training.transfer import to_device

LOG = logging.getLogger("hybrid")
GroupingMethod = Literal["grouped", "loop", "padded"]
MAX_GROUPS = 1023
MAX_LOOP_GROUPS = 4
"""Up to this number of groups `loop` is faster than `padded`."""
MAX_WASTE = 1.25
"""The rectangles together have at most this many times the rows that are there: so much more memory and work."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Groups that are computed together, and the longest of their lengths.

    On the device: `number` [groups] of each; `rows` [groups * longest], the row at each place, beyond a group's end its
    last one; `beyond` [groups, longest, 1], true there.
    """

    groups: tuple[int, ...]
    longest: int
    number: torch.Tensor
    rows: torch.Tensor
    beyond: torch.Tensor

    def filled(self, rows: torch.Tensor) -> torch.Tensor:
        """rows [T, a] -> [groups, longest, a]."""
        return rows[self.rows].view(len(self.groups), self.longest, -1)


class RowIndices:
    """The index arrays of consecutive groups of rows on the host, so that they can be copied with others.

    Group k has `lengths[k]` rows, perhaps none.
    """

    def __init__(self, lengths: Sequence[int], method: GroupingMethod) -> None:
        self.lengths, self.method = list(lengths), method
        self.ends = list(accumulate(lengths))
        self.rectangles = _rectangles(self.lengths) if method == "padded" else []

    def arrays(self) -> list[torch.Tensor]:
        """What `RowGroups` needs on the device."""
        if self.method == "grouped":
            return [torch.tensor(self.ends, dtype=torch.int32)]
        found: list[torch.Tensor] = []
        place_of_row = torch.empty(sum(self.lengths), dtype=torch.long)
        filled = 0
        for groups in self.rectangles:
            longest = max(self.lengths[group] for group in groups)
            length = torch.tensor([self.lengths[group] for group in groups])[:, None]
            start = torch.tensor([self.ends[group] for group in groups])[:, None] - length
            column = torch.arange(longest)[None]
            rows, beyond = (start + torch.minimum(column, length - 1)).clamp(min=0), column >= length
            place_of_row[rows[~beyond]] = filled + (~beyond).flatten().nonzero()[:, 0]
            filled += beyond.numel()
            found += [torch.tensor(groups), rows.flatten(), beyond[..., None]]
        return [place_of_row, *found] if self.method == "padded" else []


class RowGroups:
    """Consecutive groups of rows on a device. `sent`: the arrays of `indices`, if they are there already."""

    def __init__(
        self,
        lengths: Sequence[int] | RowIndices,
        device: torch.device,
        method: GroupingMethod,
        sent: Sequence[torch.Tensor] | None = None,
    ) -> None:
        indices = lengths if isinstance(lengths, RowIndices) else RowIndices(lengths, method)
        first, *rest = (to_device(indices.arrays(), device) if sent is None else sent) or [torch.empty(0)]
        self.lengths, self.method, self._first = indices.lengths, indices.method, first
        self._rectangles = [
            Rectangle(groups, max(self.lengths[group] for group in groups), *rest[3 * at : 3 * at + 3])
            for at, groups in enumerate(indices.rectangles)
        ]

    def times(self, rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        """rows [T, a] times matrices [K, a, b], each row with the matrix of its group -> [T, b]."""
        if self.method == "grouped":
            return F.grouped_mm(rows, matrices, offs=self._first)
        if self.method == "padded":
            return torch.cat([self._product(one, rows, matrices) for one in self._rectangles])[self._first]
        parts = zip(rows.split(self.lengths), matrices, strict=True)
        return torch.cat([part @ matrix for part, matrix in parts])

    def _product(self, one: Rectangle, rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        """The product of a rectangle's rows, in its order."""
        chosen = matrices if len(one.groups) == len(self.lengths) else matrices[one.number]
        return torch.bmm(one.filled(rows), chosen).flatten(0, 1)

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The sum over a group's rows of left [T, a] (outer) right [T, b] -> [K, a, b]; zero for an empty group."""
        if self.method == "grouped":
            return F.grouped_mm(left.t(), right, offs=self._first)
        if self.method == "padded":
            found = left.new_zeros(len(self.lengths), left.shape[1], right.shape[1])
            for one in self._rectangles:
                sums = _sums(one.filled(left), one.filled(right), one.beyond)
                found.index_copy_(0, one.number, sums)
            return found
        pairs = zip(left.split(self.lengths), right.split(self.lengths), strict=True)
        return torch.stack([a.t() @ b for a, b in pairs])


def _sums(left: torch.Tensor, right: torch.Tensor, beyond: torch.Tensor) -> torch.Tensor:
    """[groups, longest, a] and [groups, longest, b] -> [groups, a, b], without the rows `beyond` a group's end."""
    for one in (left, right):
        one.masked_fill_(beyond, 0.0)  # in both: infinity times zero is no number
    return torch.bmm(left.transpose(1, 2), right)


def _rectangles(lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """The groups that have rows, in few rectangles that together have at most `MAX_WASTE` times these rows: as long as
    they have more, one is divided where that saves the most.

    When that is one part, empty groups are in it, too: then no matrix is copied.
    """
    parts = [sorted((one for one, length in enumerate(lengths) if length), key=lambda one: -lengths[one])]

    def saved(part: Sequence[int], cut: int) -> int:
        return (lengths[part[0]] - lengths[part[cut]]) * (len(part) - cut)

    while parts[0] and sum(lengths[part[0]] * len(part) for part in parts) > MAX_WASTE * sum(lengths):
        _, at, cut = max((saved(part, cut), at, cut) for at, part in enumerate(parts) for cut in range(1, len(part)))
        parts[at : at + 1] = parts[at][:cut], parts[at][cut:]
    return [tuple(sorted(part)) for part in parts] if len(parts) > 1 else [tuple(range(len(lengths)))]


def best_method(device: torch.device, dtype: torch.dtype, groups: int, width: int) -> GroupingMethod:
    """The fastest method here. `width` divides the width of all rows: torch's grouped_mm needs rows of a multiple of 16
    bytes. On Blackwell (10, 0) its gradients of empty groups are not zero, and a pass does leave slots out.
    """
    aligned = width * dtype.itemsize % 16 == 0 and groups <= MAX_GROUPS and dtype != torch.float64
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0) and dtype == torch.bfloat16
    if aligned and (device.type == "cpu" or hopper) and grouped_mm_works(device, dtype):
        return "grouped"
    return "loop" if groups <= MAX_LOOP_GROUPS or device.type == "cpu" else "padded"


@cache
def grouped_mm_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's grouped_mm gives the products and gradients of `loop`, also for groups without rows.

    Where it does not, a warning tells.
    """
    if not hasattr(F, "grouped_mm"):
        return False
    lengths = [0, 3, 0, 0, 17, 1, 0]
    generator = torch.Generator().manual_seed(0)
    sizes = ((sum(lengths), 16), (sum(lengths), 8), (len(lengths), 16, 8))
    rows, gradients, matrices = (torch.randn(size, generator=generator).to(device, dtype) for size in sizes)

    def found(method: GroupingMethod) -> list[torch.Tensor]:
        groups = RowGroups(lengths, device, method)
        torch.full((len(lengths), 16, 8), torch.nan, device=device, dtype=dtype)  # what is not written would be seen
        outer = groups.outer(rows, gradients)
        return [outer, groups.times(rows, matrices), groups.times(gradients, matrices.transpose(1, 2))]

    try:
        pairs = zip(found("grouped"), found("loop"), strict=True)
        wrong = any(not torch.allclose(one, other, rtol=0.02, atol=0.1) for one, other in pairs)
        why = "its results are wrong"
    except RuntimeError as error:
        wrong, why = True, str(error).partition("\n")[0]
    if wrong:
        LOG.warning("torch %s: grouped_mm is not used for adapters on this device: %.200s", torch.__version__, why)
    return not wrong
