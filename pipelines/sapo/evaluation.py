"""Held-out questions, the same for every node, arm and seed: each policy answers them once, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from hybrid.loops import Policies, Prompt, Sampled
from hybrid.records import Sampling
from hybrid.tasks.reasoning.scoring import score
from pipelines.sapo import streams
from pipelines.sapo.advantages import ONE
from pipelines.sapo.node import Asked, Node, the_question
from pipelines.sapo.settings import SapoSettings


class Evaluation:
    """The held-out questions: the tasks take turns."""

    def __init__(self, settings: SapoSettings) -> None:
        self.settings = settings
        self._asked: list[Asked] | None = None

    def is_due(self, round: int) -> bool:
        """Whether the policies with which a round begins are tested."""
        every = self.settings.eval_every
        return bool(every) and (round % every == 0 or round == self.settings.rounds - 1)

    def prompts(self, policies: Policies, node: Node) -> list[Prompt]:
        """The prompts of a node's policy; a question that leaves no room for an answer is left out."""
        if self._asked is None:
            self._asked = list(self._questions(policies, node))
        sampling = Sampling(self.settings.max_tokens)
        return [Prompt(node.place, one.prompt, sampling) for one in self._asked]

    def _questions(self, policies: Policies, node: Node) -> Sequence[Asked]:
        found, tasks = [], self.settings.tasks
        for number in range(self.settings.eval_questions):
            task = tasks[number % len(tasks)]
            index = streams.held_out(task, number)
            prompt = node.prompt(policies, task, index)
            if prompt is not None:
                found.append(Asked(number, the_question(task, index, self.settings.level), prompt))
        return found

    def scores(self, sampled: Sequence[Sampled]) -> dict[str, float]:
        """`eval_pass1`, and `eval/TASK` of each task, by strict scoring whatever the rewards are."""
        by_task: dict[str, list[float]] = {}
        for one, answer in zip(self._asked or (), sampled, strict=True):
            right = score(one.question, self.settings.prefix + answer.text, "strict") / ONE
            by_task.setdefault(one.question.task, []).append(right)
        found = {f"eval/{task}": fmean(values) for task, values in by_task.items()}
        if by_task:
            found["eval_pass1"] = fmean(value for values in by_task.values() for value in values)
        return found
