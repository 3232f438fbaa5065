"""What contexts are like: how many directions they use, whether they forget their past, and whether they use it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pipelines.cvfp.execution import exact, shifted, sweep
from pipelines.cvfp.model import Model
from pipelines.cvfp.settings import BOUND, MOST_SWEEPS

SMALL = 1e-3
"""Length of the perturbation whose growth is measured, of vectors with length sqrt(d)."""
ROWS, STRIPS = 2048, 8
"""Rows that are multiplied at once, and strips of the columns of a Gram matrix."""
DOUBT = 2e-8
"""Part of an effective rank that the rounding of float32 may move."""
CONVERGED = 0.05
"""Mean squared change below which the guide calls a token converged."""


def effective_rank(contexts: torch.Tensor) -> float:
    """exp of the entropy of the singular values, each over their sum, of uncentred rows [N, d].

    Roy and Vetterli 2007. By the eigenvalues of the Gram matrix [d, d], a block of rows at a time, so that N does not
    matter for the memory. Blocks of many rows are multiplied in float32 and added in float64, if that changes next to
    nothing; else all is in float64. Singular values below 1e-8 of the largest are rounding, and 0. Raises ValueError
    for contexts that are not finite.
    """
    rows = contexts.reshape(-1, contexts.shape[-1])
    if len(rows) > 4 * ROWS and contexts.dtype != torch.float64:
        gram = _gram(rows, torch.float32)
        found = _rank(gram)
        if abs(_rank(gram + _rounding(rows)) - found) < DOUBT * found:
            return found
    return _rank(_gram(rows, torch.float64))


def _rank(gram: torch.Tensor) -> float:
    """The effective rank of rows, of the lower triangle of their Gram matrix [d, d]."""
    if not bool(gram.isfinite().all()):
        raise ValueError("contexts are not finite")
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    values = values[values > 1e-8 * values.max()]
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return math.exp(float(-(shares * shares.log()).sum()))


def _rounding(rows: torch.Tensor) -> torch.Tensor:
    """What float32 does to the Gram matrix of all rows, as far as one block from all over tells: errors of blocks are
    independent, so that of n blocks is sqrt(n) times as large (Higham and Mary 2019).
    """
    some = rows[:: len(rows) // ROWS][:ROWS]
    return (len(rows) / len(some)) ** 0.5 * (_gram(some, torch.float32) - _gram(some, torch.float64))


def _gram(rows: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """The lower triangle of the Gram matrix [d, d], its products of `precision`, by strips of columns: the other half
    is its mirror.
    """
    width = rows.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64)
    strip = max(1, width // STRIPS)
    for block in rows.split(ROWS):
        wide = block.to("cpu", precision)
        for start in range(0, width, strip):
            gram[start:, start : start + strip] += wide[:, start:].T @ wide[:, start : start + strip]
    return gram


def rank_of_noise(rows: int, width: int, seed: int = 0) -> float:
    """The effective rank of as many independent Gaussian rows, normalised as contexts are: what no structure has.

    It depends on the number of rows: at d = 768, 0.58 d with 500 rows, 0.91 d with 1,280 and 0.998 d with 100,000.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, width, generator=generator)
    return effective_rank(torch.nn.functional.layer_norm(noise, (width,)))


def growth(model: Model, tokens: torch.Tensor, seed: int = 0) -> float:
    """By what factor a small change of the context grows per token: below 1 the past is forgotten.

    The geometric mean over documents [B, T, d] and tokens; the change is scaled back after each token. The first
    quarter of the tokens is not counted: a context that is 0 has no direction, which the normalisation would blow up.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(tokens.shape[0], tokens.shape[2], generator=generator).to(tokens)
    context, total, first = torch.zeros_like(direction), 0.0, tokens.shape[1] // 4
    for place in range(first):
        context, _ = model.step(context, tokens[:, place])
    moved = context + SMALL * direction / direction.norm(dim=-1, keepdim=True)
    for place in range(first, tokens.shape[1]):
        context, _ = model.step(context, tokens[:, place])
        moved, _ = model.step(moved, tokens[:, place])
        gap = moved - context
        length = gap.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        total += float((length / SMALL).log().mean())
        moved = context + SMALL * gap / length
    return math.exp(total / (tokens.shape[1] - first))


def context_use(model: Model, tokens: torch.Tensor, contexts: torch.Tensor, seed: int = 0) -> float:
    """How far a token's next context moves when it is given another token's context: 0 is blind, 1 fully driven.

    The mean distance, over that of two tokens' next contexts.
    """
    generator = torch.Generator().manual_seed(seed)
    given = shifted(contexts).reshape(-1, contexts.shape[-1])
    asked = tokens.reshape(-1, tokens.shape[-1])
    order = torch.randperm(len(given), generator=generator)
    mine, _ = model.step(given, asked)
    swapped, _ = model.step(given[order], asked)
    apart = (mine - mine[order]).norm(dim=-1).mean().clamp(min=1e-12)
    return float((mine - swapped).norm(dim=-1).mean() / apart)


@dataclass(frozen=True, slots=True)
class Change:
    """How far the contexts moved in a sweep: the mean square, and the share of tokens below the guide's threshold."""

    square: float
    converged: float


