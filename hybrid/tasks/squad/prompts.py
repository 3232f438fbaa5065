"""How a question about a passage is asked: with the passage or from memory, in a chat or as a text to be continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hybrid.errors import BadData
from hybrid.records import Message, Request, Sampling

Format = Literal["chat", "plain"]
SHORT = "Answer with as few words as possible: a name, a number or a short phrase, not a sentence."
INSTRUCTIONS = {
    ("chat", True): f"You answer questions about a passage. {SHORT}",
    ("chat", False): f"You answer questions directly and concisely. {SHORT}",
    ("plain", True): "Let's answer a question about a passage directly and concisely.",
    ("plain", False): "Let's answer a question directly and concisely.",  # SEAL's own words
}
"""The default instruction, by format and by whether the passage is shown."""


@dataclass(frozen=True, slots=True)
class QuestionPrompt:
    """The settings of the prompt; `instruction` "" is the format's own, `topic` puts the title before the question."""

    format: Format = "chat"
    topic: bool = True
    instruction: str = ""
    date: str = ""

    def request(self, title: str, question: str, sampling: Sampling, context: str | None = None) -> Request:
        """What is asked; the passage is shown when there is a `context`."""
        shown = context is not None
        instruction = self.instruction or INSTRUCTIONS[self.format, shown]
        passage = f"Passage: {context}\n" if shown else ""
        topic = f"Topic: {title}\n" if self.topic and title else ""
        if self.format == "plain":
            return Request(sampling, prompt=f"{instruction}\n{passage}Question: {topic}{question}\nAnswer:\n")
        messages = (Message("system", instruction), Message("user", f"{topic}{passage}Question: {question}"))
        return Request(sampling, messages, template={"date_string": self.date})


@dataclass(frozen=True, slots=True)
class AskedPassage:
    """A passage as a task of a run holds it; `context` is "" where it is not shown. A question is (name, text)."""

    title: str
    context: str
    questions: tuple[tuple[str, str], ...]


def asked_passage(task: Any, id: str, *, context: bool) -> AskedPassage:
    """The passage in the task `id` of a run, its questions in order of their names. Raises BadData."""
    fields: Mapping[str, Any] = task if isinstance(task, dict) else {}
    title, text, asked = fields.get("title"), fields.get("context") if context else "", fields.get("questions")
    if isinstance(title, str) and isinstance(text, str) and isinstance(asked, list) and all(map(_is_pair, asked)):
        return AskedPassage(title, text, tuple([(name, question) for name, question in sorted(asked)]))
    raise BadData(
        f"task {id} of the run: not a passage with questions",
        hint="the run was changed by hand or written by another pipeline",
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
