"""The size of a model, and what follows from it: its parameters and the memory that they take."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 4
"""Bytes of a number."""
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """`layers` blocks of a context and a token vector of `width` numbers each, over `vocabulary` tokens.

    `tied`: the head is the embedding's matrix, without a bias of its own. `both`: it reads context and token vector,
    not the latter alone.
    """

    vocabulary: int
    width: int
    layers: int
    tied: bool = False
    both: bool = False

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
    def read(self) -> int:
        """Numbers that the head reads of a token."""
        return 2 * self.width if self.both else self.width

    @property
    def head(self) -> int:
        return 0 if self.tied else self.vocabulary * (self.read + 1)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.embedding + self.norm + self.blocks + self.head


GUIDE = Shape(50_257, 768, 6)
"""The model of the guide, with GPT-2's vocabulary: 91,429,969 parameters."""


def guide_memory(shape: Shape, tokens: int) -> dict[str, float]:
    """The rows of the guide's memory table in MiB, as it computes them.

    Its activations are those of all tokens at once, though it has one token's; gradients, logits and the metric's
    pairwise matrices are missing, and Adam has moments of parameters that are never trained.
    """
    rows = {
        "weights": FLOAT * shape.parameters / MIB,
        "adam": 2 * FLOAT * shape.parameters / MIB,
        "contexts": FLOAT * tokens * shape.width / MIB,
        "activations": FLOAT * tokens * (shape.layers + 1) * 2 * shape.width / MIB,
    }
    return {**rows, "total": sum(rows.values())}


SAVED, BESIDE, ALONE = 6, 11, 4
"""Vectors of d numbers of a token at the peak of a pass: those that a block saves for its backward pass (the joined
input, what ReLU kept, the inputs of both normalisations), and those that there are once: embedded tokens, contexts of
the sweep before, what losses need. Where no gradient passes back through the blocks there are the last alone.
"""


def phase1_memory(shape: Shape, tokens: int, part: int) -> dict[str, float]:
    """MiB that phase 1 takes: all weights, Adam's moments of the blocks alone, contexts, and a pass over one part.

    `tokens`: of all documents; `part`: of those that are computed at once. Gradients come as saved vectors go.
    """
    rows = {
        "weights": FLOAT * shape.parameters / MIB,
        "moments": 2 * FLOAT * shape.blocks / MIB,
        "contexts": 3 * 2 * tokens * shape.width / MIB,
        "pass": max(_saved(shape, part), FLOAT * shape.blocks / MIB),
    }
    return {**rows, "total": sum(rows.values())}


def phase2_memory(shape: Shape, batch: int, window: int, *, frozen: bool, chunk: int) -> dict[str, float]:
    """MiB that phase 2 takes. `batch` documents of `window` tokens are a step; `chunk`: rows of logits at once.

    The head's gradient, or the errors of all logits where these are smaller (`holds_errors`), are there while the
    blocks' saved vectors are; the gradients of blocks come as these go.
    """
    trained, tokens = shape.head + (0 if frozen else shape.norm + shape.blocks), batch * window
    blocks = 0.0 if frozen else FLOAT * (shape.norm + shape.blocks) / MIB
    saved, a_row = _saved(shape, tokens, passes_back=not frozen), FLOAT * shape.vocabulary / MIB
    if not shape.tied and holds_errors(tokens, shape.read):
        step = tokens * a_row + max(saved, blocks)
    else:
        step = FLOAT * shape.head / MIB + max(saved + min(chunk, tokens) * a_row, blocks)
    rows = {
        "weights": FLOAT * shape.parameters / MIB,
        "moments": 2 * FLOAT * trained / MIB,
        "best weights": FLOAT * (shape.parameters - shape.embedding) / MIB,
        "pass": step,
    }
    return {**rows, "total": sum(rows.values())}


def holds_errors(rows: int, width: int) -> bool:
    """Whether the errors of so many rows, of `width` numbers each, are smaller than the head's gradient."""
    return rows <= width


def _saved(shape: Shape, tokens: int, *, passes_back: bool = True) -> float:
    """MiB of the vectors of a pass over so many tokens; blocks save none where no gradient passes back."""
    vectors = SAVED * shape.layers + BESIDE if passes_back else ALONE
    return FLOAT * tokens * vectors * shape.width / MIB
