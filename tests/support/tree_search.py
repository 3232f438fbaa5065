"""A search as an installed plugin of one file, a folder, and real machines that run it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from tests.support.real_machines import SCRIPT, Machine

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


def install(folder: Path) -> Path:
    """Write the package as pip installs it; returns the folder, for PYTHONPATH."""
    info = folder / "stories-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stories\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hybrid.pipelines]\nstories = stories:Stories\n")
    (folder / "stories.py").write_text(textwrap.dedent(MODULE).lstrip())
    return folder


class SearchRun:
    """A folder, a script whose answers are all alike, a laptop and other machines."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "folder"
        self.packages = install(root / "packages")
        (root / "script.json").write_text(json.dumps({"answers": {}, "default": "a story"}))
        self.laptop = self.side("laptop")

    def side(self, name: str) -> Machine:
        side = Machine(self.root, name, self.folder)
        side.environment["PYTHONPATH"] = str(self.packages)
        return side

    def local(self, side: Machine, *more: str, delay_ms: int = 0) -> list[str]:
        model = ["--backend=scripted", f"--model={self.root / 'script.json'}", "--shard-seconds=0.1"]
        options = [f"--backend-option=calls={side.calls_file}", f"--backend-option=delay_ms={delay_ms}"]
        return ["run", "local", "stories", *model, *options, *more]

    def submit(self, *more: str) -> str:
        """Init and `run remote`; the run's id."""
        assert self.laptop.run("init", str(self.folder)).returncode == 0
        done = self.laptop.run("run", "remote", "stories", "--backend=scripted", f"--model={SCRIPT}", *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def worker(self, side: Machine, *more: str, delay_ms: int = 0) -> list[str]:
        where = [f"--model={SCRIPT}={self.root / 'script.json'}"]
        options = [f"--backend-option=calls={side.calls_file}", f"--backend-option=delay_ms={delay_ms}"]
        return ["worker", *where, *options, "--linger=0", "--max-idle=20s", "--shard-seconds=0.2", "--beat=1", *more]

    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("runs/*/search/*/*/shard-*"))

    def records(self) -> list[dict[str, object]]:
        (path,) = self.folder.glob("results/*/outputs.json")
        found: list[dict[str, object]] = json.loads(path.read_text())["records"]
        return found
