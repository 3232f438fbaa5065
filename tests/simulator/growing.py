"""A pipeline whose items depend on answers: of each task a root, two branches at the same time, and an end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Output, Request, Sampling
from hybrid.walks import Replay, walked
from hybrid.work import Search, Together, Walk

EACH = 4
"""Items of a task."""


@dataclass(frozen=True)
class Growing:
    """A search of `items` items in all, a multiple of EACH."""

    items: int = 24

    def inputs(self) -> Inputs:
        tasks = [f"t{number:02d}" for number in range(self.items // EACH)]
        return Inputs(dict.fromkeys(tasks, 0), {f"{task}/end": 0 for task in tasks}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("answer", "gpu", 1, Search(grown)),)

    def keys(self, digest: str, answer: Any) -> list[str]:
        """The keys of all items when `answer` gives the text of each by its key."""
        tasks, (stage,) = self.inputs().tasks, self.stages()
        outputs: dict[bytes, Output] = {}
        replay = Replay(lambda item: item.digest(stage.identity, digest), outputs.get)
        for task in tasks:
            replay.start(task, grown(task, tasks))

        def answered(key: bytes, item: Item) -> Output:
            return Output(key.hex(), item.task, item.question, {}, 0, answer(key.hex()), None, None)

        walked(replay, answered, outputs, self.items)
        return [key.hex() for key in replay.items]


def grown(task: str, tasks: Mapping[str, Any]) -> Walk:
    root = yield from asked(task, "root", task)
    branches = yield Together([asked(task, name, f"{name} after {root}") for name in ("left", "right")])
    return (yield from asked(task, "end", " ".join(branches)))


def asked(task: str, name: str, prompt: str) -> Walk:
    (one,) = yield [Item(task, f"{task}/{name}", Request(Sampling(max_tokens=1), prompt=prompt))]
    return one.text if one.text is not None else "it failed"
