"""`branch` as real processes: workers on one tree agree, and those of one machine ask for nothing twice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from hybrid.records import Item, Output
from hybrid.sampling import item_seed
from pipelines.branch.pipeline import Branch
from tests.support.plugin_run import PluginRun
from tests.support.tree_runs import DID, WHO, WHY
from tests.support.walks_in_memory import driven

SETTINGS = ("--preset=demo", "--set=levels=2", "--set=candidates=4", "--set=keep=2")


def script() -> Mapping[str, object]:
    """The answer to every prompt of the run: another text for each."""
    answers: dict[str, str] = {}
    pipeline = Branch(scenario=("demo",), strategy=("facets",), levels=2, candidates=4, keep=2)

    def answer(item: Item) -> Output:
        asked = item.request.messages[-1].content
        draw = random.Random(item_seed(0, asked))
        told = f"The lighthouse works: {draw.choice(WHO)} {draw.choice(DID)} {draw.choice(WHY)} {draw.randrange(1000)}."
        text = answers.setdefault(asked, told)[: item.request.sampling.max_tokens]  # its tokens are characters
        finish = "stop" if text == told else "length"
        key = item.key(item.role, "")
        return Output(key, item.task, item.question, item.view, item.sample, text, None, None, finish=finish)

    driven(pipeline._walk("demo", pipeline.inputs().tasks), answer)
    return {"answers": answers}


class BranchRun(PluginRun):
    """A run of `branch` whose answers are a script."""

    pipeline, shard_seconds, max_idle = "branch", 0.2, "5m"

    def __init__(self, root: Path) -> None:
        root.mkdir()
        super().__init__(root, root, script())

    def texts(self) -> list[object]:
        """The nodes of the tree with their verdicts; what took how long is that of the machine."""
        timeless = [{**dict(one["view"]), "seconds": 0} for one in self.records()]  # type: ignore[call-overload]
        return [(one["question"], one["text"], view) for one, view in zip(self.records(), timeless, strict=True)]


@pytest.mark.slow
def test_workers_that_are_given_one_tree_agree_whoever_of_them_does_it(tmp_path: Path) -> None:
    """How much each does depends on who begins: test_search_machines holds workers until they share a search."""
    alone, shared = BranchRun(tmp_path / "alone"), BranchRun(tmp_path / "shared")
    assert alone.laptop.run(*alone.local(alone.laptop, *SETTINGS)).returncode == 0
    run = shared.submit(*SETTINGS)
    sides = [shared.side(name) for name in ("first", "second", "sibling")]
    sides[2].environment["HYBRID_HOME"] = sides[1].environment["HYBRID_HOME"]
    processes = [side.start(*shared.worker(side, delay_ms=300)) for side in sides]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    calls = [side.calls() for side in sides]
    assert all(len(set(some)) == len(some) for some in calls), "no worker asks twice"
    assert set().union(*calls) == set(alone.laptop.calls())
    assert not set(calls[1]) & set(calls[2]), "workers of one machine share their claims at once"
    assert shared.laptop.run("fetch", run).returncode == 0
    assert shared.texts() == alone.texts()
    assert shared.laptop.run("status", run).returncode == 0


@pytest.mark.slow
def test_texts_of_a_gpu_side_that_are_selected_on_the_laptop_are_the_tree_of_one_machine(tmp_path: Path) -> None:
    alone, divided = BranchRun(tmp_path / "alone"), BranchRun(tmp_path / "divided")
    assert alone.laptop.run(*alone.local(alone.laptop, *SETTINGS)).returncode == 0
    run = divided.submit(*SETTINGS, "--side-of=generate=gpu")
    gpu, laptop = divided.side("gpu"), divided.side("beside")
    for side in (gpu, laptop):  # workers of one machine hear of each other at once
        side.environment["HYBRID_HOME"] = str(tmp_path / "home-both")
    only = (f"--run={run}", "--max-idle=10m")
    commands = [
        divided.worker(gpu, "--side=gpu", *only), divided.worker(laptop, "--side=laptop", *only, model=False),
    ]  # fmt: skip
    processes = [side.start(*command) for side, command in zip((gpu, laptop), commands, strict=True)]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sorted(gpu.calls()) == sorted(alone.laptop.calls())
    assert not laptop.calls()
    assert divided.laptop.run("fetch", run).returncode == 0
    assert divided.texts() == alone.texts()
