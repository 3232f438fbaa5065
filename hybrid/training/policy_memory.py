"""The memory of policies in training: what the plain way takes, what this one does, and the plan that refuses before.

All of it is arithmetic and needs no torch: what a pass takes of a device's memory is measured elsewhere
(`policy_measure`).
"""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.errors import CannotRun
from hybrid.training.memory import BYTES_PER_PARAMETER, PLANNABLE_FRACTION

GIB = 2**30
LIVE_LOGITS = 4.05
"""Copies of the fp32 logits that exist at the peak of a plain backward pass of GRPO."""
ALLOCATOR_SLACK, CONTEXT_BYTES = 1.1, int(0.4 * GIB)
"""What a process takes beyond what is allocated: fragments, and the context of CUDA."""
WEIGHT_AND_MOMENTS, GRADIENT = 12, 4
"""Bytes a parameter in fp32: a node's own, and that of the node that trains."""


PASS_TOKENS = 16384
"""Tokens of a pass on a GPU. More are no faster, and take memory."""
CPU_TOKENS, CPU_NUMBERS = (1024, 4096), 1 << 18
"""Tokens of a pass on a CPU: as many as have so many numbers in a layer. A narrow model needs more to be fast."""
CHUNK_NUMBERS, CPU_CHUNK_NUMBERS = 1 << 27, 1 << 24
"""Logits of a chunk of labels on a GPU and on a CPU: 512 and 64 MiB in fp32. More are no faster."""


def tokens_of_a_pass(width: int, *, cpu: bool) -> int:
    """The tokens of a pass of a model so wide, unless memory is lacking."""
    least, most = CPU_TOKENS
    return min(most, max(least, CPU_NUMBERS // width)) if cpu else PASS_TOKENS


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a causal model: parameters (tied ones once), words, layers, and the width of what they give to each other."""

    parameters: int
    vocabulary: int
    layers: int
    width: int


def plain_bytes(shape: Shape, sequences: int, completion: int, tokens: int) -> int:
    """The allocated peak of full fine-tuning of one node in the plain way: fp32, checkpointed layers, whole logits.

    `sequences` of `tokens` tokens in a backward pass, the last `completion` of them labels. Gradients are not counted:
    they are small while all logits are alive.
    """
    logits = LIVE_LOGITS * 4 * sequences * completion * shape.vocabulary
    inputs = 4 * shape.layers * sequences * tokens * shape.width
    return int(WEIGHT_AND_MOMENTS * shape.parameters + logits + inputs)


def process_bytes(allocated: int) -> int:
    """What a process with such an allocated peak takes of a GPU."""
    return int(ALLOCATOR_SLACK * allocated + CONTEXT_BYTES)


def full_bytes(parameters: int, nodes: int) -> int:
    """What `nodes` fully fine-tuned policies hold beside the model that they begin with: weights and moments of each,
    and one gradient.
    """
    return parameters * (WEIGHT_AND_MOMENTS * nodes + GRADIENT)


def adapter_bytes(parameters: int, nodes: int) -> int:
    """What the adapters of `nodes` policies with so many parameters each hold, beside the frozen base model."""
    return BYTES_PER_PARAMETER * parameters * nodes


@dataclass(frozen=True, slots=True)
class PassBytes:
    """Bytes of a pass: `fixed`, and for each token and each key that a rectangle of attention has."""

    fixed: float
    per_token: float
    per_key: float

    def of(self, tokens: int, keys: int) -> int:
        """The bytes of a pass with so many tokens and keys."""
        return int(self.fixed + tokens * self.per_token + keys * self.per_key)


@dataclass(frozen=True, slots=True)
class PassCosts:
    """What a pass takes: `kept` between its two halves, to which the head's chunk comes, and `peak` in the second.

    `embedding`: of the gradient of the word embedding, which comes last, where that is trained. `per_label` of a label,
    and `per_logits` of one in a chunk, of which there are at most `chunk`.
    """

    kept: PassBytes
    peak: PassBytes
    embedding: int
    per_label: int
    per_logits: int
    chunk: int
    checkpointed: bool = False

    def of(self, tokens: int, keys: int, labels: int) -> int:
        """The bytes of a pass with so many tokens, keys and labels."""
        head = min(labels, self.chunk) * self.per_logits
        passing = max(self.kept.of(tokens, keys) + head, self.peak.of(tokens, keys), self.embedding)
        return labels * self.per_label + passing


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """The limits of a pass: `tokens`, and `room` bytes beside the `held` ones of the policies, of `free`.

    `arithmetic` says what is held.
    """

    tokens: int
    room: int
    held: int
    free: int
    arithmetic: str
    costs: PassCosts

    def allows(self, tokens: int, keys: int, labels: int) -> bool:
        """Whether the bytes of a pass are within the room."""
        return self.costs.of(tokens, keys, labels) <= self.room

    def explain(self) -> str:
        """The arithmetic, for messages."""
        each = self.costs.kept
        twice = ", each layer computed again in the backward pass" if self.costs.checkpointed else ""
        return (
            f"{self.arithmetic}; {_gib(max(0, self.room))} for passes of up to {self.tokens:,} tokens "
            f"({int(each.per_token):,} bytes a token{twice}, logits {_gib(self.costs.chunk * self.costs.per_logits)})"
        )


def refuse_held(held: int, free: int, arithmetic: str) -> None:
    """Raise CannotRun for policies that do not fit beside each other, before any is made."""
    if held > free * PLANNABLE_FRACTION:
        raise CannotRun(
            f"the policies do not fit: {arithmetic} = {_gib(held)}; {_gib(int(free * PLANNABLE_FRACTION))} of "
            f"{_gib(free)} free may be used",
            hint="take fewer nodes, adapters instead of full fine-tuning (--set rank=8), a smaller model or a larger "
            "device",
        )


def refuse_state(parameters: int, nodes: int, most: int) -> None:
    """Raise CannotRun for policies whose state, weights and moments of all, has more than `most` bytes."""
    size = WEIGHT_AND_MOMENTS * parameters * nodes
    if size > most:
        raise CannotRun(
            f"the policies' state cannot be kept: {WEIGHT_AND_MOMENTS} bytes x {parameters:,} parameters x {nodes} "
            f"nodes = {_gib(size)}; {_gib(most)} are the most",
            hint="take one node a machine (--set exchange=folder), fewer nodes, or adapters (--set rank=8)",
        )


def plan_passes(held: int, free: int, arithmetic: str, costs: PassCosts, *, tokens: int, least: int) -> PolicyPlan:
    """The plan of passes of up to `tokens` tokens. Raises CannotRun where a text of `least` tokens does not fit."""
    room = int(free * PLANNABLE_FRACTION) - held
    plan = PolicyPlan(tokens, room, held, free, arithmetic, costs)
    if not plan.allows(least, least, least):
        raise CannotRun(
            f"training the policies does not fit: {plan.explain()}; a text of {least} tokens takes "
            f"{_gib(costs.of(least, least, least))}, of {_gib(free)} free",
            hint="take fewer nodes, a smaller rank, a smaller model or a larger device",
        )
    return plan


def describe_full(parameters: int, nodes: int) -> str:
    """The arithmetic of `full_bytes`."""
    return f"{WEIGHT_AND_MOMENTS} bytes x {parameters:,} parameters x {nodes} nodes + {GRADIENT} x {parameters:,}"


def describe_adapters(parameters: int, nodes: int) -> str:
    """The arithmetic of `adapter_bytes`."""
    return f"{BYTES_PER_PARAMETER} bytes x {parameters:,} parameters of an adapter x {nodes} nodes"


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f} GiB"
