"""The state of a training between two rounds as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

from hybrid.canonical import Json
from hybrid.errors import BadData

VERSION = 1


def pack(tensors: Mapping[str, torch.Tensor], about: Mapping[str, Json]) -> bytes:
    """Tensors by name, and what else belongs to the state."""
    held = {name: one.detach().to("cpu").contiguous() for name, one in tensors.items()}
    told = json.dumps({"version": VERSION, "about": dict(about)}, sort_keys=True)
    data: bytes = safetensors.torch.save(held, {"cvfp": told})
    return data


def unpack(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `pack` made, from untrusted bytes. Raises BadData."""
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
        header = int.from_bytes(data[:8], "little")
        told = json.loads(json.loads(data[8 : 8 + header])["__metadata__"]["cvfp"])
        if told["version"] != VERSION:
            raise ValueError(f"of version {told['version']!r:.40}")
        about = dict(told["about"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadData(f"not the state of a training: {type(error).__name__}: {error!s:.300}") from error
    return tensors, about


def taken(tensors: Mapping[str, torch.Tensor], name: str, like: torch.Tensor) -> torch.Tensor:
    """A tensor of the shape of `like`, finite, as `like` has it. Raises BadData."""
    found = tensors.get(name)
    if found is None or found.shape != like.shape:
        raise BadData(f"not the state of this training: {name:.100} is missing or of another shape")
    if found.is_floating_point() and not bool(found.isfinite().all()):
        raise BadData(f"not the state of this training: {name:.100} is not finite")
    return found.to(like)
