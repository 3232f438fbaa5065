"""Seeds and draws by counter: whatever is random is a hash of its purpose and its place, never of what came before.

So a node draws the same on every machine, after every kill, and whatever the others do; and no two streams overlap, as
those of generators with neighbouring seeds do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from hybrid.canonical import encode

HELD_OUT = 2**47
"""The first index of questions that are never trained on; indices have 48 bits."""
WARM_UP = HELD_OUT + 2**46
"""The first index of those that the format of answers is taught with."""
INDICES = 2**48
MOST_SEED = 2**31


def key(purpose: str, *place: int | str) -> int:
    """64 bits that depend on the purpose and the place alone: run seed, node, round, slot, as the purpose has them."""
    return int.from_bytes(hashlib.sha256(encode([purpose, *place])).digest()[:8], "big")


def order(purpose: str, *place: int | str) -> Callable[[str], bytes]:
    """A sort key that puts texts into an order of no meaning, every order being as likely.

    The first n of a set in such an order are n of it, drawn uniformly without replacement.
    """
    start = hashlib.sha256(encode([purpose, *place]))

    def place_of(text: str) -> bytes:
        hashed = start.copy()
        hashed.update(text.encode())
        return hashed.digest()

    return place_of


def seed_of(purpose: str, *place: int | str) -> int:
    """A seed for a generator or a sampler, of 31 bits."""
    return key(purpose, *place) % MOST_SEED


def question(tasks: Sequence[str], seed: int, node: int, round: int, slot: int) -> tuple[str, int]:
    """Task and index of the question that a node asks in a slot of a round, never a held-out one.

    The task is drawn uniformly with replacement (paper, 1.1); the index is below `HELD_OUT`.
    """
    place = seed, node, round, slot
    return tasks[key("task", *place) % len(tasks)], key("question", *place) % HELD_OUT


def held_out(task: str, number: int) -> int:
    """The index of a task's held-out question `number`: the same for every arm, seed and node."""
    return HELD_OUT + key("held-out", task, number) % (WARM_UP - HELD_OUT)


def warm_up(task: str, seed: int, number: int) -> int:
    """The index of question `number` of a task that the format of answers is taught with: in no other stream."""
    return WARM_UP + key("warm-up", task, seed, number) % (INDICES - WARM_UP)


def sampling_seed(seed: int, node: int, round: int, slot: int, sample: int) -> int:
    """The seed of one answer."""
    return seed_of("sample", seed, node, round, slot, sample)
