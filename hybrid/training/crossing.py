"""A model that is cut in two: what its first blocks give to the others, and the gradients that come back, as sent.

Split learning (SplitLoRA, arXiv 2407.00952) has the first blocks on a client and the others on a server. Here both are
in one process; the tensors at the cut are detached, put into the form in which they would be sent, counted, and read
from it. So the server's part knows nothing of the client's but what was sent, and in fp32 the result is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hybrid.errors import CannotRun

Sent = tuple[torch.Tensor, ...]
FORMATS = ("fp32", "fp16", "int8")
LARGEST = 127.0
"""What the largest number becomes when it is scaled."""


@dataclass(slots=True)
class Crossing:
    """What crossed a cut so far: bytes to the server and back, and the squares of what their rounding lost."""

    format: str = "fp32"
    up: int = 0
    down: int = 0
    lost: torch.Tensor | float = 0.0
    total: torch.Tensor | float = 0.0

    @property
    def error(self) -> float:
        """The relative error of all that was sent, in the Euclidean norm."""
        total = float(self.total)
        return math.sqrt(float(self.lost) / total) if total else 0.0

    def received(self, tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
        """What arrives of a tensor, in its own type, and the bytes that it takes."""
        sent = encoded(tensor, self.format)
        found = decoded(sent).to(tensor.dtype)
        self.lost = self.lost + (found - tensor).double().square().sum()
        self.total = self.total + tensor.double().square().sum()
        return found, sum(one.numel() * one.element_size() for one in sent)


def encoded(tensor: torch.Tensor, kind: str) -> Sent:
    """The tensors that are sent for one: fp32; fp16 with one scale, since gradients may be below its numbers; int8 with
    a scale for each row.
    """
    rows = tensor.float()
    if kind == "fp32":
        return (rows,)
    whole = kind == "fp16"
    scales = (rows.abs().amax() if whole else rows.abs().amax(dim=-1, keepdim=True)) / LARGEST
    rows = rows / scales.clamp_min(torch.finfo(torch.float32).tiny)
    return rows.to(torch.float16) if whole else rows.round_().to(torch.int8), scales


def decoded(sent: Sent) -> torch.Tensor:
    """The tensor that was sent, as far as it was."""
    values, *scales = sent
    return values.float() * scales[0] if scales else values


class _Cut(torch.autograd.Function):  # type: ignore[misc]
    """What arrives, forward and backward."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, crossing: Crossing) -> torch.Tensor:
        ctx.crossing = crossing
        found, size = crossing.received(rows)
        crossing.up += size
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        found, size = ctx.crossing.received(grads[0])
        ctx.crossing.down += size
        return found, None


def blocks_of(model: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """The blocks of a transformer in their order. Raises CannotRun for a model in which they are not to be found."""
    for path in ("encoder.layer", "transformer.layer", "h", "layers"):
        try:
            found = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, torch.nn.ModuleList):
            return list(found)
    raise CannotRun(f"{type(model).__name__} cannot be cut: its blocks are not known")


@contextmanager
def cut(model: torch.nn.Module, after: int, kind: str = "fp32") -> Iterator[Crossing]:
    """Within this context, what the first `after` blocks of a base model give to the others crosses a cut.

    With 0 or all blocks nothing does: the model is in one place. Raises CannotRun for more blocks than there are.
    """
    blocks = blocks_of(model)
    if not 0 <= after <= len(blocks) or kind not in FORMATS:
        raise CannotRun(
            f"a cut after block {after} in {kind}: there are {len(blocks)} blocks, and {', '.join(FORMATS)}"
        )
    crossing = Crossing(kind)
    if after in (0, len(blocks)):
        yield crossing
        return
    hook = blocks[after - 1].register_forward_hook(_sends(crossing))
    try:
        yield crossing
    finally:
        hook.remove()


def _sends(crossing: Crossing) -> Callable[[Any, Any, Any], Any]:
    """A hook that replaces the rows which a block returns, alone or first of several values."""

    def send(_: Any, __: Any, given: Any) -> Any:
        if isinstance(given, tuple):
            return (_Cut.apply(given[0], crossing), *given[1:])
        return _Cut.apply(given, crossing)

    return send
