"""What every grader and every pipeline must do."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

from hybrid.canonical import Json, digest, encode
from hybrid.execution.chain import check_order
from hybrid.protocols import Inputs, OutputGrader, Pipeline, QuestionGrader, Stage
from hybrid.records import Failure, Grade, Item, Output, Question, reference_of
from hybrid.testing.promises import STRANGE, expect
from hybrid.vectors import rounded
from hybrid.walks import Replay, walked
from hybrid.work import Search


def check_grader(
    grader: OutputGrader | QuestionGrader, reference: Json, *, right: str = "", source: Json = None
) -> None:
    """A grader survives any text, judges the same output the same way, and gives `right` (if there is one) a 1."""
    for text in STRANGE:
        once, again = _grade(grader, text, reference, source), _grade(grader, text, reference, source)
        expect(once == again, f"two grades for one text {text[:40]!r}: {once} and {again}")
        encode(dict(once.detail))
    if right:
        grade = _grade(grader, right, reference, source)
        expect(grade.score == 1.0, f"the right answer has the score {grade.score}: {grade.reason}")


def check_pipeline(pipeline: Pipeline, *, most: int = 10_000) -> None:
    """Inputs and items are the same every time, no two items have one key, every question that is graded has its task
    and truth. A stage that comes after others bears whatever they may have brought.

    Looks at `most` items a stage; the walks of a search are sent made-up outputs, failures among them.
    """
    once, twice = pipeline.inputs(), pipeline.inputs()
    for name in ("tasks", "references", "about"):
        expect(digest(getattr(once, name)) == digest(getattr(twice, name)), f"{name} differ from one call to the next")
    stages = pipeline.stages()
    expect(
        bool(stages) and len({stage.name for stage in stages}) == len(stages), "needs stages, each with its own name"
    )
    check_order(stages)
    brought: dict[str, tuple[Output, ...]] = {}
    for stage in stages:
        earlier = [{name: _judged(brought[name], once, stage) for name in stage.after}] if stage.after else []
        found, again = (_items(stage, (once.tasks, *earlier), most) for _ in range(2))
        keys = [item.key(stage.identity, item.role) for item in found]
        same = keys == [item.key(stage.identity, item.role) for item in again]
        expect(same, f"the items of '{stage.name}' differ from one call to the next")
        expect(len(set(keys)) == len(keys), f"two items of '{stage.name}' have one key: number them with `sample`")
        brought[stage.name] = tuple(_made_up(stage, item) for item in found)
    for item in found:
        expect(item.task in once.tasks, f"'{stage.name}' asks about '{item.task}', which is not among the tasks")
        truth = reference_of(dict.fromkeys(once.references, True), item.question)
        expect(truth is True or not once.references, f"the question '{item.question}' has no reference")


def _items(stage: Stage, given: tuple[Any, ...], most: int) -> list[Item]:
    """The items of a stage; of a search those that its walks ask for when they are sent made-up outputs."""
    if not isinstance(stage.work, Search):
        return list(islice(stage.items(*given), most))
    outputs: dict[bytes, Output] = {}
    replay = Replay(lambda item: item.digest(stage.identity, item.role), outputs.get)
    for task in given[0]:
        replay.start(task, stage.work.walk(task, *given))
    walked(replay, lambda key, item: _made_up(stage, item), outputs, most)
    return list(replay.items.values())


def _made_up(stage: Stage, item: Item) -> Output:
    """What a model may have said, or the text that a stage derived; now and then a failure."""
    key, error = item.key(stage.identity, item.role), Failure("engine", "it stopped")
    number = int(key[:8], 16)
    plain = Output(key, item.task, item.question, item.view, item.sample, item.request.prompt, None, None)
    if not stage.asks_a_model:
        return plain
    if number % 7 == 6:
        return replace(plain, text=None, error=error)
    if item.request.embed:
        return replace(plain, text="", vector=rounded([1.0, number / 2**32, len(item.request.prompt) % 5]))
    return replace(plain, text=STRANGE[number % len(STRANGE)])


def _judged(outputs: tuple[Output, ...], inputs: Inputs, stage: Stage) -> tuple[Output, ...]:
    """The outputs as a stage gets them: with references only when it reads them."""
    if not stage.reads_references:
        return outputs
    return tuple(replace(one, reference=reference_of(inputs.references, one.question)) for one in outputs)


def _grade(grader: OutputGrader | QuestionGrader, text: str, reference: Json, source: Json) -> Grade:
    output = Output("0" * 64, "t", "t/0", {}, 0, text, None, reference)
    if isinstance(grader, QuestionGrader):
        failed = replace(output, key="f" * 64, text=None, error=Failure("engine", "it stopped"))
        return grader.grade_question(Question("t", "t/0", reference, (output, failed), source))
    return grader.grade(output)
