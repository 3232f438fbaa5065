"""A swarm of policies that share rollouts; docs/sapo.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid.loads import GuideTable, RoundsLoad
from hybrid.loops import Lab, Loop, Segment, Series
from hybrid.machine.late_imports import import_object
from hybrid.metrics import RoundMetrics
from hybrid.protocols import Inputs, Replayed, Role, Stage
from hybrid.records import Output
from hybrid.work import Rounds
from pipelines.sapo import guide
from pipelines.sapo.arms import arm_of, node_name
from pipelines.sapo.settings import SapoSettings

NEEDED_FOR = "the pipeline sapo"
PAPER: Mapping[str, object] = {
    "nodes": 8,
    "rounds": 2000,
    "group": 8,
    "rank": 0,
    "scoring": "paper",
    "level": "rl-swarm",
    "exchange": "folder",
}
"""What the controlled experiment of the paper says, or the code that it names: a node a GPU, each of them a series."""


@dataclass(frozen=True)
class Sapo(SapoSettings):
    """Train policies with rewards that a program checks, on rollouts of their own and of each other."""

    packages: ClassVar[tuple[str, ...]] = ("reasoning-gym", "bfi")
    roles: ClassVar[Mapping[str, Role]] = {"": Role("", backend="transformers", model="smollm2")}

    # fmt: off
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "demo": {
            "arms": ["4-0", "2-2"], "nodes": 3, "rounds": 6, "tasks": ["basic_arithmetic"], "level": "easy",
            "max_tokens": 16, "rank": 8, "learning_rate": 2e-4, "eval_every": 5, "eval_questions": 8,
        },
        "paper-8-0": {**PAPER, "arms": ["8-0"]},
        "paper-6-2": {**PAPER, "arms": ["6-2"]},
        "paper-4-4": {**PAPER, "arms": ["4-4"]},
        "paper-2-6": {**PAPER, "arms": ["2-6"]},
        "paper-genrl": {**PAPER, "arms": ["4-4"], "learning_rate": 1e-6},
        "paper-text": {**PAPER, "arms": ["4-4"], "learning_rate": 1e-3},
        "guide": {**PAPER, "arms": ["4-4"], "warm_up": 50, "max_tokens": 256},
        "friends": {
            "arms": ["4-4"], "exchange": "folder", "barrier": "deadline", "max_age": 4, "shortfall": "own",
            "most_of_one": 2,
        },
    }
    # fmt: on

    def inputs(self) -> Inputs:
        """The series. Raises HybridError when the tasks cannot be made here."""
        about = import_object("pipelines.sapo.tasks_known:about", needed_for=NEEDED_FOR)(self)
        return Inputs(dict(self._named()), {}, {"grader": "sapo", **about})

    def guide(self) -> Iterable[GuideTable]:
        """The guide's tables."""
        return guide.tables()

    def stages(self) -> tuple[Stage, ...]:
        """One stage of rounds, a series for each arm and seed, or for each of their nodes."""
        return (Stage("rounds", "gpu", 1, Rounds(self._series, self._loop)),)

    def pages(self, tasks: Mapping[str, Any], outputs: Iterable[Output], models: Sequence[str]) -> Mapping[str, Any]:
        """The tables beside outputs.json."""
        make = import_object("pipelines.sapo.exports:pages", needed_for=NEEDED_FOR)
        pages: Mapping[str, Any] = make(outputs, group=self.group)
        return pages

    def foresee(self, stage: str, tasks: Mapping[str, Any]) -> RoundsLoad:
        """`hybrid.protocols.Planned`."""
        make = import_object("pipelines.sapo.foreseen:foreseen_rounds", needed_for=NEEDED_FOR)
        load: RoundsLoad = make(self, tasks)
        return load

    def replay(
        self,
        tasks: Mapping[str, Any],
        series: str,
        metrics: RoundMetrics,
        group: str,
        read: Callable[[str, int], Sequence[Segment]],
    ) -> Replayed:
        """`hybrid.protocols.ReplaysRounds`."""
        make = import_object("pipelines.sapo.replay:replay", needed_for="hybrid replay")
        made: Replayed = make(self, tasks[series], series, metrics, group, read)
        return made

    def _named(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in self.arms:
            for seed in self.seeds:
                swarm: dict[str, Any] = {"arm": arm_of(name).name, "seed": seed}
                if self.exchange == "memory":
                    yield f"{name}/seed-{seed}", swarm
                    continue
                for node in range(self.nodes):
                    yield f"{name}/seed-{seed}/{node_name(node)}", {**swarm, "node": node}

    def _series(self, tasks: Mapping[str, Any]) -> Iterator[Series]:
        for name, of in tasks.items():
            yield Series(name, self.rounds, of)

    def _loop(self, series: Series, lab: Lab, tasks: Mapping[str, Any]) -> Loop:
        loop: Loop = import_object("pipelines.sapo.loop:loop", needed_for=NEEDED_FOR)(self, series, lab)
        return loop
