"""Activation checkpointing per layer: a layer keeps only its input, and is computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def repeatable_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of which transformers says that they may be computed again, the outermost ones."""
    found: dict[str, torch.nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return list(found.values())


@contextmanager
def recomputed(
    layers: Sequence[torch.nn.Module], computing: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Inside the block, what `layers` compute is computed again by a backward pass, also by one after the block.

    `computing` is the context that they need then: on a GPU the backward pass runs in another thread.
    """
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(_computed_again, layer.forward, computing)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


def _computed_again(
    forward: Callable[..., Any], computing: Callable[[], AbstractContextManager[None]], *args: Any, **kwargs: Any
) -> Any:
    def compute(*inputs: Any, **others: Any) -> Any:
        with computing():
            return forward(*inputs, **others)

    return checkpoint(compute, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
