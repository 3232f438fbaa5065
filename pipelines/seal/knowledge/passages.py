"""Which passages are for training, in which round and group, and which are for the evaluation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.errors import UsageError
from hybrid.protocols import Inputs
from hybrid.tasks.squad.data import SAMPLE, Passage, PassageFile, SquadQuestion, read, read_completions
from pipelines.seal.knowledge.settings import KnowledgeSettings

TRAIN, EVAL = "train", "eval"


def passages_of(settings: KnowledgeSettings) -> Inputs:
    """The passages of both splits, and separately the answers to their questions.

    The evaluation passages are the first of their file in the order drawn, so more training does not change them.
    Raises HybridError when a file cannot be read, UsageError when it has too few passages or one is in both splits.
    """
    file = read(Path(settings.data) if settings.data else SAMPLE)
    other = read(Path(settings.eval_data)) if settings.eval_data else None
    held, train = _divided(settings, file, other)
    if both := sorted({one.id for one in held} & {one.id for one in train}):
        raise UsageError(
            f"the passage '{both[0]}' is both for training and for the evaluation",
            hint="take it out of one of the two files, or leave eval_data empty",
        )
    given = read_completions(Path(settings.given)) if settings.given else {}
    tasks = dict(_tasks(settings, held, train, given))
    answers = {
        f"{one.id}/{question.name}": list(question.answers)
        for one in (*held, *train)
        for question in asked(settings, one)
    }
    counts = Counter(task["split"] for task in tasks.values())
    about = {**file.about, "passages": dict(counts), "questions": len(answers), "grader": "knowledge"}
    if other:
        about["evaluation"] = dict(other.about)
    if given:
        found = sum("given" in task for task in tasks.values())
        about["given"] = {"passages": len(given), "of the evaluation": found, "without": counts[EVAL] - found}
    return Inputs(tasks, answers, about)


def asked(settings: KnowledgeSettings, passage: Passage) -> tuple[SquadQuestion, ...]:
    """The questions about a passage that are asked."""
    return passage.questions[: settings.questions or None]


def _divided(
    settings: KnowledgeSettings, file: PassageFile, other: PassageFile | None
) -> tuple[Sequence[Passage], Sequence[Passage]]:
    """The evaluation passages and the training passages."""
    own, held = _drawn(settings, file), settings.eval_passages
    needed = settings.passages * (settings.rounds if settings.fresh else min(1, settings.rounds))
    if other is not None:
        evaluated = _drawn(settings, other)
        _refuse_few(evaluated, held, "eval_data", f"eval_passages={held}")
        _refuse_few(own, needed, "data", _needs(settings))
        return evaluated[:held], own[:needed]
    _refuse_few(own, held + needed, "data", f"{_needs(settings)} and eval_passages={held}")
    return own[:held], own[held : held + needed]


def _drawn(settings: KnowledgeSettings, file: PassageFile) -> list[Passage]:
    passages = list(file.passages)
    if settings.shuffle is not None:
        random.Random(settings.shuffle).shuffle(passages)
    return passages


def _needs(settings: KnowledgeSettings) -> str:
    return f"rounds={settings.rounds} of passages={settings.passages}" + ("" if settings.fresh else " (the same)")


def _refuse_few(there: Sequence[Passage], needed: int, name: str, why: str) -> None:
    if len(there) < needed:
        raise UsageError(
            f"{name} has {len(there):,} passages with questions, {needed:,} are needed: {why}",
            hint="--set passages=N, eval_passages=N, rounds=N or fresh=false; passages without questions do not count",
        )


def _tasks(
    settings: KnowledgeSettings,
    held: Sequence[Passage],
    train: Sequence[Passage],
    given: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What stages may read of each passage: never an answer."""
    for one in held:
        texts = {"given": list(given[one.id][: settings.eval_completions])} if given.get(one.id) else {}
        yield one.id, {**_task(settings, one), "split": EVAL, **texts}
    for number, one in enumerate(train):
        round, place = divmod(number, settings.passages)
        group = place * min(settings.groups, settings.passages) // settings.passages
        when = {"round": round} if settings.fresh else {}
        yield one.id, {**_task(settings, one), "split": TRAIN, "group": group, **when}


def _task(settings: KnowledgeSettings, passage: Passage) -> dict[str, Any]:
    questions = [[one.name, one.text] for one in asked(settings, passage)]
    return {"title": passage.title, "context": passage.context, "questions": questions}


def of_group(tasks: Mapping[str, Any], round: int, group: int | None = None) -> dict[str, Any]:
    """The training passages of a round, or of one of its groups, by id."""
    return {
        id: task
        for id, task in tasks.items()
        if task["split"] == TRAIN and task.get("round", round) == round and group in (None, task["group"])
    }


def of_evaluation(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation passages by id."""
    return {id: task for id, task in tasks.items() if task["split"] == EVAL}
