"""Installed distributions laid down as files, and a pipeline whose last stage measures answers in rounds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.support.in_process import Hybrid

PIPELINE = '''
"""Asks once a round, and measures what came in rounds."""

from dataclasses import dataclass

from hybrid.metrics import RoundMetrics
from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Message, Request, Sampling
from hybrid.work import Ask, Derive, Derived


@dataclass(frozen=True)
class InRounds:
    """Measures answers in rounds."""

    rounds: int = 4
    seed: int = 0

    def inputs(self):
        return Inputs({"loop": self.rounds}, {}, {})

    def stages(self):
        return (
            Stage("ask", "any", 1, Ask(self.ask)),
            Stage("rounds", "any", 1, Derive(self.measure), after=("ask",)),
        )

    def ask(self, tasks):
        for n in range(tasks["loop"]):
            said = Message("user", f"round {n}")
            yield Item("loop", f"loop/{n}", Request(Sampling(8, seed=self.seed), messages=(said,)))

    def measure(self, tasks, earlier):
        for n, output in enumerate(earlier["ask"]):
            reward = len(output.text) * n + self.seed
            groups = {f"node-{k}": {"reward": float(k)} for k in range(2)}
            found = RoundMetrics(n, {"reward": reward, "drift": -1e-6 * (n + 1)}, groups)
            yield Derived("loop", f"loop/{n}", found.to_text())
'''

COUNT = itertools.count()


def laid_down(folder: Path, name: str, entry_points: str, module: str = "") -> None:
    """The metadata of an installed distribution, as pip writes it, and its module when there is one."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    if module:
        (folder / f"{name}.py").write_text(module)


def in_rounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the pipeline `in-rounds` known; the options of a run of it in `folder`, whose answers have 5 characters."""
    name = f"in_rounds_{next(COUNT)}"  # a module of its own for each test: Python keeps what it imported
    laid_down(folder / "site", name, f"[hybrid.pipelines]\nin-rounds = {name}:InRounds\n", PIPELINE)
    monkeypatch.syspath_prepend(folder / "site")
    script = folder / "script.json"
    script.write_text(json.dumps({"answers": {}, "default": "12345"}))
    return ["--folder", str(folder / "folder"), "--backend", "scripted", "--model", str(script)]


def done(hybrid: Hybrid, options: list[str], out: Path, *settings: str) -> Path:
    """The outputs of a run of it with these settings."""
    chosen = [part for setting in settings for part in ("--set", setting)]
    ran = hybrid("run", "local", "in-rounds", *chosen, *options, "-o", out)
    assert ran.code == 0, ran.stderr
    return out
