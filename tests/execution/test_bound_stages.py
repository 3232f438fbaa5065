"""Stages after others: known when these are finished, made anew when these change, of one model, with one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from hybrid import testing
from hybrid.backends.derived import DerivedBackend
from hybrid.canonical import Json
from hybrid.errors import BadData, CannotRun, Waits
from hybrid.execution.chain import Bound, all_before, bound
from hybrid.execution.engines import Engines, engine_for, trained_roles
from hybrid.execution.index import Index
from hybrid.execution.local import assemble
from hybrid.execution.stage_view import StageView, stage_views
from hybrid.execution.stage_work import StageWork
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.shards import FORMAT, ShardWriter
from hybrid.folder.spec import ModelSpec
from hybrid.folder.tensors import RunTensors
from hybrid.outputs import open_outputs
from hybrid.protocols import Backend, Inputs, Model, Stage, Training
from hybrid.records import Adapter, Completion, Example, Failure, Item, Message, Output, Record, Request, Sampling
from hybrid.status.run_status import RunStatus, read_status
from hybrid.status.text import detail_lines
from hybrid.tuning import Tuning
from hybrid.work import Ask, Derive, Derived, Tune

Look = Callable[[Run], RunStatus]
ONE, TWO = "1" * 64, "2" * 64
REFERENCES = {"a/0": "right", "b/0": "wrong", "b/0@odd": "its own"}


def sample(tasks: Mapping[str, Any]) -> Iterator[Item]:
    for task in sorted(tasks, reverse=True):  # not the order of outputs.json
        for number in range(2):
            yield Item(task, f"{task}/0", Request(Sampling(1), prompt=f"{task} {number}"), sample=number)
        yield Item(task, f"{task}/0@odd", Request(Sampling(1), prompt=task))


def answer(tasks: Mapping[str, Any], earlier: Mapping[str, Iterable[Output]]) -> Iterator[Item]:
    for one in earlier["sample"]:
        yield Item(one.task, one.question, Request(Sampling(1), prompt=f"{one.text} {one.reference}"), {}, one.sample)


def edits(tasks: Mapping[str, Any], earlier: Mapping[str, Iterable[Output]]) -> Iterator[Derived]:
    once = [f"{one.text} {one.reference}" for one in earlier["sample"]]
    again = [f"{one.text} {one.reference}" for one in earlier["sample"]]
    yield Derived("a", "a/0", str([once == again, once, len(list(earlier["answer"]))]))


STAGES = (
    Stage("sample", "gpu", 1, Ask(sample)),
    Stage("answer", "gpu", 1, Ask(answer), after=("sample",)),
    Stage("edits", "any", 1, Derive(edits), after=("sample", "answer"), reads_references=True),
)


@dataclass(frozen=True)
class Chain:
    """Samples, answers to them, and all of it together."""

    def inputs(self) -> Inputs:
        return Inputs({"a": {}, "b": {}}, REFERENCES, {})

    def stages(self) -> tuple[Stage, ...]:
        return STAGES


def run_of(folder: Path, digest: str = ONE) -> Run:
    place = join_folder(folder, make=True)
    return submit(place, "chain", {}, Chain().inputs(), models={"": ModelSpec("scripted", "m", digest)})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_of(tmp_path / "folder")


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Look:
    """What `hybrid status` finds, with the index that the last look left; the pipeline is installed, so to say."""
    monkeypatch.setattr("hybrid.status.run_status.pipeline_of", lambda run: Chain())

    def looked(run: Run) -> RunStatus:
        store = Disk(tmp_path / "received")
        with closing(Index(tmp_path / "index.sqlite")) as index:
            return read_status(replace(run, sources=(store, run.folder)), store, index, lambda records: None)

    return looked


def views(run: Run) -> list[StageView]:
    chain = bound(run, Chain())
    with closing(Index(None)) as index:
        stages = [(stage.name, stage) for stage in chain.stages]
        return stage_views(chain.run, stages, Disk(Path(str(run.folder)) / "nothing received"), index, ())


def finish(run: Run, name: str, *, failing: str = "", attempt: str = "one", model: str = ONE, skip: int = 0) -> None:
    """Write a record for every item of a stage but the first ones: what it asked, or a failure where it says so."""
    chain = bound(run, Chain())
    (stage,) = (one for one in chain.stages if one.name == name)
    about = {"name": "m", "digest": model, "about": {}}
    header = {"format": FORMAT, "version": 1, "run": run.id, "stage": name, "attempt": attempt, "model": about}
    writer = ShardWriter(run.folder, f"{run.place}/{name}/{attempt}", header, seconds=60)
    for item in list(stage.items(run.tasks()))[skip:]:
        key, failed = item.key(stage.identity, model), item.request.prompt == failing
        content: dict[str, Any] = (
            {"error": Failure("engine", "broken")} if failed else {"text": f"<{item.request.prompt}>"}
        )
        writer.add(Record(key, item.task, item.question, item.view, item.sample, Completion(key, **content)))
    writer.close()


def prompts(run: Run, number: int) -> list[str]:
    return [item.request.prompt for item in bound(run, Chain()).stages[number].items(run.tasks())]


def test_items_are_known_when_the_stages_before_are_finished(run: Run) -> None:
    chain = bound(run, Chain())
    assert len(list(chain.stages[0].items(run.tasks()))) == 6
    with pytest.raises(Waits, match="the stage 'answer' waits for the stage 'sample': 6 of its 6 items have no record"):
        chain.stages[1].items(run.tasks())
    finish(run, "sample", skip=1)
    with pytest.raises(Waits, match="1 of its 6 items"):
        prompts(run, 1)
    with pytest.raises(Waits, match="'edits' waits for the stage 'sample'"):
        prompts(run, 2)
    finish(run, "sample", attempt="two")
    assert prompts(run, 1) == [f"<{text}> None" for text in ("a 0", "a 1", "a", "b 0", "b 1", "b")]


def test_only_who_judges_sees_references_and_a_variant_has_that_of_its_question(run: Run) -> None:
    finish(run, "sample")
    finish(run, "answer")
    (made,) = prompts(run, 2)
    truths = ["<a 0> right", "<a 1> right", "<a> right", "<b 0> wrong", "<b 1> wrong", "<b> its own"]
    assert made == str([True, truths, 6])


def test_a_failure_counts_as_done_and_an_answer_in_its_place_makes_new_items(run: Run, tmp_path: Path) -> None:
    finish(run, "sample", failing="a 0")
    assert prompts(run, 1)[0] == "None None"
    finish(run, "answer")
    before = bound(run, Chain())
    work = StageWork(run, before.stages[1], run.tasks(), ONE)
    work.look()
    assert work.left == 0
    finish(run, "sample", attempt="two")
    assert next(iter(before.stages[1].items(run.tasks()))).request.prompt == "None None", "changed under a reader"
    assert prompts(run, 1)[0] == "<a 0> None"
    again = StageWork(run, bound(run, Chain()).stages[1], run.tasks(), ONE)
    again.look()
    assert again.left == 1
    with pytest.raises(Waits):
        assemble(bound(run, Chain()), tmp_path / "outputs.json")
    finish(run, "answer", attempt="two")
    finish(run, "edits")
    assert assemble(bound(run, Chain()), tmp_path / "outputs.json")
    assert [(one.total, one.missing, one.failed) for one in views(run)] == [(6, 0, 0), (6, 0, 0), (1, 0, 0)]


def test_outputs_are_those_of_the_last_stage_and_failures_those_of_all(run: Run, tmp_path: Path) -> None:
    finish(run, "sample", failing="a 0")
    finish(run, "answer", failing="<b> None")
    finish(run, "edits")
    assert assemble(bound(run, Chain()), tmp_path / "outputs.json")
    assert [(one.total, one.missing, one.failed) for one in views(run)] == [(6, 0, 1), (6, 0, 1), (1, 0, 0)]
    with closing(open_outputs(tmp_path / "outputs.json")) as opened:
        assert [one.reference for one in opened.records()] == ["right"]
        assert [one["digest"] for one in opened.models] == [ONE]


def test_the_first_stage_says_of_which_model_all_are(tmp_path: Path, look: Look) -> None:
    run = run_of(tmp_path / "folder", digest="")
    finish(run, "sample", attempt="b", model=TWO)
    chain = bound(run, Chain())
    assert [chain.run.model_digest(stage.name) for stage in chain.stages] == [TWO, TWO, TWO]
    finish(run, "answer", attempt="a", model=ONE)
    finish(run, "answer", attempt="b", model=TWO)
    assert views(run)[1].missing == 0
    status = look(run)
    assert [stage.model for stage in status.stages] == [TWO] * 3
    assert [stage.done for stage in status.stages] == [6, 6, 0]
    assert "another model" in "\n".join(status.refused)


def test_status_tells_who_waits_for_whom(run: Run, look: Look) -> None:
    found = look(run)
    assert (found.total, found.exit_code) == (None, 4)
    assert [(stage.total, stage.waits) for stage in found.stages] == [(6, ""), (None, "sample"), (None, "sample")]
    said = "\n".join(detail_lines(found))
    assert "answer: waits for the stage 'sample'" in said
    assert ": 0 items" not in said
    finish(run, "sample", failing="a 0")
    finish(run, "answer")
    found = look(run)
    assert [(stage.total, stage.done, stage.waits) for stage in found.stages] == [(6, 6, ""), (6, 6, ""), (1, 0, "")]
    finish(run, "sample", attempt="two")
    found = look(run)
    assert [(stage.total, stage.done, stage.strange) for stage in found.stages[:2]] == [(6, 6, 0), (6, 5, 1)]
    assert found.stages[2].waits == "answer"
    finish(run, "answer", attempt="two")
    finish(run, "edits")
    found = look(run)
    assert (found.done, found.total, found.exit_code) == (True, 13, 0)


def test_status_lists_the_items_of_a_later_stage_once(run: Run, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in STAGES:
        finish(run, stage.name)
    assert look(run).done
    monkeypatch.setattr("hybrid.execution.stage_view.listing", lambda *_, **__: pytest.fail("listed again"))
    assert look(run).done


def test_what_training_keeps_is_no_stage_of_a_run_whose_pipeline_is_not_here(run: Run, tmp_path: Path) -> None:
    finish(run, "sample")
    RunTensors(run.id, "one", Disk(tmp_path / "folder")).keep(ONE, 1, b"x")
    with closing(Index(None)) as index:
        found = read_status(run, Disk(tmp_path / "received"), index, lambda records: None)
    assert [(stage.name, stage.done, stage.total) for stage in found.stages] == [("sample", 6, None)]
    with pytest.raises(BadData, match="'tensors' is the name of something else"):
        list(run.shards("tensors", []))


def test_items_that_cannot_be_had_by_their_order_are_refused(run: Run) -> None:
    first, second, third = STAGES
    for stages in (
        (second, first),
        (first, first),
        (first, replace(second, after=("answer",))),
        (replace(third, after=()),),
    ):
        with pytest.raises(CannotRun):
            Bound(run, stages)
    assert [stage.name for stage in all_before(STAGES, third)] == ["sample", "answer"]
    assert [stage.name for stage in all_before(STAGES, replace(third, after=("answer",)))] == ["sample", "answer"]


def test_the_pipeline_keeps_its_promises_and_a_broken_one_is_told() -> None:
    testing.check_pipeline(Chain())

    class Broken(Chain):
        def stages(self) -> tuple[Stage, ...]:
            def fragile(tasks: Any, earlier: Any) -> Iterator[Item]:
                yield Item("a", "a/0", Request(Sampling(1), prompt=earlier["sample"][6].text.upper()))

            return (STAGES[0], Stage("answer", "gpu", 1, Ask(fragile), after=("sample",)))

    with pytest.raises((AttributeError, IndexError)):
        testing.check_pipeline(Broken())


def test_a_derived_text_is_its_prompt_and_nothing_is_asked() -> None:
    engine = DerivedBackend("m", ONE)
    plain = Request(Sampling(1), prompt="the text", key="k")
    (done,) = engine.generate([plain])
    assert (done.text, done.finish, done.error) == ("the text", "stop", None)
    (empty,) = engine.generate([replace(plain, prompt="")])
    assert empty.text == ""
    for odd in (
        replace(plain, messages=(Message("user", "x"),), prompt=""),
        replace(plain, adapter=Adapter(ONE, "")),
    ):
        (refused,) = engine.generate([odd])
        assert refused.error is not None


def examples(tasks: Mapping[str, Any], asked: Mapping[str, Json]) -> tuple[Example, ...]:
    return tuple(Example(text=f"{task} {asked['flag']}") for task in sorted(tasks))


def tuned(tasks: Mapping[str, Any]) -> Iterator[Item]:
    """Requests with three different trainings."""
    adapter = Adapter(TWO, "")
    for number, (rate, start) in enumerate([(0.1, None), (0.2, None), (0.1, None), (0.1, adapter), (0.2, None)]):
        request = Request(Sampling(1), prompt=str(number), adapter=start, tuning=Tuning({"flag": "x"}, rate, 1))
        yield Item("a", "a/0", request)


class Engine:
    """An engine that records its calls of `prepare`."""

    model = Model("m", ONE, 1, {})

    def __init__(self, opened: list[Engine]) -> None:
        self.closed, self.prepared = False, list[Training]()
        assert all(one.closed for one in opened), "two engines on one GPU"
        opened.append(self)

    def prepare(self, training: Training) -> None:
        self.prepared.append(training)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return iter(())

    def close(self) -> None:
        self.closed = True


def test_an_engine_is_opened_once_for_a_chain_and_told_what_each_stage_trains(run: Run, tmp_path: Path) -> None:
    opened: list[Engine] = []

    def make(role: str, *, trains: bool) -> Backend:
        return Engine(opened)

    trained = replace(STAGES[1], work=Tune(tuned, examples), after=())
    stages, tensors = (STAGES[0], trained, STAGES[2]), RunTensors(run.id, "one", Disk(tmp_path))
    assert trained_roles(stages) == {""}
    assert not trained_roles(STAGES)
    with Engines() as engines:
        plain = [engine_for(engines, run, stage, ONE, None, make, {}) for stage in STAGES[:2]]
        assert plain[0] is plain[1] is opened[0]
        assert opened[0].prepared == []
        first, second, derived = (engine_for(engines, run, stage, ONE, tensors, make, {}) for stage in stages)
        assert first is second is engine_for(engines, run, trained, ONE, tensors, make, {}) is opened[1]
        assert isinstance(derived, DerivedBackend)
        assert not opened[-1].closed, "a derived stage closes nothing"
        engine_for(engines, run, STAGES[0], ONE, tensors, make, {})
    assert [one.closed for one in opened] == [True] * 2
    before, during, after = opened[1].prepared
    assert [(one.examples is None, one.tensors, one.trainings == ()) for one in (before, during, after)] == [
        (True, tensors, True),
        (False, tensors, False),
        (True, tensors, True),
    ]
    assert [(one.learning_rate, start) for one, start in during.trainings] == [(0.1, ""), (0.2, ""), (0.1, TWO)]
    assert during.examples is not None
    assert [one.text for one in during.examples({"flag": "x"})] == ["a x", "b x"]
    ForkingPickler.dumps(during.examples)  # as it is sent to other processes


def test_a_failed_preparation_is_tried_again_and_another_model_closes_the_first(run: Run, tmp_path: Path) -> None:
    opened: list[Engine] = []

    class FailsFirst(Engine):
        def prepare(self, training: Training) -> None:
            super().prepare(training)
            if len(self.prepared) == 1:
                raise CannotRun("too large")

    trained = replace(STAGES[1], work=Tune(tuned, examples), after=())
    tensors = RunTensors(run.id, "one", Disk(tmp_path))
    with Engines() as engines:
        with pytest.raises(CannotRun):
            engine_for(engines, run, trained, ONE, tensors, lambda role, *, trains: FailsFirst(opened), {})
        engine_for(engines, run, trained, ONE, tensors, lambda role, *, trains: FailsFirst(opened), {})
        assert [len(one.prepared) for one in opened] == [2]
        other = replace(run, spec={**run.spec, "model": "another"})
        engine_for(engines, other, trained, ONE, tensors, lambda role, *, trains: Engine(opened), {})
        assert [one.closed for one in opened] == [True, False]
