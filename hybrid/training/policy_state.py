"""The state of policies between two rounds as one safetensors file: weights, moments and step counts of all slots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors
import safetensors.torch
import torch

from hybrid.canonical import Json
from hybrid.errors import BadData

VERSION = 1
PARTS = ("values", "exp_avg", "exp_avg_sq")
"""Tensors [N] of a slot; beside them `step` and `scale` are single numbers."""
NUMBERS = ("step", "scale")

SlotState = Mapping[str, torch.Tensor]


def to_bytes(slots: Sequence[SlotState | None], about: Mapping[str, Json]) -> bytes:
    """The state of slots, None for one that holds nothing; `about`: what a bank must have to take it."""
    held = [slot for slot, one in enumerate(slots) if one is not None]
    tensors = {
        f"{slot}/{name}": one[name].detach().to("cpu").contiguous()
        for slot, one in enumerate(slots)
        if one is not None
        for name in (*PARTS, *NUMBERS)
    }
    told = {"version": VERSION, "held": held, "about": dict(about)}
    data: bytes = safetensors.torch.save(tensors, {"policies": json.dumps(told, sort_keys=True)})
    return data


def from_bytes(data: bytes, about: Mapping[str, Json], slots: int, size: int) -> list[SlotState | None]:
    """The states of `slots` slots of `size` numbers in untrusted bytes. Raises BadData."""
    try:
        tensors = safetensors.torch.load(data)
        header = int.from_bytes(data[:8], "little")
        told = json.loads(json.loads(data[8 : 8 + header])["__metadata__"]["policies"])
        held = told["held"]
        if told["version"] != VERSION or told["about"] != dict(about):
            raise ValueError(f"it is of other policies: {told['about']!s:.200}, not {dict(about)!s:.200}")
        if not all(type(slot) is int for slot in held) or not set(held) <= set(range(slots)):
            raise ValueError("its slots are out of range")
        if tensors.keys() != {f"{slot}/{name}" for slot in held for name in (*PARTS, *NUMBERS)}:
            raise ValueError("it has other tensors than the policies'")
        found: list[SlotState | None] = [None] * slots
        for slot in held:
            found[slot] = {name: _part(tensors, slot, name, size) for name in (*PARTS, *NUMBERS)}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadData(f"not the state of these policies: {type(error).__name__}: {error!s:.400}") from error
    return found


def _part(tensors: Mapping[str, Any], slot: int, name: str, size: int) -> torch.Tensor:
    part: torch.Tensor = tensors[f"{slot}/{name}"]
    if part.shape != (() if name in NUMBERS else (size,)) or part.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} of slot {slot} has another shape")
    if not bool(part.isfinite().all()) or (name != "values" and bool((part < 0).any()) and name != "exp_avg"):
        raise ValueError(f"{name} of slot {slot} has numbers that no training gives")
    return part
