"""The ranks of adapters that vLLM makes room for: an adapter of another rank is served in the room of the next one."""

from __future__ import annotations

from hybrid.errors import CannotRun

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM's own list, less the 1 that newer versions have too."""


def room_for(rank: int) -> int:
    """The rank that vLLM is started with for adapters of `rank`. Raises CannotRun for more than it takes."""
    size = next((one for one in RANKS if one >= rank), None)
    if size is None:
        raise too_large(rank)
    return size


def too_large(rank: int) -> CannotRun:
    """Why an adapter of that rank cannot be answered with."""
    return CannotRun(
        f"vLLM takes adapters of rank {RANKS[-1]} at most, not of rank {rank}",
        hint="--set rank=N with a smaller one, or --backend transformers",
    )
