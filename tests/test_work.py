"""The kinds of work: what each makes as items, and stages that were written before there were any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hybrid import records, testing
from hybrid.canonical import Json
from hybrid.errors import PluginFault
from hybrid.execution.local import Engine, run_here
from hybrid.plugins.faults import stages_of
from hybrid.progress import SilentProgress
from hybrid.protocols import Inputs, Stage
from hybrid.records import Adapter, Example, Item, Output, Request, Sampling
from hybrid.tuning import Tuning
from hybrid.work import Ask, Derive, Derived, FineTuning, Tune, Work
from tests.support.stages_in_memory import run_stages

Earlier = Mapping[str, Iterable[Output]]
HOW = Tuning({"task": "a"}, 0.1, 1, keep=True)
ADAPTER = Adapter("b" * 64, "")


def asked(tasks: Mapping[str, Any]) -> Iterator[Item]:
    for task in sorted(tasks):
        yield Item(task, f"{task}/0", Request(Sampling(8), prompt=task))


def trained(tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Item | FineTuning]:
    for one in earlier["ask"]:
        yield Item(one.task, one.question, Request(Sampling(8), prompt="again", tuning=HOW))
    yield FineTuning("a", "policy", HOW, ADAPTER)


def texts(tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Derived]:
    for one in earlier["ask"]:
        yield Derived(one.task, one.question, f"{one.text} {one.reference}", {"x": 1}, one.sample)


def examples(tasks: Mapping[str, Any], about: Mapping[str, Json]) -> list[Example]:
    return [Example(text=str(about["task"]))]


def earlier_trained(tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Item]:
    for one in earlier["ask"]:
        yield Item(one.task, one.question, Request(Sampling(8), prompt="again", tuning=HOW))
    yield Item("a", "policy", Request(Sampling(1), adapter=ADAPTER, tuning=HOW))


def earlier_texts(tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Item]:
    for one in earlier["ask"]:
        text = f"{one.text} {one.reference}"
        yield Item(one.task, one.question, Request(Sampling(1), prompt=text), {"x": 1}, one.sample)


@dataclass(frozen=True)
class Now:
    """Stages with kinds of work."""

    def inputs(self) -> Inputs:
        return Inputs({"a": {}, "b": {}}, {"a/0": "yes", "b/0": "no"}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("ask", "gpu", 1, Ask(asked)),
            Stage("tune", "gpu", 1, Tune(trained, examples), after=("ask",)),
            Stage("join", "any", 1, Derive(texts), after=("ask", "tune"), reads_references=True),
        )


class Before(Now):
    """The same as a plugin wrote it before there were any."""

    def stages(self) -> tuple[Stage, ...]:
        stage: Any = Stage
        return (
            stage("ask", "gpu", 1, asked),
            stage("tune", "gpu", 1, earlier_trained, ("ask",), lessons=examples),
            stage("join", "any", 1, items=earlier_texts, after=("ask", "tune"), judges=True, derived=True),
        )


def test_a_pipeline_of_earlier_stages_makes_the_same_records() -> None:
    now, before = (
        run_stages(one, one.inputs(), lambda item: f"said {item.request.prompt}") for one in (Now(), Before())
    )
    assert now == before
    assert [one.text for one in now["join"]] == ["said a yes", "said b no"]
    for pipeline in (Now(), Before()):
        testing.check_pipeline(pipeline)
        assert [type(stage.work) for stage in stages_of(pipeline)] == [Ask, Tune, Derive]


def test_a_run_of_earlier_stages_goes_on_where_it_was(tmp_path: Path) -> None:
    script, folder = tmp_path / "script.json", tmp_path / "folder"
    script.write_text('{"answers": {}, "default": "said"}')
    engine = Engine("scripted", str(script))
    done = [run_here(folder, "chain", pipeline, {"": engine}, SilentProgress()) for pipeline in (Before(), Now())]
    assert [(one.total, one.fresh, one.failed) for one in done] == [(7, 7, 0), (7, 0, 0)]


@pytest.mark.parametrize(
    ("given", "named", "expected"),
    [
        ((asked,), {}, Stage("s", "gpu", 1, Ask(asked))),
        ((), {"work": asked}, Stage("s", "gpu", 1, Ask(asked))),
        ((), {"items": asked, "role": "judge"}, Stage("s", "gpu", 1, Ask(asked), role="judge")),
        ((asked, ("a",), True), {}, Stage("s", "gpu", 1, Ask(asked), ("a",), reads_references=True)),
        ((texts, ("a",), False, True), {}, Stage("s", "gpu", 1, Derive(texts), ("a",))),
        ((asked, (), False, False, examples), {}, Stage("s", "gpu", 1, Tune(asked, examples))),
        ((asked,), {"lessons": None, "derived": False, "judges": False}, Stage("s", "gpu", 1, Ask(asked))),
        ((Ask(asked), ("a",), "judge", True), {}, Stage("s", "gpu", 1, Ask(asked), ("a",), "judge", True)),
    ],
)
def test_earlier_arguments_are_translated(given: tuple[Any, ...], named: dict[str, Any], expected: Stage) -> None:
    stage: Any = Stage
    assert stage("s", "gpu", 1, *given, **named) == expected


def test_one_field_of_a_stage_can_be_replaced_by_its_earlier_name() -> None:
    stage: Any = Stage("s", "gpu", 1, Tune(asked, examples), ("a",), reads_references=True)
    assert replace(stage, items=trained) == replace(stage, work=Tune(trained, examples))
    assert replace(stage, judges=False) == replace(stage, reads_references=False)
    assert replace(stage, lessons=None) == replace(stage, work=Ask(asked))
    assert replace(stage, version=2).work is stage.work


def test_what_is_no_work_is_refused() -> None:
    stage: Any = Stage
    for given in ((), (None,), ("items",)):
        with pytest.raises(TypeError):
            stage("s", "gpu", 1, *given)
    with pytest.raises(TypeError):
        stage("s", "gpu", 1, asked, unknown=True)
    with pytest.raises(TypeError):
        stage("s", "gpu", 1, asked, (), False, False, None, "more")
    with pytest.raises(TypeError):
        stage("s", "gpu", 1, asked, items=asked)
    with pytest.raises(TypeError, match="the text of a Derived is a str, not a dict"):
        Derived("a", "a/0", {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (Ask(lambda tasks: [FineTuning("a", "p", HOW)]), "FineTuning where hybrid wants Item"),
        (Ask(lambda tasks: [Derived("a", "a/0", "x")]), "Derived where hybrid wants Item"),
        (Tune(lambda tasks: [Derived("a", "a/0", "x")], examples), "Derived where hybrid wants Item or FineTuning"),
        (Derive(lambda tasks: ["x"]), "str where hybrid wants Derived or Item"),
    ],
)
def test_a_stage_that_makes_something_else_is_told_what_its_work_takes(work: Work, why: str) -> None:
    class Wrong(Now):
        def stages(self) -> tuple[Stage, ...]:
            return (Stage("s", "gpu", 1, work),)

    (stage,) = stages_of(Wrong())
    with pytest.raises(PluginFault, match=why):
        list(stage.items({}))


def test_a_tuning_takes_and_gives_the_earlier_name_of_its_examples() -> None:
    made: Any = Tuning
    assert made(lessons={"task": "a"}, learning_rate=0.1, epochs=1, keep=True) == HOW
    assert (HOW.lessons, HOW.to_json()["lessons"]) == (HOW.examples, HOW.examples)
    assert "examples" not in HOW.to_json(), "it would change the digest, and with it the keys of items"
    assert replace(HOW, epochs=2).examples == HOW.examples


def test_an_example_has_its_earlier_name_for_plugins() -> None:
    assert records.Lesson is Example
