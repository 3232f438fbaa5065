"""One node of a swarm: the questions that it asks, the prompts, and what answers earn. It knows no exchange."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from hybrid.loops import Policies, Prompt, Sampled
from hybrid.records import Sampling
from hybrid.tasks.reasoning.questions import Question, messages, question
from hybrid.tasks.reasoning.scoring import score
from pipelines.sapo import streams
from pipelines.sapo.arms import Arm
from pipelines.sapo.rollouts import Rollout, answer_of
from pipelines.sapo.settings import SapoSettings

MOST_PROMPTS = 1024
"""Prompts that a node knows: a question is asked, and then trained on."""


class Asked(NamedTuple):
    """A question in its slot of a round, and the tokens before an answer."""

    slot: int
    question: Question
    prompt: tuple[int, ...]


class Node:
    """Node `number` of a swarm. All arms of a seed ask the same questions with the same seeds.

    `place` is its slot in the policies of this process.
    """

    def __init__(
        self, settings: SapoSettings, arm: Arm, seed: int, number: int, place: int, configuration: str
    ) -> None:
        self.settings, self.arm, self.seed, self.number, self.place = settings, arm, seed, number, place
        self.configuration = configuration
        self._prompts: dict[tuple[str, int], tuple[int, ...] | None] = {}

    def asked(self, policies: Policies, round: int, first: int, end: int) -> list[Asked]:
        """The questions of the slots `first` to `end` - 1 in a round, without those that leave no room for an answer.

        Tasks are drawn with replacement.
        """
        found = []
        for slot in range(first, end):
            task, index = asked_in(self.settings, self.seed, self.number, round, slot)
            prompt = self.prompt(policies, task, index)
            if prompt is not None:
                found.append(Asked(slot, the_question(task, index, self.settings.level), prompt))
        return found

    def prompt(self, policies: Policies, task: str, index: int) -> tuple[int, ...] | None:
        """The tokens before an answer; None when they leave no room for one."""
        if (task, index) not in self._prompts:
            if len(self._prompts) >= MOST_PROMPTS:
                self._prompts.clear()
            self._prompts[task, index] = self._prompt(policies, task, index)
        return self._prompts[task, index]

    def _prompt(self, policies: Policies, task: str, index: int) -> tuple[int, ...] | None:
        prefix = self.settings.prefix
        try:
            ids = policies.prompt(messages(the_question(task, index, self.settings.level)))
        except ValueError:
            return None
        whole = (*ids, *(policies.encode(prefix) if prefix else ()))
        return whole if len(whole) + self.settings.max_tokens <= policies.context else None

    def prompts(self, asked: Sequence[Asked], round: int) -> list[Prompt]:
        """The prompts of all samples of each question, one question after the other."""
        how = self.settings
        return [
            Prompt(self.place, one.prompt, Sampling(how.max_tokens, how.temperature, how.top_p, seed))
            for one in asked
            for sample in range(how.group)
            for seed in [streams.sampling_seed(self.seed, self.number, round, one.slot, sample)]
        ]

    def rollouts(self, asked: Sequence[Asked], sampled: Sequence[Sampled], round: int, tokenizer: str) -> list[Rollout]:
        """The rollouts of the questions, whose samples follow each other."""
        how, found = self.settings, []
        for number, one in enumerate(asked):
            wrote = sampled[number * how.group : (number + 1) * how.group]
            answers = tuple(answer_of(each, logprobs=bool(how.importance_cap)) for each in wrote)
            place = self.number, round, one.slot
            found.append(Rollout(self.configuration, *place, one.question.task, one.question.index, answers, tokenizer))
        return found


def asked_in(settings: SapoSettings, seed: int, node: int, round: int, slot: int) -> tuple[str, int]:
    """Task and index of the question that a node asks in a slot of a round."""
    return streams.question(settings.tasks, seed, node if settings.questions == "own" else 0, round, slot)


@lru_cache(maxsize=4096)
def the_question(task: str, index: int, level: str) -> Question:
    """The question of an index: it is made once for all who train on it."""
    return question(task, index, level)


def rewards_of(settings: SapoSettings, rollout: Rollout) -> tuple[int, ...]:
    """What each answer earns, in ten-thousandths, by this machine's own question and verifier."""
    asked = the_question(rollout.task, rollout.index, settings.level)
    return tuple(score(asked, settings.prefix + one.text, settings.scoring) for one in rollout.answers)
