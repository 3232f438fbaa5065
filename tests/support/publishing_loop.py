"""A loop that publishes, as an installed plugin of one file, and real machines that run it.

Each node publishes its number of a round, and takes the mean of all that have arrived once enough have. `LIES` makes a
node publish what nobody can use.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.plugin_run import PluginRun, install

MODULE = '''
"""Nodes that publish a number each and take the mean of what has arrived."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hybrid import BadData, Inputs, Lab, Role, RoundMetrics, Rounds, Series, Stage
from hybrid.loops import NotYet, Publications


@dataclass(frozen=True)
class Meeting:
    """Nodes meet in a folder, in every round."""

    nodes: int = 4
    rounds: int = 6
    quorum: int = 3
    roles: ClassVar[Mapping[str, Role]] = {"": Role("", backend="none", model="none")}

    def inputs(self) -> Inputs:
        return Inputs({f"node-{number}": number for number in range(self.nodes)}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("rounds", "any", 1, Rounds(self.series, self.loop)),)

    def series(self, tasks: Mapping[str, Any]) -> Iterator[Series]:
        return (Series(name, self.rounds) for name in tasks)

    def loop(self, series: Series, lab: Lab, tasks: Mapping[str, Any]) -> "Node":
        return Node(series.name, self.nodes, self.quorum)


class Node:
    """Its value, and the ids of all segments that it has used, by round: each once."""

    def __init__(self, name: str, nodes: int, quorum: int) -> None:
        self.name, self.names, self.quorum = name, [f"node-{number}" for number in range(nodes)], quorum
        self.value, self.used = float(name[5:]), dict[str, list[str]]()
        self.here = dict[tuple[int, str], dict[str, float]]()

    def publish_to(self, publications: Publications) -> None:
        self.publications = publications

    def round(self, number: int) -> RoundMetrics:
        if log := os.environ.get("ROUNDS_LOG"):
            with open(log, "a") as file:
                file.write(f"{self.name}/{number}\\n")
        lies = os.environ.get("LIES") == self.name
        body = b"\\xff" * 1000 if lies else json.dumps({"by": self.name, "round": number, "value": self.value}).encode()
        began = time.monotonic()
        self.publications.publish(self.name, number, body)
        for one in self.publications.arrived(max(0, number - 3), self.names):
            try:
                said = json.loads(one.data)
                self.here.setdefault((said["round"], one.name), {})[one.id] = float(said["value"])
            except (ValueError, TypeError, KeyError):
                continue
        found = {name: self.here[number, name] for name in self.names if (number, name) in self.here}
        if len(found) < self.quorum:
            raise NotYet(f"{len(found)} of {self.quorum} in round {number}")
        values = [value for of in found.values() for value in of.values()]
        self.value = sum(values) / len(values)
        ids = sorted(id for of in found.values() for id in of)
        self.used[str(number)] = ids
        costs = {self.name: {"wait_seconds": time.monotonic() - began}}
        return RoundMetrics(number, {"value": self.value}, notes={"used": ids}, costs=costs)

    def state(self) -> bytes:
        return json.dumps([self.value, self.used]).encode()

    def load(self, state: bytes) -> None:
        try:
            self.value, self.used = json.loads(state)
        except (TypeError, ValueError) as error:
            raise BadData("not the state of a node") from error

    def close(self) -> None:
        pass
'''


class MeetingRun(PluginRun):
    """A run of the loop on several machines."""

    pipeline, shard_seconds, max_idle = "meeting", 0.1, "5m"

    def __init__(self, root: Path) -> None:
        packages = install(root / "packages", "meeting", "meeting:Meeting", MODULE)
        super().__init__(root, packages, {"answers": {}})

    def submit_loop(self, *more: str) -> str:
        """Init and `run remote`; the run's id."""
        assert self.laptop.run("init", str(self.folder)).returncode == 0
        done = self.laptop.run("run", "remote", self.pipeline, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
