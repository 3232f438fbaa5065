"""A pipeline of three stages as an installed plugin, a folder, and real machines that run it: tests of chains."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from tests.support.real_machines import SCRIPT, Machine

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


def install(folder: Path) -> Path:
    """Write the package as pip installs it; returns the folder, for PYTHONPATH."""
    info = folder / "three_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: three-stages\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hybrid.pipelines]\nthree = three_stages:Three\n")
    (folder / "three_stages.py").write_text(textwrap.dedent(MODULE))
    return folder


class ThreeStageRun:
    """A folder, a script that says `said: PROMPT`-like answers to each question, a laptop and other machines."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "folder"
        self.packages = install(root / "packages")
        samples = {f"t{t} {s}": f"said {t} {s}" for t in range(TASKS) for s in range(SAMPLES)}
        answers = {f"about {text}": f"again {text}" for text in samples.values()}
        root.mkdir(parents=True, exist_ok=True)
        (root / "script.json").write_text(json.dumps({"answers": {**samples, **answers}}))
        self.laptop = self.side("laptop")

    def side(self, name: str) -> Machine:
        side = Machine(self.root, name, self.folder)
        side.environment["PYTHONPATH"] = str(self.packages)
        return side

    def local(self, side: Machine, *more: str, delay_ms: int = 0) -> list[str]:
        model = ["--backend=scripted", f"--model={self.root / 'script.json'}", "--shard-seconds=0.2"]
        options = [f"--backend-option=calls={side.calls_file}", f"--backend-option=delay_ms={delay_ms}"]
        return ["run", "local", "three", *model, *options, *more]

    def submit(self, *more: str) -> str:
        """Init and `run remote`; the run's id."""
        assert self.laptop.run("init", str(self.folder)).returncode == 0
        done = self.laptop.run("run", "remote", "three", "--backend=scripted", f"--model={SCRIPT}", *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def worker(self, side: Machine, *more: str, delay_ms: int = 0, model: bool = True) -> list[str]:
        where = [f"--model={SCRIPT}={self.root / 'script.json'}"] if model else []
        options = [f"--backend-option=calls={side.calls_file}", f"--backend-option=delay_ms={delay_ms}"]
        leave = ["--linger=0", "--max-idle=1s", "--shard-seconds=0.2", "--beat=1"]
        return ["worker", *where, *(options if model else []), *leave, *more]

    def records(self) -> list[dict[str, object]]:
        """Those of the run's outputs.json."""
        (path,) = self.folder.glob("results/*/outputs.json")
        found: list[dict[str, object]] = json.loads(path.read_text())["records"]
        return found

    def edits(self) -> dict[object, object]:
        """Task -> what the last stage made."""
        return {one["task"]: json.loads(str(one["text"])) for one in self.records()}


def expected_edits(task: int) -> dict[str, list[list[str]]]:
    """The output of the last stage for a task, without failures."""
    said = [f"said {task} {sample}" for sample in range(SAMPLES)]
    return {"answer": [[f"again {one}", "yes"] for one in said], "sample": [[one, "yes"] for one in said]}


EXPECTED_EDITS = {f"t{task}": expected_edits(task) for task in range(TASKS)}
