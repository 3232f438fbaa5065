"""The memory plan of training: how many adapters and tokens a pass has, from what each takes of a device's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hybrid.errors import CannotRun

BYTES_PER_PARAMETER = 16
"""Bytes per trained parameter: its value, its gradient and AdamW's two moments, in fp32."""

FROZEN_BYTES_PER_PARAMETER = 5
"""Bytes in addition where an adapter starts from another one, which must not change: its values and a mask."""

ALIGNED = 8
"""Ranks are rounded up to a multiple of this, since torch's grouped_mm needs rows of a multiple of 16 bytes."""

PLANNABLE_FRACTION = 0.9
"""Fraction of the free memory that may be planned with: allocators lose some to fragmentation."""

RECOMPUTATION = 1.5
"""Operations of a pass whose layers are computed again: two forward passes and one backward instead of one and one."""


SMALLER = "take a smaller rank (--set rank=16), shorter texts, a smaller model or a larger device"
"""The hint of whatever does not fit."""


@dataclass(frozen=True, slots=True)
class PassCosts:
    """The peak of the bytes of a pass: for each slot, token, token of a text times tokens of that text, and label.

    `checkpointed`: with activation checkpointing. `passing` of the bytes of a token, and the squares, then exist only
    while a layer is computed again, when the logits are gone.
    """

    per_slot: int
    per_token: int
    per_square: float
    per_label: int
    checkpointed: bool = False
    passing: int = 0

    def of_text(self, tokens: int, labels: int) -> int:
        """The bytes of a text."""
        squares, logits = int(tokens * tokens * self.per_square), labels * self.per_label
        if self.checkpointed:
            return tokens * (self.per_token - self.passing) + max(tokens * self.passing + squares, logits)
        return tokens * self.per_token + squares + logits


