"""A frozen model that computes packs: several texts in one row, each with the adapter of its slot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel

from hybrid.training.attention import (
    NAME,
    PackLayout,
    attending_with,
    fused_kernels,
    packed_layout,
    varlen_works,
)
from hybrid.training.packing import Pack, PackedText, pack
from hybrid.training.recompute import recomputed, repeatable_layers
from hybrid.training.slots import Route, SlottedModel, method_for


class PackedModel:
    """A Hugging Face causal model, which is not changed, with slots for adapters of its linear layers `targets`.

    It must be used from one thread. `close` restores the model.
    """

    def __init__(self, model: Any, targets: Sequence[str]) -> None:
        self.model = model
        self.device, self.dtype = model.device, model.dtype
        self.slotted = SlottedModel(model, targets, group_inputs=True)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.layers = repeatable_layers(model)
        heads = _heads(model.config)
        self._kernels = fused_kernels(self.device, self.dtype, *heads)
        self._varlen = varlen_works(self.device, self.dtype, *heads)
        self.computed = self.logits = self.passes = self.steps = 0  # tokens, logit rows, passes, optimizer steps so far

    def packed(self) -> AbstractContextManager[None]:
        """Within this context, the model uses packed attention."""
        return attending_with(self.model, NAME)

    def pack(self, entries: Sequence[PackedText], slots: int) -> Pack:
        """The pack of `entries` for this device."""
        method = partial(method_for, self.slotted.layers, device=self.device, dtype=self.dtype)
        return pack(entries, slots, self.device, lambda lengths: method(lengths=lengths), varlen=self._varlen)

    def logits_of(self, pack: Pack, route: Route, *, checkpointed: bool = False) -> torch.Tensor:
        """The logits [labelled rows, vocabulary] of a pack; `checkpointed`: its layers keep their inputs only."""
        computing = partial(self._computing, pack.layout, route)
        with computing(), recomputed(self.layers if checkpointed else (), computing):
            answer = self.model(
                input_ids=pack.ids, position_ids=pack.positions, use_cache=False, logits_to_keep=pack.rows
            )
        logits: torch.Tensor = answer.logits[0]
        return logits

    @contextmanager
    def _computing(self, layout: PackLayout, route: Route) -> Iterator[None]:
        kernels = sdpa_kernel(self._kernels) if self._kernels else nullcontext()
        with self.slotted.routed(route), packed_layout(layout), kernels:
            yield

    def close(self) -> None:
        """Restore the model."""
        self.slotted.close()


def _heads(config: Any) -> tuple[int, int, int]:
    text = config.get_text_config(decoder=True)
    shared = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.num_attention_heads, shared, width
