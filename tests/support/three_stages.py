"""A pipeline of three stages as an installed plugin, a folder, and real machines that run it: tests of chains."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.plugin_run import PluginRun, install

TASKS, SAMPLES = 3, 2
ITEMS = TASKS * SAMPLES + TASKS * SAMPLES + TASKS

MODULE = '''
import json
from dataclasses import dataclass
from typing import Literal

from hybrid.protocols import Inputs, Stage
from hybrid.records import Example, Item, Request, Sampling
from hybrid.tuning import Tuning
from hybrid.work import Ask, Derive, Derived, Tune


@dataclass(frozen=True)
class Three:
    """Ask, ask about what was said, and put all of it together."""

    tasks: int = 3
    middle: Literal["gpu", "laptop", "any"] = "gpu"
    last: Literal["gpu", "laptop", "any"] = "any"
    trained: bool = False

    def inputs(self):
        names = [f"t{n}" for n in range(self.tasks)]
        return Inputs({name: {} for name in names}, {f"{name}/0": "yes" for name in names}, {"grader": "exact"})

    def stages(self):
        answers = Tune(self.answers, self.examples) if self.trained else Ask(self.answers)
        return (
            Stage("sample", "gpu", 1, Ask(self.samples)),
            Stage("answer", self.middle, 1, answers, after=("sample",)),
            Stage("edits", self.last, 1, Derive(self.edits), after=("sample", "answer"), reads_references=True),
        )

    def samples(self, tasks):
        for task in sorted(tasks):
            for sample in range(2):
                yield Item(task, f"{task}/0", Request(Sampling(32), prompt=f"{task} {sample}"), sample=sample)

    def answers(self, tasks, earlier):
        for one in earlier["sample"]:
            assert one.reference is None
            said = one.text if one.text is not None else f"({one.error.kind})"
            tuning = Tuning({"said": said}, 0.1, 1) if self.trained else None
            request = Request(Sampling(32), prompt=f"about {said}", tuning=tuning)
            yield Item(one.task, one.question + "@again", request, sample=one.sample)

    def examples(self, tasks, asked):
        return [Example(text=asked["said"])]

    def edits(self, tasks, earlier):
        for task in sorted(tasks):
            made = {name: [[one.text, one.reference] for one in earlier[name] if one.task == task] for name in earlier}
            yield Derived(task, f"{task}/0@edit", json.dumps(made, sort_keys=True))
'''


class ThreeStageRun(PluginRun):
    """A run of the pipeline; the script says `said: PROMPT`-like answers to each question."""

    pipeline, shard_seconds, max_idle = "three", 0.2, "1s"

    def __init__(self, root: Path) -> None:
        samples = {f"t{t} {s}": f"said {t} {s}" for t in range(TASKS) for s in range(SAMPLES)}
        answers = {f"about {text}": f"again {text}" for text in samples.values()}
        packages = install(root / "packages", "three", "three_stages:Three", MODULE)
        super().__init__(root, packages, {"answers": {**samples, **answers}})

    def edits(self) -> dict[object, object]:
        """Task -> what the last stage made."""
        return {one["task"]: json.loads(str(one["text"])) for one in self.records()}


def expected_edits(task: int) -> dict[str, list[list[str]]]:
    """The output of the last stage for a task, without failures."""
    said = [f"said {task} {sample}" for sample in range(SAMPLES)]
    return {"answer": [[f"again {one}", "yes"] for one in said], "sample": [[one, "yes"] for one in said]}


EXPECTED_EDITS = {f"t{task}": expected_edits(task) for task in range(TASKS)}
