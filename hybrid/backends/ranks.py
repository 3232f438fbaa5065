"""The LoRA ranks that vLLM supports: an adapter of another rank is padded to the next larger one."""

from __future__ import annotations

from hybrid.errors import CannotRun

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM's own list, without the 1 that newer versions have as well."""


def supported_rank(rank: int) -> int:
    """The smallest supported rank for adapters of `rank`. Raises CannotRun when vLLM supports none so large."""
    size = next((one for one in RANKS if one >= rank), None)
    if size is None:
        raise rank_too_large(rank)
    return size


def rank_too_large(rank: int) -> CannotRun:
    """The error for an adapter of a rank that vLLM does not support."""
    return CannotRun(
        f"vLLM takes adapters of rank {RANKS[-1]} at most, not of rank {rank}",
        hint="--set rank=N with a smaller one, or --backend transformers",
    )
