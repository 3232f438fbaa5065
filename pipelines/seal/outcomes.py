"""Join the replies and answers of a trial into one result for each self-edit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from hybrid.records import Output
from hybrid.tasks.arc.reading import answers, attempts, worst
from hybrid.work import Derived
from pipelines.seal.configurations import is_bare
from pipelines.seal.edit_results import Attempts, EditResult
from pipelines.seal.editing import BASE, Editing, EditPlan, Policy, by_task


def outcomes(
    editing: Editing, tasks: Mapping[str, Any], replies: Iterable[Output], answered: Iterable[Output], policy: Policy
) -> Iterator[Derived]:
    """One text for each reply: its EditResult.

    A reply that trained nothing has the attempts of the untrained model and the reason. The answers are sorted by task,
    as outputs are, so only one task's are in memory at a time.
    """
    replied = by_task(replies)
    for id, group in groupby(answered, key=lambda output: output.task):
        yield from _items(editing, id, tasks[id], replied.pop(id), list(group), policy)
    for id, outputs in replied.items():  # tasks without any answer
        yield from _items(editing, id, tasks[id], outputs, [], policy)


def _items(
    editing: Editing,
    id: str,
    task: Mapping[str, Any],
    replies: Sequence[Output],
    answered: list[Output],
    policy: Policy,
) -> Iterator[Derived]:
    results = _of_task(editing, id, task, replies, _Arms(answered, len(task["test"])))
    view = {} if policy.round is None else {"round": policy.round, "split": task["split"]}
    for reply, result in zip(replies, results, strict=True):
        text = dataclasses.replace(result, policy=policy.adapter).to_text()
        yield Derived(id, reply.question, text, view, reply.sample)


def _of_task(
    editing: Editing, id: str, task: Mapping[str, Any], replies: Sequence[Output], arms: _Arms
) -> Iterator[EditResult]:
    voting = editing.voting
    plans = [editing.plan(id, task, reply) for reply in replies]
    base, fixed = arms.attempts(BASE, voting), arms.attempts(editing.fixed(id, task).arm, voting)
    random = tuple([arms.attempts(plan.arm, voting) for plan in editing.random(id, task, len(replies))])
    tried = tuple([None if plan.failed else arms.attempts(plan.arm, voting) for plan in plans])
    places = {plan.edit: number for number, plan in reversed(list(enumerate(plans)))}  # of the first of equal ones
    for number, (reply, plan) in enumerate(zip(replies, plans, strict=True)):
        yield EditResult(
            edit=plan.edit.to_json() if plan.edit else None,
            reply=reply.text or "",
            untrained=plan.untrained,
            failed=plan.failed or ("" if tried[number] is not None else arms.failure(plan)),
            bare=plan.edit is not None and is_bare(reply.text or ""),
            first=plan.edit is not None and places[plan.edit] == number,
            attempts=tried[number],
            base=base,
            fixed=fixed,
            random=random,
            together=() if number else tried,
            steps=arms.count(plan, "steps"),
            tokens=arms.count(plan, "tokens"),
            views=arms.views(plan),
        )


class _Arms:
    """The answers to one task, by arm and test input."""

    def __init__(self, outputs: Iterable[Output], tests: int) -> None:
        self._outputs: dict[str, list[Output]] = {}
        self._tests = tests
        for output in outputs:
            self._outputs.setdefault(output.question.partition("/")[2], []).append(output)

    def attempts(self, arm: str, voting: str) -> Attempts | None:
        """Two attempts at each test input; None when all outputs of one of these failed."""
        each = [attempts(outputs, voting) for outputs in self._of(arm)]
        return None if None in each else tuple([tried for tried in each if tried is not None])

    def failure(self, plan: EditPlan) -> str:
        """Why there are no attempts: the most frequent kind of failure."""
        failed: Counter[str] = Counter()
        for outputs in self._of(plan.arm):
            failed += answers(outputs)[1]
        return worst(failed) if failed else "no outputs"

    def count(self, plan: EditPlan, name: str) -> int:
        """A count that the training reported, such as its steps; 0 without a training."""
        counts = [output.trained.get(name) for outputs in self._of(plan.arm) for output in outputs]
        return next((each for each in counts if type(each) is int and each >= 0), 0) if plan.tuning else 0

    def views(self, plan: EditPlan) -> int:
        """The fewest answers behind the attempts at a test input."""
        return min(len(answers(outputs)[0]) for outputs in self._of(plan.arm))

    def _of(self, arm: str) -> list[list[Output]]:
        return [self._outputs.get(f"{i}@{arm}", []) for i in range(self._tests)]
