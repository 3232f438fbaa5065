"""A causal language model of Hugging Face as policies are trained with it: packs in, hidden rows of labels out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel

from hybrid.errors import CannotRun
from hybrid.training.attention import attending_with, fused_kernels
from hybrid.training.policy_pack import PolicyPack
from hybrid.training.prefix_attention import NAME, prefix_layout
from hybrid.training.recompute import recomputed, repeatable_layers

PROBE = ((1, 2, 3),)
TOLERANCE = 1e-3


class PolicyModel:
    """The parts of a causal model: `base`, which gives hidden rows, and the head over them with its `scale`.

    Nothing of it is changed outside of `packed`. Raises CannotRun for a model whose logits are more than a multiple of
    its head's.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.base, self.head = model, model.base_model, model.get_output_embeddings()
        self.device, self.dtype = model.device, model.dtype
        self.layers = repeatable_layers(model)
        text = model.config.get_text_config(decoder=True)
        self.width, self.vocabulary = int(text.hidden_size), int(self.head.weight.shape[0])
        self.positions = int(getattr(text, "max_position_embeddings", None) or 1 << 30)
        shared = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        wide = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._kernels = fused_kernels(self.device, self.dtype, text.num_attention_heads, shared, wide)
        self.scale = self._scale()
        with self.packed():  # a model that cannot is refused before anything is trained
            pass

    def packed(self) -> AbstractContextManager[None]:
        """Within this context, the model's attention is that of packs."""
        return attending_with(self.model, NAME)

    def rows(
        self, pack: PolicyPack, within: Callable[[], AbstractContextManager[Any]], *, checkpointed: bool = False
    ) -> torch.Tensor:
        """The hidden rows [labels, width] that predict a pack's labels, computed within `within`.

        `checkpointed`: its layers keep their inputs only, and are computed again in the backward pass.
        """

        @contextmanager
        def computing() -> Iterator[None]:
            kernels = sdpa_kernel(self._kernels) if self._kernels else nullcontext()
            with within(), prefix_layout(pack.layout), kernels:
                yield

        with computing(), recomputed(self.layers if checkpointed else (), computing):
            answer = self.base(input_ids=pack.ids, position_ids=pack.positions, use_cache=False)
        rows: torch.Tensor = answer.last_hidden_state[0].index_select(0, pack.rows)
        return rows

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _scale(self) -> float:
        """What the head's output is multiplied with (Granite, Cohere)."""
        ids = torch.tensor(PROBE, device=self.device) % self.vocabulary
        plain = self.head(self.base(input_ids=ids, use_cache=True).last_hidden_state).double()
        logits = self.model(input_ids=ids, use_cache=True).logits.double()
        scale = float((plain * logits).sum() / plain.square().sum())
        if not (plain * scale - logits).norm() <= max(TOLERANCE, 4 * torch.finfo(self.dtype).eps) * logits.norm():
            raise CannotRun(
                f"{type(self.model).__name__} does more to its logits than its head, which training does not know",
                hint="train another model: Llama, SmolLM, Qwen, Mistral and GPT-2 work",
            )
        return 1.0 if abs(scale - 1) < TOLERANCE else scale
