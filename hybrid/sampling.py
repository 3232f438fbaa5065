"""What pipelines that sample share: a seed for every item, and the bounds of their settings."""

from __future__ import annotations

import hashlib
from typing import Any

from hybrid.bounds import NOT_NEGATIVE, SEED, SHARE, Bounds, refuse_outside


def item_seed(*parts: object) -> int:
    """A seed of 31 bits that depends on `parts` alone: a draw then does not depend on what else is in the queue.

    Name in `parts` what tells the items of a run apart: the run's seed, the question, the view, the sample.
    """
    text = " ".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def check_sampling(settings: Any) -> None:
    """Raise ValueError for settings `samples`, `temperature`, `top_p`, `seed`, `date` that cannot be sampled with."""
    refuse_outside(settings, samples=Bounds(1, 10_000), temperature=NOT_NEGATIVE, top_p=SHARE, seed=SEED)
    if settings.samples > 1 and settings.temperature == 0:
        raise ValueError("samples are all the same at temperature 0; set a temperature")
    if not settings.date:
        raise ValueError("the date cannot be empty (prompts would change every day)")
