"""Small arrays of the host that go to the device in one copy, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

ALIGNED = 16
"""Bytes to which each array is aligned in the buffer."""


def to_device(arrays: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """The arrays on `device`: views of one buffer, which is copied once. On a GPU it is copied from pinned memory, so
    that the copy does not synchronise; torch keeps such memory until it is done.
    """
    if device.type == "cpu" or not arrays:
        return list(arrays)
    sizes = [-(-one.numel() * one.element_size() // ALIGNED) * ALIGNED for one in arrays]
    starts = [0, *accumulate(sizes)]
    host = torch.zeros(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for one, start in zip(arrays, starts, strict=False):
        _part(host, start, one).copy_(one)
    there = host.to(device, non_blocking=True)
    return [_part(there, start, one) for one, start in zip(arrays, starts, strict=False)]


def _part(buffer: torch.Tensor, start: int, like: torch.Tensor) -> torch.Tensor:
    """The view of a buffer of bytes from `start` on, with the type and shape of `like`."""
    return buffer[start : start + like.numel() * like.element_size()].view(like.dtype).view(like.shape)