def aligned(rank: int) -> int:
    """The rank of a bank for adapters of `rank`."""
    return -(-rank // ALIGNED) * ALIGNED


NO_COSTS = PassCosts(0, 0, 0.0, 0)
MEASURED_TOKENS = 48
"""Tokens of the longest pass that costs are measured with first."""


@dataclass(frozen=True, slots=True)
class Work:
    """What jobs ask of a pass: for each its largest text as (tokens, labels), and the mean tokens of a step.

    `parameters` is the number of trained parameters of an adapter. `frozen`: some adapters start from another one.
    """

    texts: Sequence[tuple[int, int]]
    step_tokens: float
    parameters: int
    frozen: bool = False

    @property
    def bytes_per_parameter(self) -> int:
        return BYTES_PER_PARAMETER + (FROZEN_BYTES_PER_PARAMETER if self.frozen else 0)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The limits of a pass: `slots` adapters, `tokens` tokens and `activations` bytes. One text is always allowed.

    `PassCosts` says what the activations of a text are. `per_slot` is the bytes of a slot, `free` the device's free
    bytes. `checkpointed`: layers are computed again in the backward pass.
    """

    slots: int
    tokens: int
    activations: int
    per_token: int
    per_label: int
    per_slot: int
    free: int
    per_square: float = 0.0
    checkpointed: bool = False
    passing: int = 0

    def cost(self, tokens: int, labels: int) -> int:
        """The bytes of activations of a text with so many tokens and labels."""
        costs = PassCosts(0, self.per_token, self.per_square, self.per_label, self.checkpointed, self.passing)
        return costs.of_text(tokens, labels)

    def halved(self, tokens: int, used: int) -> MemoryPlan:
        """The plan after a pass with so many tokens and bytes has run out of memory: half of it at a time."""
        return replace(self, tokens=max(1, tokens // 2), activations=max(1, used // 2))

    @property
    def peak(self) -> int:
        """Predicted peak of the bytes in addition to the model's weights."""
        return self.slots * self.per_slot + self.activations

    def tokens_in_flight(self, work: Work) -> int:
        """Tokens of a pass of such work: as many as the adapters of a pass have in a step, and as fit."""
        density = sum(self.cost(*text) for text in work.texts) / max(1, sum(tokens for tokens, _ in work.texts))
        return int(min(self.tokens, self.slots * work.step_tokens, self.activations / max(1.0, density)))

    def explain(self) -> str:
        """The arithmetic, for messages."""
        squares = f", {self.per_square:,.1f} a pair of tokens of a text" if self.per_square >= 0.1 else ""
        twice = ", each layer computed again in the backward pass" if self.checkpointed else ""
        return (
            f"{self.slots} adapters x {_mib(self.per_slot)} (values, gradients, moments) + {_mib(self.activations)} of "
            f"activations ({self.per_token:,} bytes a token{squares}, {self.per_label:,} a label{twice}), of "
            f"{_mib(self.free)} free"
        )


def plan_memory(work: Work, costs: PassCosts, *, slots: int, tokens: int, free: int) -> MemoryPlan:
    """The plan with the most tokens in flight, of up to `slots` adapters and `tokens` tokens. Of equal ones it is that
    with the most adapters. All largest texts fit.

    When a large text leaves room for one adapter only, there is one; the caller refuses jobs whose text does not fit
    even then. Raises CannotRun with the arithmetic when nothing fits.
    """
    room, each = int(free * PLANNABLE_FRACTION), work.bytes_per_parameter * work.parameters + costs.per_slot
    needs = [costs.of_text(*text) for text in work.texts]
    longest = max(count for count, _ in work.texts)
    most = max(*needs, int(tokens * (costs.per_token + longest * costs.per_square + costs.per_label)))
    plans = [
        MemoryPlan(
            count,
            tokens,
            min(room - count * each, most),
            costs.per_token,
            costs.per_label,
            each,
            free,
            costs.per_square,
            costs.checkpointed,
            costs.passing,
        )
        for count in range(slots, 0, -1)
        if room - count * each >= (max(needs) if count > 1 else min(needs))
    ]
    if not plans:
        count, labels = work.texts[needs.index(min(needs))]
        raise CannotRun(
            f"training does not fit: one adapter takes {_mib(each)} ({work.parameters:,} parameters x "
            f"{work.bytes_per_parameter} bytes, and {_mib(costs.per_slot)} in a pass) and a text {_mib(min(needs))} "
            f"({count:,} tokens x {costs.per_token:,} bytes + {labels:,} labels x {costs.per_label:,}); "
            f"{_mib(room)} of {_mib(free)} free may be used",
            hint=SMALLER,
        )
    return max(plans, key=lambda plan: plan.tokens_in_flight(work))


def not_measurable(work: Work, tokens: int, free: int) -> CannotRun:
    """The error where there is no memory for the passes of up to `tokens` tokens that a plan is measured with."""
    return CannotRun(
        f"training does not fit: passes of one adapter and at most {tokens} tokens, with which the plan is measured, "
        f"run out of memory; the adapter takes {_mib(work.bytes_per_parameter * work.parameters)} ({work.parameters:,} "
        f"parameters x {work.bytes_per_parameter} bytes), {_mib(free)} are free",
        hint=f"{SMALLER}; nvidia-smi lists the programs that use a GPU",
    )


def fastest(plans: Sequence[MemoryPlan], work: Work, half_speed: int) -> MemoryPlan:
    """The plan under which the fewest jobs have a text that does not fit; of these, the one that is expected to train
    the most tokens per second.

    A pass of `half_speed` tokens is expected to have half the speed of a long one.
    """

    def merit(plan: MemoryPlan) -> tuple[int, float]:
        tokens = plan.tokens_in_flight(work)
        fitting = sum(plan.cost(*text) <= plan.activations for text in work.texts)
        return fitting, tokens / (tokens + half_speed) / (RECOMPUTATION if plan.checkpointed else 1)

    return max(plans, key=merit)


HALF_SPEED, HALF_SPEED_CPU = 1024, 32
"""Tokens of a pass that has half the speed of a long one, on a GPU and on a CPU: an estimate."""


def choose_plan(
    costs_of: Callable[[bool], PassCosts | None],
    work_of: Callable[[PassCosts], Work],
    *,
    slots: int,
    tokens: int,
    free: int,
    cpu: bool,
    ways: Sequence[bool] = (False, True),
) -> MemoryPlan:
    """The plan that is expected to train the fastest, with activation checkpointing where memory limits a pass.

    `costs_of(checkpointed)` gives the costs of a pass, None without the memory to measure them; `work_of` the work, as
    far as it depends on these. `ways`: whether checkpointing may be considered. Raises CannotRun, with the arithmetic,
    when nothing fits.
    """
    plans, refused, work = list[MemoryPlan](), None, None
    for checkpointed in ways:
        costs = costs_of(checkpointed)
        if costs is None:
            refused = not_measurable(work_of(NO_COSTS), MEASURED_TOKENS, free)
            continue
        work = work_of(costs)
        try:
            plans.append(plan_memory(work, costs, slots=slots, tokens=tokens, free=free))
        except CannotRun as error:
            refused = error
            continue
        if plans[-1].tokens_in_flight(work) >= int(min(tokens, slots * work.step_tokens)):
            break
    if work is None or not plans:
        raise refused or ValueError("there was nothing to plan")
    return fastest(plans, work, HALF_SPEED_CPU if cpu else HALF_SPEED)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
