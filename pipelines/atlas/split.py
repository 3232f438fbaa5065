"""Where to cut a model between a client and a server: the client's memory, the bytes that cross, the time of a step.

In split learning the client holds the embeddings and the first blocks, the server the others and the head. Each step
sends the activations of every token up and their gradients down, so a cut saves memory of the client and costs traffic:
thousands of times that of an adapter. The activations at a cut have the same size wherever it is.

`hybrid.training.crossing` computes such steps and counts the same bytes, but for the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.atlas.rank_budget import held_bytes
from pipelines.atlas.virtual_clock import Device, training_operations

VALUE_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
ROW_BYTES = {"fp32": 0, "fp16": 0, "int8": 4}
"""Of each token beside its values: their scale."""
TENSOR_BYTES = {"fp32": 0, "fp16": 4, "int8": 0}
"""Of all tokens together."""
LABEL_BYTES = 8
"""Of each text: its label and its length."""


class NoCutFits(ValueError):
    """No cut fits into the memory of a device: the smallest needs `needed` bytes."""

    def __init__(self, needed: int, memory: int) -> None:
        super().__init__(f"even one block on the client needs {needed:,} bytes, and it has {memory:,}")
        self.needed, self.memory = needed, memory


@dataclass(frozen=True, slots=True)
class Shape:
    """A model as a cut sees it: numbers of the embeddings and of each block, and the width of what crosses.

    `adapters`: trained numbers of each block. `token_bytes`: bytes of the activations of a token in one block while it
    is trained, as measured. `number`: bytes of a frozen number.
    """

    embeddings: int
    blocks: Sequence[int]
    width: int
    adapters: Sequence[int]
    token_bytes: float
    number: int = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """The texts of an optimizer step, and their tokens without padding."""

    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut after so many blocks: bytes that the client holds, bytes of a step up and down, and seconds of a step."""

    after: int
    memory: int
    up: int
    down: int
    seconds: float


def crossing_bytes(shape: Shape, batch: Batch, after: int, kind: str = "fp32") -> tuple[int, int]:
    """Bytes of a step up and down: activations and labels, and gradients. Nothing with all blocks on one side."""
    if after in (0, len(shape.blocks)):
        return 0, 0
    rows = batch.tokens * (shape.width * VALUE_BYTES[kind] + ROW_BYTES[kind]) + TENSOR_BYTES[kind]
    return rows + batch.texts * LABEL_BYTES, rows if any(shape.adapters[:after]) else 0


def cut_after(shape: Shape, batch: Batch, after: int, client: Device, server: Device, kind: str = "fp32") -> Cut:
    """What a cut costs. The client waits for the server, whose time on its own link is not counted."""
    if not 0 <= after <= len(shape.blocks):
        raise ValueError(f"a cut after block {after} of {len(shape.blocks)}")
    up, down = crossing_bytes(shape, batch, after, kind)
    parts = (sum(shape.blocks[:after]), sum(shape.blocks[after:]))
    speeds = (client.speed, server.speed)
    seconds = up / client.up + down / client.down
    seconds += sum(
        training_operations(part, batch.tokens) / speed for part, speed in zip(parts, speeds, strict=True) if part
    )
    base = (shape.embeddings + parts[0]) * shape.number if after else 0
    memory = held_bytes(base, batch.tokens, shape.token_bytes * after, head=sum(shape.adapters[:after]), reserve=0.0)
    return Cut(after, memory, up, down, seconds)


def best_cut(shape: Shape, batch: Batch, client: Device, server: Device, kind: str = "fp32") -> Cut:
    """The cut with the fastest step of those that fit into the client's memory; of equal ones that of fewer blocks.

    At least one block is on the client, since with none its texts would leave it. All of them are no cut: the model is
    on the client alone. Raises NoCutFits.
    """
    cuts = [cut_after(shape, batch, after, client, server, kind) for after in range(1, len(shape.blocks) + 1)]
    fitting = [one for one in cuts if one.memory <= client.memory]
    if not fitting:
        raise NoCutFits(cuts[0].memory, client.memory)
    return min(fitting, key=lambda one: (one.seconds, one.after))
