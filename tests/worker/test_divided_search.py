"""A search whose models are on two sides: each side answers what its models are asked, through the folder."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hybrid.errors import UsageError
from hybrid.execution.assembly import assembled
from hybrid.execution.capabilities import Machine
from hybrid.execution.chain import bound
from hybrid.execution.sides import asked_on, moved, parts, roles_here, sides_given
from hybrid.folder.medium import Disk
from hybrid.folder.orders import Orders, known_orders, sides
from hybrid.folder.runs import Run, join_folder, open_run
from hybrid.folder.spec import ModelSpec
from hybrid.laptop.receiver import Receiver
from hybrid.laptop.remote_runs import submit_remote
from hybrid.protocols import Inputs, Pipeline, Role, Side, Stage
from hybrid.records import Item, Request, Sampling
from hybrid.work import Ask, Derive, Derived, Search, Walk, found_in, replayed
from hybrid.worker.worker import Worker, WorkerOptions
from tests.support.manual_clock import ManualClock
from tests.support.tree_search import SearchRun

LEVELS, EACH = 3, 4


@dataclass(frozen=True)
class Verses:
    """Lines, of which the one goes on whose vector is largest; a judge has the last word on each level."""

    roles: ClassVar[Mapping[str, Role]] = {
        "embed": Role("tells texts apart", backend="hashed", model="ngrams", embeds=True),
        "judge": Role("has the last word"),
    }

    def inputs(self) -> Inputs:
        return Inputs({"a": {}, "b": {}}, {"a/end": "", "b/end": ""}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("search", "any", 1, Search(self.walk, roles=("embed", "judge"))),
            Stage("end", "any", 1, Derive(self.ends), after=("search",)),
        )

    def walk(self, task: str, tasks: Mapping[str, Any]) -> Walk:
        story = task
        (first,) = yield [self.item(task, "begin", task, "embed", embed=True)]
        for level in range(LEVELS):
            asked = [self.item(task, f"{level}/{number}", f"{story} {number}") for number in range(EACH)]
            lines = yield asked
            vectors = yield [self.item(task, f"v/{one.question}", one.text, "embed", embed=True) for one in lines]
            best = max((vector.vector[0], one.text) for vector, one in zip(vectors, lines, strict=True))[1]
            (verdict,) = yield [self.item(task, f"j/{level}", best, "judge")]
            story = f"{best} {verdict.text}"
        return f"{story} {len(first.vector)}"

    def item(self, task: str, name: str, prompt: str, role: str = "", *, embed: bool = False) -> Item:
        return Item(task, f"{task}/{name}", Request(Sampling(4), prompt=prompt, embed=embed), role=role)

    def ends(self, tasks: Mapping[str, Any], earlier: Mapping[str, Any]) -> Iterator[Derived]:
        known = found_in(earlier["search"])
        for task in tasks:
            yield Derived(task, f"{task}/end", replayed(self.walk(task, tasks), known).value)


class Here(Machine):
    """A machine that knows the pipeline already."""

    def pipeline(self, run: Run) -> Pipeline:
        assert run
        return Verses()


@dataclass
class Process:
    """A worker in this process, stepped by hand."""

    worker: Worker
    steps: Generator[float, None, None]


@dataclass
class Two:
    """A run on two machines, each with the models of its side alone."""

    root: Path
    digest: str = ""
    clock: ManualClock = field(default_factory=ManualClock)
    started: int = 0

    def __post_init__(self) -> None:
        (self.root / "script.json").write_text(json.dumps({"answers": {}, "default": "word"}))
        models = {name: ModelSpec("scripted", name or "writer", self.digest) for name in ("", "judge")}
        models["embed"] = ModelSpec("hashed", "ngrams", "")
        self.folder = join_folder(self.root / "folder", make=True)
        self.run = submit_remote(self.root / "folder", "verses", Verses(), models, {"generate": "gpu"})

    def start(self, side: Side, *more: str) -> Process:
        """A worker of a side, which has the models of that side and `more`."""
        self.started += 1
        attempt, spool = f"20260101t000000z-{self.started:08x}", self.root / f"spool-{side}"
        known = ["writer" if side == "gpu" else "judge", *more]
        options = [f"{role}calls={self.root / side}" for role, side in (("", "gpu"), ("judge=", "laptop"))]
        here = Here([f"{name}={self.root / 'script.json'}" for name in known], options, spool)
        how = WorkerOptions(sides=(side,), run=self.run.id, max_idle=1e6)
        worker = Worker(self.folder, Disk(spool), self.clock, here, how, attempt=attempt)
        return Process(worker, worker.work())

    def step(self, *processes: Process) -> bool:
        """One step of each; whether all have ended."""
        ended = [next(one.steps, None) is None for one in processes]
        for one in processes:
            one.worker.step()
        self.clock.time += 5
        return all(ended)

    def finish(self, *processes: Process) -> list[str]:
        """Step them to their ends; the texts of the run."""
        for _ in range(2000):
            if self.step(*processes):
                break
        assert [one.worker.run_states[self.run.id].state for one in processes] == ["done"] * len(processes)
        chain = bound(open_run(self.folder, self.run.id), Verses())
        with assembled(chain.run, chain.stages[-1]) as made:
            assert not made.missing
            return [str(one.text) for one in made.outputs()]

    def shards(self) -> list[tuple[str, Mapping[str, Any], int]]:
        """Attempt, model and number of records of each shard of the search."""
        found = open_run(self.folder, self.run.id).shards("search", [])
        return [(shard.header["attempt"], shard.header["model"], shard.name.count) for _, shard in found]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("first", ["gpu", "laptop"])
def test_each_side_answers_what_its_own_models_are_asked(tmp_path: Path, first: Side) -> None:
    two = Two(tmp_path)
    processes = [two.start(first)]
    two.step(*processes)
    assert not two.shards() or not any(count for *_, count in two.shards())
    processes.append(two.start("laptop" if first == "gpu" else "gpu"))
    texts = two.finish(*processes)
    calls = {side: (tmp_path / side).read_text().split() for side in ("gpu", "laptop")}
    assert [len(calls[side]) for side in calls] == [2 * LEVELS * EACH, 2 * LEVELS]
    assert len(set(calls["gpu"]) | set(calls["laptop"])) == 2 * LEVELS * (EACH + 1)
    assert [text.split()[-2:] for text in texts] == [["word", "384"]] * 2
    models = [model for _, model, _ in two.shards()]
    assert {model["digest"] for model in models} == {models[0]["digest"]}
    assert {frozenset(model.get("roles", ())) for model in models} == {frozenset(), frozenset({"embed", "judge"})}


def test_a_side_that_is_killed_is_replaced_and_asks_nothing_again(tmp_path: Path) -> None:
    two = Two(tmp_path)
    gpu, laptop = two.start("gpu"), two.start("laptop")
    for _ in range(8):
        two.step(gpu, laptop)
    assert any(count for *_, count in two.shards())
    laptop.steps.close()
    two.step(gpu)
    gpu.steps.close()
    two.finish(two.start("gpu"), two.start("laptop"))
    for side in ("gpu", "laptop"):
        calls = (tmp_path / side).read_text().split()
        assert len(calls) == len(set(calls))


def test_one_machine_with_all_models_does_the_rest_of_a_divided_run(tmp_path: Path) -> None:
    two = Two(tmp_path)
    gpu, laptop = two.start("gpu"), two.start("laptop")
    for _ in range(8):
        two.step(gpu, laptop)
    Receiver(two.run, Disk(tmp_path / "received"), "laptop").sides({})  # as `run remote` without --side-of
    two.finish(two.start("gpu", "judge"))


def walk(task: str, tasks: Mapping[str, Any]) -> Walk:
    yield [Item(task, f"{task}/{len(tasks)}", Request(Sampling(1), prompt="a"))]


SEARCH = Stage("search", "any", 1, Search(walk, roles=("embed", "judge")))
ANSWER = Stage("answer", "gpu", 1, Ask(lambda tasks: []))
JUDGE = Stage("verdict", "laptop", 1, Ask(lambda tasks: []), role="judge")
END = Stage("end", "any", 1, Derive(lambda tasks, earlier: []), after=("search",))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"generate": "gpu"}, {"": "gpu", "embed": "laptop", "judge": "laptop"}),
        ({"embed": "laptop"}, {"": "gpu", "embed": "laptop", "judge": "gpu"}),
        ({"generate": "gpu", "embed": "gpu", "judge": "laptop"}, {"": "gpu", "embed": "gpu", "judge": "laptop"}),
        ({"generate": "gpu", "judge": "laptop"}, {"": "gpu", "embed": "any", "judge": "laptop"}),
        ({"search": "laptop"}, {}),
        ({"generate": "gpu", "embed": "gpu", "judge": "gpu"}, {}),
        ({}, {}),
    ],
)
def test_the_roles_of_a_search_that_are_not_named_are_on_the_other_side(
    given: dict[str, Side], expected: dict[str, Side]
) -> None:
    assert parts(SEARCH, given) == expected
    (stage,) = moved([SEARCH], given)
    assert stage.side == ("any" if expected or not given else given.get("search", "gpu"))
    for side in ("gpu", "laptop"):
        here = roles_here(SEARCH, given, [side])
        assert here == tuple(role for role in SEARCH.roles if not expected or expected[role] in (side, "any"))
    if expected:
        assert asked_on([stage, END], ("gpu", "any"), given) == list(roles_here(SEARCH, given, ["gpu"]))


def test_a_stage_is_moved_by_its_name_or_by_that_of_its_role() -> None:
    stages = [ANSWER, JUDGE, END]
    assert [one.side for one in moved(stages, {"answer": "laptop", "judge": "gpu"})] == ["laptop", "gpu", "any"]
    assert [one.side for one in moved(stages, {"generate": "laptop"})] == ["laptop", "laptop", "any"]
    assert moved(stages, {}) == tuple(stages)
    assert replace(ANSWER, side="laptop") == moved(stages, {"generate": "laptop"})[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["generate"], "a side is gpu, laptop, any"),
        (["generate=cloud"], "a side is"),
        (["writer=gpu"], "no stage and no role of this run is called 'writer'"),
        (["=gpu"], "is called ''"),
        (["judge=gpu", "judge=laptop"], "given twice"),
    ],
)
def test_a_side_that_is_misspelt_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sides_given(given, [SEARCH, END])
    assert sides_given(["generate=gpu", "end=laptop"], [SEARCH, END]) == {"generate": "gpu", "end": "laptop"}


def test_the_last_order_of_sides_counts_and_a_hostile_one_is_harmless(tmp_path: Path) -> None:
    two = Two(tmp_path)
    received = Receiver(two.run, Disk(tmp_path / "received"), "laptop")
    assert received.orders().sides == {"generate": "gpu"}
    received.sides({"judge": "gpu"})
    received.sides({"judge": "gpu"})
    assert received.orders().sides == {"judge": "gpu"}
    assert len(known_orders((two.folder,), two.run.id, []).known) == 2
    received.sides({})
    assert received.orders().sides == {}
    odd = Orders()
    for number, given in enumerate([None, [], {"a": 1}, {"a": ["gpu"]}, {"a": "moon"}, {"b": "any"}]):
        odd.add(str(number), {"order": "sides", "sides": given, "of": 1})
    assert odd.sides == {"b": "any"}
    assert sides({}, odd)["of"] == [str(number) for number in range(6)]


@pytest.mark.slow
def test_two_workers_of_two_sides_run_a_plugins_search_together(tmp_path: Path) -> None:
    search = SearchRun(tmp_path)
    run = search.submit("--set=trees=1", "--set=levels=2", "--side-of=generate=gpu")
    gpu, laptop = search.side("gpu"), search.side("beside")
    for side in (gpu, laptop):  # workers of one machine hear of each other at once
        side.environment["HYBRID_HOME"] = str(tmp_path / "home-both")
    status = search.laptop.run("status", run).stdout
    assert f"hybrid worker FOLDER --side gpu --run {run}" in status
    assert f"--side laptop --run {run}" in status
    only = (f"--run={run}", "--max-idle=10m")  # on a busy machine the other side may take long to begin
    commands = [search.worker(gpu, "--side=gpu", *only), search.worker(laptop, "--side=laptop", *only, model=False)]
    processes = [side.start(*command) for side, command in zip((gpu, laptop), commands, strict=True)]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert (len(gpu.calls()), len(laptop.calls())) == (6, 0)
    fetched = search.laptop.run("fetch", run, "--json")
    assert fetched.returncode == 0, fetched.stderr
    (path,) = search.folder.glob("results/*/outputs.json")
    outputs = json.loads(path.read_text())
    assert [one["name"].rpartition("/")[2] for one in outputs["models"]] == ["ngrams", "script.json"]
    assert len(str(outputs["records"][0]["text"]).split()) == 3
