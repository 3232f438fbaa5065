"""Federated fine-tuning of classifiers, many methods on the same tasks, rows and seeds; docs/atlas.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid.canonical import digest
from hybrid.loads import GuideTable, RoundsLoad
from hybrid.loops import Lab, Loop, Series
from hybrid.machine.late_imports import import_object
from hybrid.protocols import Inputs, Role, Side, Stage
from hybrid.records import Output
from hybrid.work import Rounds
from pipelines.atlas import guide
from pipelines.atlas.foreseen import foreseen_rounds
from pipelines.atlas.methods import MethodName, client_name, same_as
from pipelines.atlas.reading import read_tasks
from pipelines.atlas.settings import AtlasSettings

DATA = "data"
NEEDED_FOR = "the pipeline atlas"
GUIDE = {"methods": ["fedavg", "fedavg-lora", "hetlora", "atlas"], "rank": [4, 8, 16]}


@dataclass(frozen=True)
class Atlas(AtlasSettings):
    """Fine-tune with LoRA on the rows of many clients, who share updates and no rows, by several methods."""

    roles: ClassVar[Mapping[str, Role]] = {"": Role("", backend="classifier", model="tiny")}

    # fmt: off
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "demo": {
            "tasks": ["polarity", "paraphrase"], "clients": 8, "samples": 120, "rounds": 5, "epochs": 3,
            "learning_rate": 0.005, "seeds": [0, 1, 2],
        },
        "default": {**GUIDE, "rounds": 5, "clients": 5, "samples": 300, "batch": 8},
        "fast": {**GUIDE, "rounds": 3, "clients": 3, "samples": 200, "batch": 16},
        "very-fast": {**GUIDE, "rounds": 2, "clients": 3, "samples": 100, "batch": 16},
    }
    # fmt: on

    def inputs(self) -> Inputs:
        """The rows of the tasks, as they are now. Raises HybridError for files that cannot be read."""
        found = read_tasks(self)
        names = list(found)
        clients = {client_name(one, self.clients): names[one % len(names)] for one in range(self.clients)}
        changes_hetlora = self.hetlora_weights == "norms" or self.hetlora_decay < 1
        own: dict[MethodName, bool] = {"atlas": bool(self.budget_kb), "hetlora": changes_hetlora}
        changed = [name for name, changes in own.items() if changes]
        ranks, tasks = self.ranks(), len(self.tasks)
        same = {name: same_as(name, ranks, tasks, self.smoothing, changed=changed) for name in self.methods}
        series = {
            f"{method}/seed-{seed}": {"method": method, "seed": seed, "same_as": same[method]}
            for method in self.methods
            for seed in self.seeds
        }
        data = {"tasks": {name: one.to_json() for name, one in found.items()}, "clients": clients}
        about = {
            "grader": "atlas",
            "data": {
                name: {
                    "source": one.source,
                    "rows": digest(one.to_json()),
                    "duplicates": one.duplicates,
                    "overlaps": one.overlaps,
                }
                for name, one in found.items()
            },
            "metrics": {name: one.metric for name, one in found.items()},
            "same_as": {method: other for method, other in same.items() if other},
        }
        return Inputs({**series, DATA: data}, {}, about)

    def guide(self) -> Iterable[GuideTable]:
        """The guide's tables."""
        return guide.tables()

    def stages(self) -> tuple[Stage, ...]:
        """One stage of rounds, a series for each method and seed; with clients in the folder on any machine."""
        side: Side = "any" if self.exchange == "folder" else "gpu"
        return (Stage("rounds", side, 4, Rounds(self._series, self._loop)),)

    def foresee(self, stage: str, tasks: Mapping[str, Any]) -> RoundsLoad:
        """`hybrid.protocols.Planned`."""
        return foreseen_rounds(self, {name: of for name, of in tasks.items() if name != DATA}, tasks[DATA]["tasks"])

    def pages(self, tasks: Mapping[str, Any], outputs: Iterable[Output], models: Sequence[str]) -> Mapping[str, str]:
        """The tables beside outputs.json."""
        make = import_object("pipelines.atlas.exports:pages", needed_for=NEEDED_FOR)
        pages: Mapping[str, str] = make(tasks, outputs, models)
        return pages

    def _series(self, tasks: Mapping[str, Any]) -> Iterator[Series]:
        for name, of in tasks.items():
            if name != DATA:
                settings = {"method": of["method"], "seed": of["seed"]}
                yield Series(name, self.rounds, settings)
                for number, client in enumerate(tasks[DATA]["clients"] if self.exchange == "folder" else ()):
                    yield Series(f"{name}/{client}", self.rounds, {**settings, "server": name, "client": number})

    def _loop(self, series: Series, lab: Lab, tasks: Mapping[str, Any]) -> Loop:
        loop: Loop = import_object("pipelines.atlas.loop:loop", needed_for=NEEDED_FOR)(self, series, lab, tasks[DATA])
        return loop
