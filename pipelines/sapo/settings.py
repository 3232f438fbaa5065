"""The settings of the pipeline `sapo`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

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
from hybrid.tuning import MOST_RANK, PolicyTuning
from pipelines.sapo.arms import arm_of

TaskName = Literal[
    "base_conversion", "basic_arithmetic", "arc_1d", "bf", "propositional_logic", "fraction_simplification",
    "decimal_arithmetic", "calendar_arithmetic", "binary_matrix",
]  # fmt: skip
PAPER: tuple[TaskName, ...] = (
    "base_conversion", "basic_arithmetic", "arc_1d", "bf", "propositional_logic", "fraction_simplification",
    "decimal_arithmetic", "calendar_arithmetic", "binary_matrix",
)  # fmt: skip
"""The tasks of the paper."""
MOST_NODES = 64
MOST_TOKENS = 500_000
"""Tokens of all answers to a question: they are published together."""
CLIP = 0.2, 0.28
"""The paper's clip, which is without effect as long as a round has one update."""
SHARING = "shortfall", "foreign_ids", "importance_cap", "most_of_one"
"""Settings of what is taken of others."""


@dataclass(frozen=True)
class SapoSettings:
    """Which arms on which tasks, how nodes write and share rollouts, and how they train."""

    arms: tuple[str, ...] = field(
        default=("8-0", "4-4"),
        metadata=help_of(
            "which are compared: OWN-FOREIGN rollouts of a node's training set; filter-only-4-4 and equal-compute-4-4"
            " are controls of 4-4"
        ),
    )
    seeds: tuple[int, ...] = field(default=(0,), metadata=help_of("each arm is run once for each"))
    nodes: int = field(default=8, metadata=help_of("policies that train side by side"))
    rounds: int = field(default=100, metadata=help_of("how often every node writes, shares and trains"))
    group: int = field(default=8, metadata=help_of("completions of a question, whose rewards are compared"))
    tasks: tuple[TaskName, ...] = field(default=PAPER, metadata=help_of("each question is of one of them, drawn anew"))
    level: Literal["paper", "rl-swarm", "easy"] = field(
        default="paper",
        metadata=help_of(
            "paper: reasoning-gym's defaults; rl-swarm: as that program sets them; easy: for small models"
        ),
    )
    questions: Literal["own", "shared"] = field(
        default="own", metadata=help_of("own: every node draws its own questions; shared: all get the same")
    )
    scoring: Literal["strict", "paper"] = field(
        default="strict", metadata=help_of("strict: 1 for a right answer, else 0; paper: reasoning-gym's, with floors")
    )
    prefix: str = field(
        default="", metadata=help_of("text that every completion begins with, such as <answer>; models add the rest")
    )
    temperature: float = field(default=1.0, metadata=help_of("of sampling and of the loss"))
    top_p: float = field(default=1.0, metadata=help_of("nucleus sampling"))
    max_tokens: int = field(default=256, metadata=help_of("new tokens of a completion"))
    foreign: Literal["uniform-nonzero", "uniform", "best-total", "first", "fixed-positions"] = field(
        default="uniform-nonzero",
        metadata=help_of("which foreign rollouts are taken; uniform-nonzero: the paper's, those with unequal rewards"),
    )
    most_of_one: int = field(
        default=0,
        metadata=help_of(
            "foreign rollouts that one node may have in a training set, but never less than its even share; 0: any"
            " number, the paper"
        ),
    )
    max_age: int = field(default=0, metadata=help_of("rounds that a foreign rollout may be old; 0: of the same round"))
    shortfall: Literal["short", "own"] = field(
        default="short", metadata=help_of("too few foreign ones: train on less, or on more questions of one's own")
    )
    foreign_ids: bool = field(
        default=False, metadata=help_of("train on the sender's token ids where the tokenizer is the same, not the text")
    )
    importance_cap: float = field(
        default=0.0,
        metadata=help_of("largest weight of a foreign token, new probability / old one; 0: no such weights, the paper"),
    )
    advantage: Literal["scaled", "centred"] = field(
        default="scaled", metadata=help_of("reward minus its group's mean, divided by the standard deviation or not")
    )
    normalise: Literal["tokens", "sequences", "constant"] = field(
        default="tokens", metadata=help_of("what the loss is divided by; tokens: all of the training set's completions")
    )
    updates: int = field(default=1, metadata=help_of("optimizer steps on a round's training set"))
    clip_low: float = field(default=CLIP[0], metadata=help_of("with updates > 1: the ratio is cut below 1 - this"))
    clip_high: float = field(default=CLIP[1], metadata=help_of("with updates > 1: the ratio is cut above 1 + this"))
    learning_rate: float = field(default=1e-5, metadata=help_of("of AdamW, constant"))
    rank: int = field(default=32, metadata=help_of("of the nodes' adapters; 0: all parameters of a model a node"))
    scale: float = field(default=2.0, metadata=help_of("alpha / rank of an adapter: its update is scale * B A"))
    targets: tuple[str, ...] = field(default=(), metadata=help_of("adapted layers; empty: all linear ones in blocks"))
    weight_decay: float = field(default=0.0, metadata=help_of("of AdamW"))
    max_norm: float = field(default=0.0, metadata=help_of("a node's gradient is cut to this norm; 0: never"))
    warm_up: int = field(
        default=0,
        metadata=help_of("supervised steps on the format of answers before the first round; results name them"),
    )
    eval_every: int = field(default=10, metadata=help_of("rounds between two tests on held-out questions; 0: none"))
    eval_questions: int = field(default=16, metadata=help_of("held-out questions, each answered once, greedily"))
    publish_every: int = field(
        default=10, metadata=help_of("with exchange=memory: rounds whose rollouts are one file in the run's folder")
    )
    exchange: Literal["memory", "folder"] = field(
        default="memory",
        metadata=help_of("memory: one worker trains all nodes side by side; folder: every node is a series of its own"),
    )
    barrier: Literal["quorum", "deadline", "async"] = field(
        default="quorum",
        metadata=help_of(
            "with exchange=folder, what a node waits for: a share of the others, all of them for a time, or nothing"
        ),
    )
    quorum: float = field(
        default=1.0, metadata=help_of("with barrier=quorum: share of the other nodes that have written in this round")
    )
    deadline: float = field(
        default=900.0,
        metadata=help_of(
            "seconds: barrier=deadline waits no longer in a round; with quorum too, a node that was waited for so long"
            " in all is gone until it is heard of"
        ),
    )

    def __post_init__(self) -> None:
        refuse_outside(
            self, nodes=Bounds(1, MOST_NODES), rounds=Bounds(1, 100_000), group=Bounds(2, 256),
            temperature=Bounds(0, 10, over=True), top_p=SHARE, max_tokens=Bounds(1, 100_000), max_age=Bounds(0, 1000),
            most_of_one=NOT_NEGATIVE,
            importance_cap=Bounds(0, 1000), updates=Bounds(1, 100), clip_low=Bounds(0, 1, over=True),
            clip_high=Bounds(0, 100, over=True), learning_rate=SHARE, rank=Bounds(0, MOST_RANK),
            scale=Bounds(0, 1000, over=True), weight_decay=Bounds(0, 1, under=True), max_norm=NOT_NEGATIVE,
            warm_up=Bounds(0, 100_000), eval_every=NOT_NEGATIVE, eval_questions=Bounds(1, 10_000),
            publish_every=Bounds(1, 1000), quorum=SHARE, deadline=Bounds(0, 1e9, over=True),
        )  # fmt: skip
        refuse_repeats(self, "arms", "seeds", "tasks")
        refuse_each_outside(self, seeds=SEED)
        if self.group * self.max_tokens > MOST_TOKENS:
            raise ValueError(
                f"group={self.group}, max_tokens={self.max_tokens}: more than {MOST_TOKENS:,} tokens a question"
            )
        if len(self.prefix) > 1000:
            raise ValueError("prefix has more than 1,000 characters")
        self._check_sharing()
        self._check_idle()

    def _check_sharing(self) -> None:
        """Raise ValueError for arms that cannot share as they are to."""
        try:
            arms = [arm_of(name) for name in self.arms]
        except ValueError as error:
            raise ValueError(f"arms: {error}") from error
        shared = max(arm.shared for arm in arms)
        if shared and self.nodes == 1:
            raise ValueError(f"arms: {shared} rollouts of others, and nodes=1 has no others")
        if any(arm.repeated for arm in arms) and not self.max_age:
            raise ValueError("arms: filter-only repeats a node's rollouts of earlier rounds; set max_age, 1 or more")

    def _check_idle(self) -> None:
        """Raise ValueError for settings that would do nothing."""
        if self.updates == 1 and (self.clip_low, self.clip_high) != CLIP:
            raise ValueError("clip_low, clip_high: with updates=1 the ratio is 1, so they would do nothing")
        arms = [arm_of(name) for name in self.arms]
        memory, shares = self.exchange == "memory", any(arm.shared for arm in arms)
        takes = shares or any(arm.repeated for arm in arms)
        self._refuse_set(
            memory, "is for exchange=folder: in memory all nodes are in time", "barrier", "quorum", "deadline"
        )
        self._refuse_set(
            not shares, "is of what nodes wait for, and without an arm that shares none waits", "barrier", "deadline"
        )
        self._refuse_set(not memory, "is for exchange=memory: in the folder every round is published", "publish_every")
        self._refuse_set(self.barrier != "quorum", f"is for barrier=quorum, and barrier is {self.barrier}", "quorum")
        self._refuse_set(
            self.barrier == "async", "is of what is waited for, and barrier=async waits for none", "deadline"
        )
        self._refuse_set(not shares, "is for arms that share, and there is none", *SHARING)
        self._refuse_set(
            not takes, "is for arms that take rollouts of others or of earlier rounds", "foreign", "max_age"
        )
        self._refuse_set(
            not self.rank, "is of adapters, and with rank=0 all parameters are trained", "scale", "targets"
        )
        if self.importance_cap and not self.foreign_ids:
            raise ValueError("importance_cap needs foreign_ids: old probabilities are of the tokens of who wrote them")

    def _refuse_set(self, idle: bool, why: str, *names: str) -> None:
        """Raise ValueError for the first of these settings that is not at its default, when all are `idle`."""
        defaults = {one.name: one.default for one in fields(SapoSettings)}
        if wrong := [name for name in names if idle and getattr(self, name) != defaults[name]]:
            raise ValueError(f"{wrong[0]} {why}")

    def tuning(self) -> PolicyTuning:
        """How the policies are trained."""
        return PolicyTuning(self.rank, self.scale * max(1, self.rank), self.targets, self.weight_decay, self.max_norm)
