"""Two machines on one search, in simulated time: they share it, and most texts are asked for by one of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid.folder.runs import join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Request, Sampling
from hybrid.work import Search, Together, Walk
from tests.support.two_sides import TimedMachine, work_together

LEVELS = 5
TEXTS = 2 * (2**LEVELS - 1)


@dataclass(frozen=True)
class Tree:
    """Two texts a node, and two nodes below each."""

    def inputs(self) -> Inputs:
        return Inputs({"t": {}}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("search", "any", 1, Search(self.walk)),)

    def walk(self, task: str, tasks: Mapping[str, Any]) -> Walk:
        return (yield from self.node(task, "n", 1))

    def node(self, task: str, name: str, level: int) -> Walk:
        yield [Item(task, f"{task}/{name}{n}", Request(Sampling(64), prompt=f"{name}{n}")) for n in range(2)]
        if level < LEVELS:
            yield Together([self.node(task, f"{name}.{n}", level + 1) for n in range(2)])
        return name


@pytest.mark.parametrize("late", [0.0, 7.0])
def test_machines_that_see_files_of_each_other_late_share_and_do_little_twice(tmp_path: Path, late: float) -> None:
    models = {"": ModelSpec("scripted", "m", "")}
    submit(join_folder(tmp_path / "folder", make=True), "tree", {}, Tree().inputs(), models)
    asked: dict[str, list[str]] = {"gpu": [], "laptop": []}

    def machine(side: str) -> TimedMachine:
        def answer(request: Request) -> tuple[float, str]:
            asked[side].append(request.prompt)
            return 10.0, "yes"

        return TimedMachine(side, Tree(), answer)

    def is_done() -> bool:
        return all(one.worker and one.worker.run_states for one in machines) and all(
            state.state == "done" for one in machines if one.worker for state in one.worker.run_states.values()
        )

    machines = [machine(side) for side in asked]
    machines[1].clock.time = late
    work_together(tmp_path / "folder", machines, is_done, carried=2.0)
    gpu, laptop = map(set, asked.values())
    assert [len(gpu), len(laptop)] == [len(one) for one in asked.values()], "no machine asks twice"
    assert len(gpu | laptop) == TEXTS
    assert len(gpu & laptop) <= TEXTS / 4
    assert min(len(gpu), len(laptop)) >= TEXTS / 4, "one did most of it"
