"""The settings of the pipeline `cvfp`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from hybrid.bounds import (
    NOT_NEGATIVE,
    SEED,
    SHARE,
    Bounds,
    help_of,
    refuse_each_outside,
    refuse_outside,
    refuse_repeats,
)

Variant = Literal[
    "cvfp", "mean-deviation", "guide", "guide-unguarded", "untrained", "untrained-chaotic", "token-only", "end-to-end",
    "unigram", "bigram",
]  # fmt: skip
"""What is compared; docs/cvfp.md says what each is."""
VARIANTS: tuple[Variant, ...] = get_args(Variant)
COUNTED: tuple[Variant, ...] = ("unigram", "bigram")
"""Variants that are counted, not trained."""
GUIDED: tuple[Variant, ...] = ("guide", "guide-unguarded")
"""Variants whose phase 1 is the guide's."""
BYTES, TRAINED = "bytes", "trained"
"""Tokenizers that are no model's."""
GUIDE_GAIN = 0.1
"""Standard deviation of the guide's first weights, at its width of 768."""
GUIDE_WIDTH = 768
MOST_SWEEPS, BOUND = 64, 1e-6
"""Sweeps without training after the last one of phase 1, at most, and the bound on the mean squared distance to the
exact contexts that ends them."""


@dataclass(frozen=True)
class CvfpSettings:
    """Which variants on which texts, the model's shape, and how both phases train."""

    variants: tuple[Variant, ...] = field(
        default=VARIANTS, metadata=help_of("which are compared, each on the same documents")
    )
    seeds: tuple[int, ...] = field(default=(0,), metadata=help_of("each variant is run once for each"))
    data: str = field(
        default="", metadata=help_of("a .txt or .jsonl file, a folder of them, or ultrachat; empty: the built-in text")
    )
    documents: int = field(default=0, metadata=help_of("documents that are read; 0: all"))
    held_out: float = field(default=0.15, metadata=help_of("share of the documents that is held out"))
    length: int = field(default=128, metadata=help_of("tokens of a piece; what is left of a document is left out"))
    pieces: tuple[int, ...] = field(
        default=(0,), metadata=help_of("pieces that are trained on, 0 for all; several are a ladder of sizes")
    )
    tokenizer: str = field(
        default="trained", metadata=help_of("trained: byte pairs of these texts; bytes; or a model's folder")
    )
    vocabulary: int = field(default=4000, metadata=help_of("with tokenizer=trained: tokens, at most"))
    embedding: str = field(
        default="", metadata=help_of("a model's folder whose token vectors are used; empty: random ones")
    )
    width: int = field(default=192, metadata=help_of("numbers of a context and of a token's vector"))
    layers: int = field(default=4, metadata=help_of("blocks"))
    tied: bool = field(default=False, metadata=help_of("the head is the embedding's matrix"))
    head: Literal["token", "context-and-token"] = field(
        default="token", metadata=help_of("what it reads: the token's vector after all blocks, or the context as well")
    )
    gain: float = field(
        default=0.02, metadata=help_of("of the first weights, as a standard deviation at width 768; the guide has 0.1")
    )
    sweeps: int = field(default=40, metadata=help_of("of phase 1, each an optimizer step"))
    diversity: float = field(default=0.05, metadata=help_of("weight of the diversity beside the change; guide: 0.5"))
    rate1: float = field(default=2e-3, metadata=help_of("learning rate of phase 1"))
    noise1: float = field(default=0.0, metadata=help_of("of the contexts of phase 1, a standard deviation"))
    epochs: int = field(default=8, metadata=help_of("of phase 2, at most"))
    patience: int = field(default=3, metadata=help_of("epochs without a better held-out loss before phase 2 stops"))
    batch: int = field(default=32, metadata=help_of("pieces of a step of phase 2"))
    window: int = field(default=16, metadata=help_of("tokens that gradients go back through"))
    rate2: float = field(default=2e-3, metadata=help_of("learning rate of phase 2"))
    weight_decay: float = field(default=0.01, metadata=help_of("of phase 2"))
    noise2: float = field(default=0.1, metadata=help_of("of the contexts between windows of phase 2"))
    warm_up: float = field(default=0.05, metadata=help_of("share of phase 2 in which the learning rate rises"))
    freeze_context: bool = field(default=False, metadata=help_of("phase 2 trains the head alone"))
    clip: float = field(default=1.0, metadata=help_of("gradients are cut to this norm; 0: never"))
    part: int = field(default=16_384, metadata=help_of("tokens that phase 1 computes at once"))
    carry: Literal["document", "stream"] = field(
        default="document",
        metadata=help_of("stream: a piece begins with what all pieces before it left behind; document: with nothing"),
    )
    execution: Literal["sweeps", "token-by-token"] = field(
        default="sweeps",
        metadata=help_of("of phase 1 of the guide's variants: token-by-token as published, for few tokens"),
    )
    every: int = field(default=5, metadata=help_of("sweeps between two exact measurements of the contexts"))

    def __post_init__(self) -> None:
        refuse_outside(
            self, documents=NOT_NEGATIVE, held_out=Bounds(0, 1, over=True, under=True), length=Bounds(2, 100_000),
            vocabulary=Bounds(257, 1_000_000), width=Bounds(4, 16_384), layers=Bounds(1, 100),
            gain=Bounds(0, 10, over=True), sweeps=Bounds(1, 100_000), diversity=Bounds(0, 1), rate1=SHARE, rate2=SHARE,
            noise1=NOT_NEGATIVE, noise2=NOT_NEGATIVE, epochs=Bounds(1, 10_000), patience=Bounds(1, 10_000),
            batch=Bounds(1, 100_000), window=Bounds(1, 100_000), weight_decay=Bounds(0, 1, under=True),
            warm_up=Bounds(0, 1), clip=NOT_NEGATIVE, part=Bounds(2, 1 << 24), every=Bounds(1, 100_000),
        )  # fmt: skip
        refuse_repeats(self, "variants", "seeds", "pieces")
        refuse_each_outside(self, seeds=SEED, pieces=NOT_NEGATIVE)
        if self.execution != "sweeps" and (wrong_ones := [one for one in self.variants if _is_swept(one)]):
            raise ValueError(f"execution={self.execution} is of the guide's variants alone, not of {wrong_ones[0]}")
        if self.execution != "sweeps" and not set(self.variants) & set(GUIDED):
            raise ValueError(
                f"execution={self.execution} is of the guide's variants, of which variants names none: "
                f"{' or '.join(GUIDED)}"
            )
        if self.embedding and self.tokenizer in (TRAINED, BYTES):
            raise ValueError(
                f"embedding={self.embedding:.200} has vectors of that model's tokens, and tokenizer={self.tokenizer} "
                "makes others: name the same model for both"
            )
        if self.tied and self.head != "token":
            raise ValueError(f"head={self.head} needs a matrix of its own, and tied=true gives it the embedding's")

    def reads_both(self, variant: Variant) -> bool:
        """Whether the head of a variant reads contexts beside token vectors; `token-only` has none."""
        return self.head == "context-and-token" and variant != "token-only"

    def gain_of(self, variant: Variant) -> float:
        """The standard deviation of a variant's first weights at this width: of the same gain as at width 768."""
        guide = variant.startswith("guide") or variant == "untrained-chaotic"
        return float((GUIDE_GAIN if guide else self.gain) * (GUIDE_WIDTH / self.width) ** 0.5)


def _is_swept(variant: Variant) -> bool:
    """Whether a variant has a phase 1 that is not the guide's."""
    return variant in ("cvfp", "mean-deviation")
