"""The fine-tuning of a policy on what was rewarded, which both pipelines of ReST-EM do alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from hybrid.canonical import Json
from hybrid.tuning import Tuning

POLICY_SETTINGS = "learning_rate", "epochs", "rank", "alpha", "batch"
"""The settings `policy_NAME`, which are the NAME of its tuning."""


class PolicySettings(Protocol):
    """The settings that shape it."""

    @property
    def policy_learning_rate(self) -> float: ...
    @property
    def policy_epochs(self) -> int: ...
    @property
    def policy_rank(self) -> int: ...
    @property
    def policy_alpha(self) -> float: ...
    @property
    def policy_batch(self) -> int: ...
    @property
    def clip(self) -> float: ...
    @property
    def padding(self) -> Literal["masked", "seal"]: ...
    @property
    def seed(self) -> int: ...


def policy_tuning(settings: PolicySettings, targets: tuple[str, ...], examples: Mapping[str, Json]) -> Tuning:
    """The tuning of the layers `targets`, as SEAL's: no warm-up, a loss on what the policy wrote; the adapter is kept
    for later stages. Raises ValueError for settings that cannot be trained with.
    """
    return Tuning(
        examples,
        learning_rate=settings.policy_learning_rate,
        epochs=settings.policy_epochs,
        rank=settings.policy_rank,
        alpha=settings.policy_alpha,
        targets=targets,
        batch=settings.policy_batch,
        warmup=0,
        clip=settings.clip,
        padding=settings.padding,
        seed=settings.seed,
        keep=True,
    )
