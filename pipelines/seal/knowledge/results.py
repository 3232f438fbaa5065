"""The results: one record for each answer of each arm, with all that its grade needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.records import Failure, Output
from hybrid.tasks.squad.prompts import asked_passage
from hybrid.work import Derived
from pipelines.seal.knowledge.arms import Arm, Arms
from pipelines.seal.knowledge.verdicts import judged_view

TOLD = ("steps", "texts", "left_out", "tokens")
"""What is told of a training: the members of `trained` that are the same on every machine."""


def results(
    arms: Arms,
    tasks: Mapping[str, Any],
    answers: Iterable[Output],
    rules: tuple[str, ...],
    replies: Mapping[str, list[Json]] | None,
) -> Iterator[Derived]:
    """A record for each question and arm. An arm that failed has failures, never wrong answers."""
    answered = {(output.task, output.question): output for output in answers}
    for id in sorted(arms):
        passage = asked_passage(tasks[id], id, context=False)
        for arm in arms[id]:
            for number, (name, question) in enumerate(passage.questions):
                answer = answered.get((id, f"{id}/{name}@{arm.asked_as}"))
                view = {"question": question, **_view(arm, tasks[id], answer if number == 0 else None)}
                if number == 0 and arm.texts and not arm.training:
                    view["texts"] = list(arm.texts)
                if answer is not None:
                    view |= judged_view(answer, rules, replies)
                failure = arm.failed or (answer.error if answer else Failure("not-asked", "nothing was asked"))
                text = (answer.text or "") if answer else ""
                yield Derived(id, f"{id}/{name}@{arm.title}", text, view, failure=failure)


def _view(arm: Arm, task: Mapping[str, Any], first: Output | None) -> dict[str, Any]:
    view: dict[str, Any] = {"split": task["split"], "arm": arm.name}
    view |= {name: value for name in ("round", "completion") if (value := getattr(arm, name)) is not None}
    view |= {"training": arm.training} if arm.training else {}
    if first is not None and first.trained:
        view["trained"] = {name: first.trained[name] for name in TOLD if name in first.trained}
    return view
