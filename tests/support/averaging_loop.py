"""A loop as an installed plugin of one file, and real machines that run it."""

from __future__ import annotations

from pathlib import Path

from tests.support.plugin_run import PluginRun, install

MODULE = '''
"""Federated averaging of a line through the points of four clients, for each learning rate."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid import BadData, Inputs, Lab, Role, RoundFailed, RoundMetrics, Rounds, Series, Stage

POINTS = [[(x / 4, 3 * x / 4 + client) for x in range(client, client + 4)] for client in range(4)]
BITS = float(os.environ.get("OTHER_BITS", "0"))  # what another kind of machine computes differently
PAUSE = float(os.environ.get("ROUNDS_PAUSE", "0"))  # seconds
HELD_AT = int(os.environ.get("HELD_AT", "-1"))  # this round waits until there is a file, HELD_UNTIL


@dataclass(frozen=True)
class Averaging:
    """Clients fit lines to their own points, and average them after every round."""

    rounds: int = 12
    rates: tuple[float, ...] = (0.02, 0.05)
    roles: ClassVar[Mapping[str, Role]] = {"": Role("", backend="none", model="none")}

    def inputs(self) -> Inputs:
        return Inputs({f"rate {rate:g}": rate for rate in self.rates}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("rounds", "any", 1, Rounds(self.series, self.loop)),)

    def series(self, tasks: Mapping[str, Any]) -> Iterator[Series]:
        return (Series(name, self.rounds, {"rate": rate}) for name, rate in tasks.items())

    def loop(self, series: Series, lab: Lab, tasks: Mapping[str, Any]) -> "Line":
        return Line(tasks[series.name])


class Line:
    """The line that all clients begin a round with."""

    def __init__(self, rate: float) -> None:
        self.rate, self.slope, self.height = rate, 0.0, 0.0

    def round(self, number: int) -> RoundMetrics:
        if log := os.environ.get("ROUNDS_LOG"):
            with open(log, "a") as file:
                file.write(f"{self.rate:g}/{number}\\n")
        time.sleep(PAUSE)
        while number == HELD_AT and not os.path.exists(os.environ["HELD_UNTIL"]):
            time.sleep(0.02)
        fits = [self.fit(points) for points in POINTS]
        self.slope = sum(slope for slope, _ in fits) / len(fits) + BITS
        self.height = sum(height for _, height in fits) / len(fits)
        losses = [sum((self.slope * x + self.height - y) ** 2 for x, y in points) for points in POINTS]
        if sum(losses) > 1e9:
            raise RoundFailed("diverged", f"the loss is {sum(losses):.3g}")
        groups = {f"client-{n}": {"loss": loss} for n, loss in enumerate(losses)}
        return RoundMetrics(number, {"loss": sum(losses), "slope": self.slope}, groups)

    def fit(self, points: list[tuple[float, float]]) -> tuple[float, float]:
        slope, height = self.slope, self.height
        for _ in range(5):
            for x, y in points:
                error = slope * x + height - y
                slope, height = slope - self.rate * error * x, height - self.rate * error
        return slope, height

    def state(self) -> bytes:
        return json.dumps([self.slope, self.height]).encode()

    def load(self, state: bytes) -> None:
        try:
            self.slope, self.height = map(float, json.loads(state))
        except (TypeError, ValueError) as error:
            raise BadData("not the state of a line") from error

    def close(self) -> None:
        pass
'''


class LoopRun(PluginRun):
    """A run of the loop. `log` has a line for every round that was computed anywhere."""

    pipeline, shard_seconds, max_idle = "averaging", 0.1, "5m"

    def __init__(self, root: Path) -> None:
        packages = install(root / "packages", "averaging", "averaging:Averaging", MODULE)
        super().__init__(root, packages, {"answers": {}})

    def submit_loop(self, *more: str) -> str:
        """Init and `run remote`; the run's id."""
        assert self.laptop.run("init", str(self.folder)).returncode == 0
        done = self.laptop.run("run", "remote", self.pipeline, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
