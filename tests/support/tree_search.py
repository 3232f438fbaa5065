"""A search as an installed plugin of one file, a folder, and real machines that run it."""

from __future__ import annotations

from pathlib import Path

from tests.support.plugin_run import PluginRun, install

MODULE = '''
"""Grow a tree of stories: each node has two texts, and the one whose embedding is further from its parent goes on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid import Derive, Derived, Inputs, Item, Request, Role, Sampling, Search, Stage, Together, Walk
from hybrid import found_in, replayed


@dataclass(frozen=True)
class Stories:
    """A tree of stories for each beginning."""

    trees: int = 2
    levels: int = 3
    roles: ClassVar[Mapping[str, Role]] = {
        "embed": Role("tells texts apart", backend="hashed", model="ngrams", embeds=True)
    }

    def inputs(self) -> Inputs:
        names = [f"t{number}" for number in range(self.trees)]
        return Inputs({name: {} for name in names}, {f"{name}/tree": "" for name in names}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("search", "any", 1, Search(self.walk, roles=("embed",))),
            Stage("tree", "any", 1, Derive(self.ends), after=("search",)),
        )

    def walk(self, task: str, tasks: Mapping[str, Any]) -> Walk:
        return (yield from self.node(task, "n", 1))

    def node(self, task: str, name: str, level: int) -> Walk:
        """A node, and all that grows from it: the name of the best text of each."""
        texts = yield [
            Item(task, f"{name}{n}", Request(Sampling(64), prompt=f"{task} {name}{n}")) for n in range(2)
        ]
        told = [one for one in texts if one.text]
        vectors = yield [
            Item(task, f"embed/{one.question}", Request(Sampling(1), prompt=one.text, embed=True), role="embed")
            for one in told
        ]
        if not told:
            return []
        best = max((vector.vector, text.question) for vector, text in zip(vectors, told))[1]
        if level == self.levels:
            return [best]
        below = yield Together([self.node(task, f"{best}.{n}", level + 1) for n in range(2)])
        return [best, *(one for part in below for one in part)]

    def ends(self, tasks, earlier) -> Iterator[Derived]:
        known = found_in(earlier["search"])
        for task in tasks:
            yield Derived(task, f"{task}/tree", " ".join(replayed(self.walk(task, tasks), known).value))
'''
NODES = 2 * (1 + 2 + 4)
TEXTS = 2 * NODES


class SearchRun(PluginRun):
    """A run of the search, whose answers are all alike."""

    pipeline, shard_seconds, max_idle = "stories", 0.1, "5m"

    def __init__(self, root: Path) -> None:
        packages = install(root / "packages", "stories", "stories:Stories", MODULE)
        super().__init__(root, packages, {"answers": {}, "default": "a story"})

    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("runs/*/search/*/*/shard-*"))
