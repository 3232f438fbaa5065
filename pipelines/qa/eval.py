"""Answers to questions about passages, with the passage or from memory, as SQuAD and SEAL ask them; docs/qa-eval.md."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hybrid.bounds import NOT_NEGATIVE, SEED, Bounds, help_of, refuse_outside
from hybrid.grading.judging import stages as judging
from hybrid.protocols import Inputs, Role, Stage
from hybrid.records import Item, Sampling
from hybrid.sampling import check_sampling, item_seed
from hybrid.tasks.squad.data import SAMPLE, Passage, SquadQuestion, read
from hybrid.tasks.squad.prompts import AskedPassage, Format, QuestionPrompt, asked_passage
from hybrid.work import Ask


@dataclass(frozen=True)
class QaEval:
    """Answer questions about short passages, shown or from memory; `--grader squad` compares with the answers."""

    data: str = field(default="", metadata=help_of("a JSON file in SQuAD's or SEAL's layout; empty: a small sample"))
    context: bool = field(default=True, metadata=help_of("the passage is shown; else it is asked from memory"))
    topic: bool = field(default=True, metadata=help_of("the passage's title stands before the question"))
    format: Format = field(
        default="chat", metadata=help_of("a chat, or a text to be continued by a model that was never taught to chat")
    )
    instruction: str = field(default="", metadata=help_of("how to answer; empty: the format's own"))
    limit: int = field(default=0, metadata=help_of("only the first passages; 0: all"))
    questions: int = field(default=0, metadata=help_of("at most so many questions about a passage; 0: all"))
    shuffle: int | None = field(default=None, metadata=help_of("draw the passages in the order of this seed"))
    samples: int = field(default=1, metadata=help_of("answers to each question; more than 1 needs a temperature"))
    temperature: float = field(default=0.0, metadata=help_of("0 is greedy"))
    top_p: float = field(default=1.0, metadata=help_of("nucleus of the sampling, over 0 to 1"))
    seed: int = field(default=0, metadata=help_of("draws the samples"))
    max_tokens: int = field(default=64, metadata=help_of("bound of an answer"))
    date: str = field(default="26 Jul 2024", metadata=help_of("what the chat template says today is"))

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "seal": {"context": False, "format": "plain", "shuffle": 42, "limit": 200},
        "demo": {"questions": 1},
    }

    roles: ClassVar[Mapping[str, Role]] = judging.ROLES

    def __post_init__(self) -> None:
        refuse_outside(self, limit=NOT_NEGATIVE, questions=NOT_NEGATIVE, max_tokens=Bounds(1), shuffle=SEED)
        check_sampling(self)

    def inputs(self) -> Inputs:
        """The chosen passages, and separately the answers. Raises HybridError when the file cannot be read."""
        found = read(Path(self.data) if self.data else SAMPLE)
        chosen = self._chosen(list(found.passages))
        tasks = {passage.id: self._task(passage) for passage in chosen}
        answers = {f"{passage.id}/{one.name}": list(one.answers) for passage in chosen for one in self._asked(passage)}
        counts = {"passages": len(tasks), "questions": len(answers), "grader": "squad"}
        return Inputs(tasks, answers, {**found.about, **counts})

    def stages(self) -> tuple[Stage, ...]:
        """All questions on the GPU side; with a judge, its verdicts on the laptop side."""
        return Stage("answer", "gpu", 1, Ask(self._items)), *judging.stages("answer")

    def _chosen(self, passages: list[Passage]) -> list[Passage]:
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(passages)
        return passages[: self.limit or None]

    def _asked(self, passage: Passage) -> tuple[SquadQuestion, ...]:
        return passage.questions[: self.questions or None]

    def _task(self, passage: Passage) -> Mapping[str, Any]:
        """The part of a passage that a stage may read: never an answer, and the text only when it is shown."""
        asked = [[one.name, one.text] for one in self._asked(passage)]
        shown = {"context": passage.context} if self.context else {}
        return {"title": passage.title, "questions": asked, **shown}

    def _items(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        """The items passage by passage: prompts of a passage share a prefix, which the engine caches."""
        for id in sorted(tasks):
            passage = asked_passage(tasks[id], id, context=self.context)
            for name, question in passage.questions:
                for sample in range(self.samples):
                    yield self._item(id, f"{id}/{name}", passage, question, sample)

    def _item(self, task: str, id: str, passage: AskedPassage, question: str, sample: int) -> Item:
        sampling = Sampling(self.max_tokens, self.temperature, self.top_p, item_seed(self.seed, id, sample))
        prompt = QuestionPrompt(self.format, self.topic, self.instruction, self.date)
        request = prompt.request(passage.title, question, sampling, passage.context if self.context else None)
        return Item(task, id, request, {"question": question, "context": self.context}, sample)
