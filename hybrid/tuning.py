"""How an answering model is made of the run's: a LoRA adapter, trained before the question is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any, Literal, TypeVar

from hybrid.bounds import NOT_NEGATIVE, SEED, SHARE, Bounds, refuse_outside
from hybrid.canonical import Json, digest

SEAL_TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers that SEAL adapts: all but the keys' and the attention output's."""

MOST_RANK = 1024
BOUNDS: Mapping[str, Bounds] = {
    "learning_rate": SHARE,
    "rank": Bounds(1, MOST_RANK),
    "alpha": Bounds(0, over=True),
    "seed": SEED,
    "epochs": Bounds(1, 1000),
    "batch": Bounds(1, 4096),
    "warmup": Bounds(0, 1_000_000),
    "weight_decay": Bounds(0, 1, under=True),
    "clip": NOT_NEGATIVE,
}
"""What a `Tuning` takes."""

Made = TypeVar("Made")


def _taking_lessons(cls: type[Made]) -> type[Made]:
    """The class, which can be made with the earlier name of `examples`, too."""
    make: Any = cls.__init__

    @wraps(make)
    def init(self: Made, *given: Any, **named: Any) -> None:
        if "lessons" in named:
            named["examples"] = named.pop("lessons")
        make(self, *given, **named)

    cls.__init__ = init  # type: ignore[assignment]
    return cls


@_taking_lessons
@dataclass(frozen=True, slots=True)
class Tuning:
    """All that shapes an adapter beside the base model. Its digest names the training, on whichever machine it is done.

    `examples` says which texts are trained on, to the function of that name in the stage's `Tune`, which makes them.
    Its earlier name is `lessons`: it is so called in the JSON, and plugins may still use it here.

    One optimizer step takes `batch` texts; the loss is the mean over the labelled tokens of a step. The learning rate
    warms up over `warmup` steps, then follows `schedule` to the last of the epochs (as Hugging Face's schedulers).
    Optimizer: AdamW (Loshchilov and Hutter 2019), betas 0.9 and 0.999, eps 1e-8; the gradient's norm is cut at `clip`,
    0 for never. The adapter adds alpha / rank * B A x (Hu et al. 2021). Raises ValueError for values that cannot be
    trained with.
    """

    examples: Mapping[str, Json]
    learning_rate: float
    epochs: int
    rank: int = 128
    alpha: float = 16.0
    targets: tuple[str, ...] = SEAL_TARGETS
    batch: int = 2
    warmup: int = 11
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    learned: Literal["answer", "all"] = "answer"  # which tokens have a loss: the last message's, or all
    # The values `seal` are named after the paper that trains so: they enter the digest, so they cannot be renamed.
    padding: Literal["masked", "seal"] = "masked"  # seal: texts are padded to the longest, and padding has a loss
    texts: Literal["clean", "seal"] = "clean"  # seal: a second begin token, and an empty assistant turn at the end
    seed: int = 0  # of the adapter's first values and of the order of the texts
    keep: bool = False  # whether the adapter itself is kept in the run, for later stages
    digest: str = field(init=False, repr=False, compare=False)  # 64 hex digits that name the training

    def __post_init__(self) -> None:
        refuse_outside(self, **BOUNDS)
        if not self.targets:
            raise ValueError("targets is empty: which matrices are trained?")
        object.__setattr__(self, "digest", digest(self.to_json()))  # once: every item of a task asks for it

    @property
    def lessons(self) -> Mapping[str, Json]:
        """The earlier name of `examples`."""
        return self.examples

    def to_json(self) -> dict[str, Json]:
        """The fields that enter the digest, under their stored names."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.init}
        values["lessons"] = values.pop("examples")
        return {**values, "targets": list(self.targets)}


def refuse_untrainable(settings: object, *names: str, prefix: str = "") -> None:
    """Raise ValueError for the first of the settings `PREFIX + name` that no `Tuning` takes under `name`.

    For a class that makes one of its settings: its errors and `hybrid describe` then name its own setting.
    """
    refuse_outside(settings, **{prefix + name: BOUNDS[name] for name in names})


@dataclass(frozen=True, slots=True)
class PolicyTuning:
    """How the policies of a loop are trained: with adapters of `rank`, or, with rank 0, all of their parameters.

    An adapter adds alpha / rank * B A x to the layers `targets` (ends of their names; none: all linear layers of the
    blocks). Optimizer: AdamW with betas 0.9 and 0.999 and eps 1e-8; the gradient's norm is cut at `clip`, 0 for never.
    Raises ValueError for values that cannot be trained with.
    """

    rank: int = 32
    alpha: float = 64.0
    targets: tuple[str, ...] = ()
    weight_decay: float = 0.0
    clip: float = 0.0

    def __post_init__(self) -> None:
        refuse_outside(self, rank=Bounds(0, MOST_RANK), alpha=Bounds(0, over=True))
        refuse_outside(self, weight_decay=Bounds(0, 1, under=True), clip=NOT_NEGATIVE)