def change(now: torch.Tensor, before: torch.Tensor) -> Change:
    """Of contexts [B, T, d] and those of the sweep before."""
    each = (now - before).square().mean(-1)
    return Change(float(each.mean()), float((each < CONVERGED).float().mean()))


def final_passes(
    model: Model, tokens: torch.Tensor, passes: int = 5, most: int = 100
) -> tuple[torch.Tensor, torch.Tensor]:
    """The guide's check: `passes` over the first tokens [T, d] of the stream, each begun with the last context.

    The contexts of the last pass and of the one before it.
    """
    stream = tokens.reshape(1, -1, tokens.shape[-1])[:, :most]
    now, _ = exact(model, stream)
    before = now
    for _ in range(passes - 1):
        before = now
        now, _ = exact(model, stream, before[:, -1])
    return now, before


def final_difference(now: torch.Tensor, before: torch.Tensor) -> float:
    """The mean distance between the contexts of two passes; the guide calls 0.001 and below good."""
    return float((now - before).norm(dim=-1).mean())


def certified(square: float, rate: float) -> float | None:
    """A bound on the mean squared distance of a Jacobi sweep's contexts to the exact ones; None if there is none.

    Of a contraction with `rate` < 1, the distance to the fixed point is at most rate / (1 - rate) times the last step.
    """
    return (rate / (1 - rate)) ** 2 * square if 0 <= rate < 1 else None


@dataclass(frozen=True, slots=True)
class Certificate:
    """Jacobi sweeps from contexts 0 without training: how many, their measured rate, and the bound that this gives.

    `reached`: the bound is below `BOUND`, so as many sweeps are enough. `error` is the mean squared distance to the
    exact contexts, which the bound must not be below.
    """

    sweeps: int
    rate: float
    bound: float | None
    error: float

    @property
    def reached(self) -> bool:
        return self.bound is not None and self.bound < BOUND


def certificate(model: Model, tokens: torch.Tensor, contexts: torch.Tensor) -> Certificate:
    """Sweep documents [B, T, d] until the bound is below `BOUND`; `contexts` are the exact ones.

    The rate is the root of the largest ratio of two neighbouring sweeps' squared changes, from the second sweep on.
    """
    before, squares, rate, bound = torch.zeros_like(contexts), list[float](), 0.0, None
    for _ in range(MOST_SWEEPS):
        now, _ = sweep(model, tokens, before)
        squares.append(change(now, before).square)
        before = now
        if len(squares) > 2:
            rate = max(rate, (squares[-1] / max(squares[-2], 1e-30)) ** 0.5)
            bound = certified(squares[-1], rate)
            if bound is not None and bound < BOUND:
                break
    return Certificate(len(squares), rate, bound, float((before - contexts).square().mean()))


MOST_ROWS = 6400
"""Tokens that contexts are measured on, as many as the guide measures."""


@torch.no_grad()  # type: ignore[untyped-decorator]
def measured(model: Model, ids: torch.Tensor, *, certify: bool = False) -> dict[str, float]:
    """The figures of the exact contexts of the first documents of `ids` [N, T]; `certify`: those of sweeps, too.

    Raises ValueError for contexts that are not finite.
    """
    some = ids[: max(1, MOST_ROWS // ids.shape[1])]
    tokens = model.embedded(some)
    contexts, _ = exact(model, tokens)
    rows = contexts.shape[0] * contexts.shape[1]
    rank, noise = effective_rank(contexts), rank_of_noise(rows, contexts.shape[2])
    last = contexts.reshape(rows, -1)[-max(1, rows // 5) :]
    passes = final_passes(model, tokens.reshape(-1, tokens.shape[2]))
    return {
        **(_certified(model, tokens, contexts) if certify else {}),
        "effective_rank_of_last": effective_rank(last) / contexts.shape[2],
        "effective_rank_of_last_noise": rank_of_noise(len(last), contexts.shape[2]) / contexts.shape[2],
        "effective_rank": rank / contexts.shape[2],
        "effective_rank_of_noise": noise / contexts.shape[2],
        "growth": growth(model, tokens),
        "context_use": context_use(model, tokens, contexts),
        "final_difference": final_difference(*passes),
        "final_converged": change(*passes).converged,
    }


def _certified(model: Model, tokens: torch.Tensor, contexts: torch.Tensor) -> dict[str, float]:
    """The figures of a certificate; no bound where sweeps do not come closer, no number of sweeps if none is enough."""
    found = certificate(model, tokens, contexts)
    bound = {} if found.bound is None else {"sweep_bound": found.bound}
    needed = {"sweeps_needed": float(found.sweeps)} if found.reached else {}
    return {**needed, "sweep_rate": found.rate, "sweep_error": found.error, **bound}
