"""The LoRA ranks that vLLM supports: an adapter of another rank is padded to the next larger one."""

from __future__ import annotations

from collections.abc import Collection

from hybrid.errors import CannotRun

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM's own list, without the 1 that newer versions have as well: known before vLLM is imported."""


def supported_rank(rank: int, ranks: Collection[int] = RANKS) -> int:
    """The smallest of `ranks` for adapters of `rank`. Raises CannotRun when none is so large."""
    size = min((one for one in ranks if one >= rank), default=None)
    if size is None:
        raise rank_too_large(rank, max(ranks))
    return size


def rank_too_large(rank: int, most: int = RANKS[-1]) -> CannotRun:
    """The error for an adapter of a rank that vLLM does not support."""
    return CannotRun(
        f"vLLM takes adapters of rank {most} at most, not of rank {rank}",
        hint="--set rank=N with a smaller one, or --backend transformers",
    )
