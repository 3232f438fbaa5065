"""A frozen Hugging Face model that turns texts into the rows that a classification head reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch

from hybrid.errors import CannotRun
from hybrid.loops import EncodedText
from hybrid.training import text_attention
from hybrid.training.heads import LABELS, HeadLayer
from hybrid.training.text_attention import TextLayout, layout_of, text_layout

ENCODERS = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert")
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class TextPack:
    """Texts in one row without padding: ids, positions and token types [1, T]; `read` [n]: the row that the head reads
    of each text.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    types: torch.Tensor | None
    read: torch.Tensor
    layout: TextLayout


class ClassifierModel:
    """A base model of one of the known families. Its parameters and its code are not changed.

    `positions`: the longest text. `layers`: the head as transformers' sequence classification has it, of which BERT's
    pooler is a part of the frozen base, as with PEFT. Raises CannotRun for another family.
    """

    def __init__(self, base: Any) -> None:
        self.base, config = base, base.config
        self.kind = str(config.model_type)
        if self.kind not in (*ENCODERS, *DECODERS):
            raise CannotRun(
                f"classifiers do not know models of the kind '{self.kind}'",
                hint=f"take one of {', '.join((*ENCODERS, *DECODERS))}",
            )
        self.decodes = self.kind in DECODERS
        self.width = int(config.hidden_size)
        self.offset = int(config.pad_token_id) + 1 if self.kind.endswith(("roberta", "camembert")) else 0
        self.positions = int(config.max_position_embeddings) - self.offset
        self.typed = self.kind == "bert" and int(config.type_vocab_size) > 1
        self.deviation = float(getattr(config, "initializer_range", 0.02))
        self.layers = _head(self.kind, self.width)
        self._narrowing = _before_last_layers(self.kind, base)
        self._last_attention = _last_attention(self.kind, base)
        base.eval().set_attn_implementation(text_attention.NAME)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.base.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.base.dtype
        return dtype

    def pack(self, texts: Sequence[EncodedText]) -> TextPack:
        """The pack of `texts` for this device. Raises ValueError for an empty text and one that is too long."""
        lengths = [len(text.ids) for text in texts]
        if not 0 < min(lengths) <= max(lengths) <= self.positions:
            raise ValueError(f"a text has {min(lengths)} or {max(lengths)} tokens; it must have 1 to {self.positions}")
        ends = torch.tensor([*accumulate(lengths)])
        starts = ends - torch.tensor(lengths)
        places = torch.arange(int(ends[-1])) - starts.repeat_interleave(torch.tensor(lengths))
        types = [kind for text in texts for kind in text.types or (0,) * len(text.ids)] if self.typed else None
        ids = torch.tensor([id for text in texts for id in text.ids])
        return TextPack(
            ids=ids[None].to(self.device),
            positions=(places + self.offset)[None].to(self.device),
            types=None if types is None else torch.tensor(types)[None].to(self.device),
            read=(ends - 1 if self.decodes else starts).to(self.device),
            layout=layout_of(lengths, self.device),
        )

    def features(
        self, pack: TextPack, narrowed: Callable[[], AbstractContextManager[None]] | None = None
    ) -> torch.Tensor:
        """The rows [n, width] that the head reads. Within `narrowed`, only they are computed by what is left of the
        last layer.
        """
        types = {} if pack.types is None else {"token_type_ids": pack.types}
        with text_layout(pack.layout), ExitStack() as stack:
            if self._narrowing and self._last_attention:
                stack.enter_context(self._narrow(*self._narrowing, pack.read, stack, narrowed))
                stack.enter_context(self._narrow_queries(*self._last_attention, pack, stack, narrowed))
            answer = self.base(
                input_ids=pack.ids,
                position_ids=pack.positions,
                **types,
                **({"use_cache": False} if self.decodes else {}),
            )
        rows = answer.last_hidden_state[0]
        rows = rows if self._narrowing else rows.index_select(0, pack.read)
        if self.kind == "bert":
            rows = self.base.pooler.activation(self.base.pooler.dense(rows))
        return rows

    def probe(self) -> None:
        """Compute one token."""
        self.features(self.pack([EncodedText((0,))]))

    @contextmanager
    def _narrow(
        self,
        module: Any,
        before: bool,
        read: torch.Tensor,
        stack: ExitStack,
        narrowed: Callable[[], AbstractContextManager[None]] | None,
    ) -> Iterator[None]:
        """Within this context, the last layer goes on with the rows `read` alone, once its attention is done."""

        def select(*rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if narrowed:
                stack.enter_context(narrowed())
            return tuple(one.index_select(1, read) for one in rows)

        if before:
            hook = module.register_forward_pre_hook(lambda _, rows: select(*rows))
        else:
            hook = module.register_forward_hook(lambda _, __, rows: select(rows)[0])
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def _narrow_queries(
        self,
        attention: Any,
        name: str,
        pack: TextPack,
        stack: ExitStack,
        narrowed: Callable[[], AbstractContextManager[None]] | None,
    ) -> Iterator[None]:
        """Within this context, only the rows that are read ask in the last layer: of all, keys and values are needed.

        The hook comes before those that look which layers have the same input: this one's is another.
        """
        route = ExitStack()

        def select(_: Any, rows: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            if narrowed:
                route.enter_context(narrowed())
            return (rows[0].index_select(1, pack.read),)

        def widen(_: Any, __: Any, found: torch.Tensor) -> torch.Tensor:
            route.close()
            stack.enter_context(text_layout(replace(pack.layout, first_only=True)))
            whole = found.new_zeros(1, pack.ids.shape[1], found.shape[-1])
            return whole.index_copy(1, pack.read, found)

        layer = getattr(attention, name)  # as it is now: with slots or without
        hooks = layer.register_forward_pre_hook(select, prepend=True), layer.register_forward_hook(widen)
        try:
            yield
        finally:
            route.close()
            for hook in hooks:
                hook.remove()


def _last_attention(kind: str, base: Any) -> tuple[Any, str] | None:
    """Of an encoder: the attention of its last layer, and the name of its queries' layer."""
    if kind in DECODERS:
        return None
    if kind == "distilbert":
        return base.transformer.layer[-1].attention, "q_lin"
    return base.encoder.layer[-1].attention.self, "query"


def _head(kind: str, width: int) -> tuple[HeadLayer, ...]:
    if kind in DECODERS:
        return (HeadLayer("score", width, LABELS, bias=False),)
    if kind == "bert":
        return (HeadLayer("classifier", width, LABELS),)
    if kind == "distilbert":
        return HeadLayer("pre_classifier", width, width, activation="relu"), HeadLayer("classifier", width, LABELS)
    dense = HeadLayer("classifier.dense", width, width, activation="tanh")
    return dense, HeadLayer("classifier.out_proj", width, LABELS)


def _before_last_layers(kind: str, base: Any) -> tuple[Any, bool] | None:
    """The module of an encoder's last layer whose input (true) or output (false) is narrowed to the rows that are read;
    None where no module has all of the layer's rows: a decoder adds the layer's input to its output.
    """
    if kind in DECODERS:
        return None
    if kind == "distilbert":
        return base.transformer.layer[-1].sa_layer_norm, False
    return base.encoder.layer[-1].attention.output, True
