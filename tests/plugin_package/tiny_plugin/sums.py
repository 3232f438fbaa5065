"""Small sums."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Message, Request, Sampling
from hybrid.work import Ask


@dataclass(frozen=True)
class Sums:
    """Ask for sums of two small numbers."""

    count: int = field(default=3, metadata={"help": "how many sums"})
    most: int = field(default=9, metadata={"help": "the largest number to add"})

    def inputs(self) -> Inputs:
        """The sums, and apart from them what is right."""
        pairs = [(n % self.most + 1, 3 * n % self.most + 1) for n in range(self.count)]
        tasks = {f"{a}+{b}": [a, b] for a, b in pairs}
        return Inputs(tasks, {f"{name}/0": str(a + b) for name, (a, b) in tasks.items()}, {"source": "made here"})

    def stages(self) -> tuple[Stage, ...]:
        """One step."""
        return (Stage("answer", "any", 1, Ask(self._items)),)

    def _items(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        for task, (a, b) in sorted(tasks.items()):
            asked = Message("user", f"What is {a} + {b}? Answer with the number alone.")
            yield Item(task, f"{task}/0", Request(Sampling(max_tokens=8), messages=(asked,)))
