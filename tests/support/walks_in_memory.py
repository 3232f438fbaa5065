"""Drive walks in memory: answers come from a function, in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hybrid.backends.hashed import HashedEmbedder
from hybrid.records import Failure, Item, Output
from hybrid.walks import Replay, Walk

Answer = Callable[[Item], "str | Failure | Output"]
EMBEDDER = HashedEmbedder("", {})


@dataclass
class Driven:
    """What a walk returned, and the outputs that it was sent, each once, in the order in which they came."""

    value: Any
    outputs: list[Output] = field(default_factory=list)
    most_waiting: int = 0


def driven(walk: Walk, answer: Answer, order: random.Random | None = None) -> Driven:
    """The walk to its end. With `order` the items are answered in an order that is drawn from it."""
    known: dict[bytes, Output] = {}
    replay = Replay(lambda item: item.digest(item.role, ""), known.get)
    replay.start("walk", walk)
    done = Driven(None)
    while waiting := list(replay.frontier):
        done.most_waiting = max(done.most_waiting, len(waiting))
        key = order.choice(waiting) if order else waiting[0]
        known[key] = output_of(replay.items[key], answer)
        done.outputs.append(known[key])
        replay.tell(key)
    done.value = replay.values["walk"]
    return done


def output_of(item: Item, answer: Answer) -> Output:
    """The output of one item; an embedding is that of the embedder `hashed`."""
    said = answer(item) if not item.request.embed else ""
    if isinstance(said, Output):
        return said
    plain = {"key": item.key(item.role, ""), "task": item.task, "question": item.question, "view": item.view}
    if isinstance(said, Failure):
        return Output(**plain, sample=item.sample, text=None, error=said, reference=None)
    vector = next(iter(EMBEDDER.embed([item.request.prompt]))) if item.request.embed else None
    return Output(
        **plain, sample=item.sample, text=said, error=None, reference=None, finish="stop",
        tokens=(10, len(said.split())), vector=None if isinstance(vector, Failure) else vector,
        logprob=None if vector else -1.5 * len(said.split()), seconds=0.25,
    )  # fmt: skip
