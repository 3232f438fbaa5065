"""Which answers need a judge, and the request for one verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hybrid.canonical import Json, digest
from hybrid.grading.answers import RULES
from hybrid.grading.judging import prompt
from hybrid.grading.references import acceptable, why_not_acceptable, worded
from hybrid.records import Grade, Message, Output, Request, Sampling

NO_QUESTION = "the output does not say what was asked (view.question)"
VERSION = 2
"""Raised when prompt or rules change: what is known of the judge's errors is then not known of the new ones."""
WARM = 0.7
"""Temperature of a further try: at 0 an unreadable verdict would only be repeated."""
MAX_TOKENS = 256
"""Bound of a verdict with its reason, when nothing else is set."""
USUAL_RULES = ("exact",)
"""The rules that call an answer right without a model, when nothing else is set."""


def settled(text: str, reference: Json, question: str, rules: Iterable[str] = USUAL_RULES) -> Grade | None:
    """The grade of an answer that needs no model; None when a model is to be asked."""
    wanted = acceptable(reference)
    if not worded(reference):
        return Grade(None, why_not_acceptable(reference))
    if not text.strip():
        return Grade(0.0, detail={"by": "empty answer"})
    for rule in rules:
        if RULES[rule](text, wanted):
            return Grade(1.0, detail={"by": f"rule {rule}"})
    return None if question else Grade(None, NO_QUESTION)


def question_of(output: Output) -> str:
    """The text of the question as the output shows it; empty when it does not tell."""
    text = output.view.get("question")
    return text if isinstance(text, str) else ""


@dataclass(frozen=True, slots=True)
class Asking:
    """How a judge is asked; `instruction` "" is the usual one."""

    explain: bool = True
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = MAX_TOKENS
    schema: bool = True
    instruction: str = ""

    def request(
        self,
        question: str,
        references: Sequence[str],
        answer: str,
        *,
        swapped: bool = False,
        sample: int = 0,
        attempt: int = 0,
    ) -> Request:
        """What one verdict is asked with; a further attempt is another draw."""
        chat = prompt.messages(
            question, references, answer, instruction=self.instruction, explain=self.explain, swapped=swapped
        )
        return self.of(chat, prompt.schema(explain=self.explain), sample, attempt)

    def of(self, chat: tuple[Message, ...], schema: Mapping[str, Any], sample: int, attempt: int) -> Request:
        """The request for a verdict that has the form of `schema`; a further attempt is another draw."""
        how = Sampling(
            max_tokens=self.max_tokens,
            temperature=max(self.temperature, WARM) if attempt else self.temperature,
            seed=(self.seed + sample + 1009 * attempt) % 2**31,
        )
        return Request(how, messages=chat, schema=schema if self.schema else None)


def prompt_digest(how: Asking) -> str:
    """The sha256 of what a judge is asked, with names in place of question, reference and answer."""
    request = how.request("question", ["reference"], "answer")
    return digest([[[one.role, one.content] for one in request.messages], request.schema])


def usual_settings(backend: str) -> dict[str, Json]:
    """The settings of the grader `judge` that asks as the judge of a run is asked, with its model in `backend`."""
    places: dict[str, Json] = {"samples": 1, "swap": False, "retries": 1, "asked": "view"}
    return {"backend": backend, "rules": list(USUAL_RULES), **places, **asdict(Asking())}
