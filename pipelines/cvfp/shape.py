"""The size of a model, and what follows from it: its parameters and the memory that they take."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 4
"""Bytes of a number."""
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """`layers` blocks of a context and a token vector of `width` numbers each, over `vocabulary` tokens.

    `tied`: the head is the embedding's matrix, without a bias of its own.
    """

    vocabulary: int
    width: int
    layers: int
    tied: bool = False

    @property
    def blocks(self) -> int:
        """Parameters of the blocks: a matrix [2 d, 2 d] with a bias and two normalisations each."""
        both = 2 * self.width
        return self.layers * (both * both + both + 2 * both)

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.width

    @property
    def norm(self) -> int:
        """Of the embedded tokens."""
        return 2 * self.width

    @property
    def head(self) -> int:
        return 0 if self.tied else self.vocabulary * (self.width + 1)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.embedding + self.norm + self.blocks + self.head


GUIDE = Shape(50_257, 768, 6)
"""The model of the guide, with GPT-2's vocabulary: 91,429,969 parameters."""


def guide_memory(shape: Shape, tokens: int) -> dict[str, float]:
    """The rows of the guide's memory table in MiB, as it computes them.

    Its activations are those of all tokens at once, though it has one token's; gradients, logits and the metric's
    pairwise matrices are missing, and Adam has moments of parameters that are never trained. See `true_memory`.
    """
    rows = {
        "weights": FLOAT * shape.parameters / MIB,
        "adam": 2 * FLOAT * shape.parameters / MIB,
        "contexts": FLOAT * tokens * shape.width / MIB,
        "activations": FLOAT * tokens * (shape.layers + 1) * 2 * shape.width / MIB,
    }
    return {**rows, "total": sum(rows.values())}


SAVED = 9
"""Vectors of d numbers that a block saves of a token for its backward pass: the joined input (2), what ReLU kept (2),
sums and the inputs of both normalisations.
"""


def phase1_memory(shape: Shape, tokens: int, part: int) -> dict[str, float]:
    """MiB that phase 1 takes: all weights, gradients and Adam's moments of the blocks alone, contexts, one part's saved
    activations. `tokens`: of all documents; `part`: of those that are computed at once.
    """
    rows = {
        "weights": FLOAT * shape.parameters / MIB,
        "gradients and moments": 3 * FLOAT * shape.blocks / MIB,
        "contexts": 3 * 2 * tokens * shape.width / MIB,
        "activations": FLOAT * part * SAVED * shape.layers * shape.width / MIB,
    }
    return {**rows, "total": sum(rows.values())}


def phase2_memory(shape: Shape, batch: int, window: int, *, frozen: bool, chunk: int) -> dict[str, float]:
    """MiB that phase 2 takes. `batch` documents of `window` tokens are a step; `chunk`: rows of logits at once."""
    trained = shape.head + (0 if frozen else shape.norm + shape.blocks)
    rows = {
        "weights": FLOAT * shape.parameters / MIB,
        "gradients and moments": 3 * FLOAT * trained / MIB,
        "best weights": FLOAT * (shape.parameters - shape.embedding) / MIB,
        "activations": FLOAT * batch * window * SAVED * shape.layers * shape.width / MIB,
        "logits": FLOAT * chunk * shape.vocabulary / MIB,
    }
    return {**rows, "total": sum(rows.values())}
