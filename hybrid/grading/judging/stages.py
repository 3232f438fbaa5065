"""The stages of a pipeline in which a judge, a second model of the run, judges the answers.

A record of the last stage is an answer. Its `view.answer` holds the other fields of that answer's record; `view.judge`
holds the replies of the judge: none where a rule decides, one, or two where the first could not be read. The requests
are those of the grader `judge` with its defaults, so the scores are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.grading.judging import verdict
from hybrid.grading.judging.asking import Asking, question_of, settled
from hybrid.grading.judging.recorded import reply_of
from hybrid.grading.references import acceptable
from hybrid.protocols import Role, Stage
from hybrid.records import Item, Output
from hybrid.work import Ask, Derive, Derived

ROLE = "judge"
ROLES: Mapping[str, Role] = {
    ROLE: Role("judges each answer, on the laptop side", backend="ollama", optional=True, grader="judged")
}
Earlier = Mapping[str, Iterable[Output]]


def stages(answers: str) -> tuple[Stage, ...]:
    """The stages after the stage `answers`, on the laptop side, where stages may read the references."""
    judged: dict[str, Any] = {"role": ROLE, "reads_references": True}
    first = Stage("judged", "laptop", 1, Ask(_verdicts), after=(answers,), **judged)
    again = Stage("judged-again", "laptop", 1, Ask(_further_verdicts), after=(answers, first.name), **judged)
    beside = Derive(_joined, of_unfinished=True)
    joined = Stage("answer-judged", "laptop", 1, beside, after=(answers, first.name, again.name))
    return first, again, joined


def _verdicts(_tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Item]:
    """A request for each answer that no rule decides."""
    (answers,) = earlier.values()
    for answer in answers:
        if answer.text is not None and not settled(answer.text, answer.reference, question_of(answer)):
            yield _item(answer, attempt=0)


def _further_verdicts(_tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Item]:
    """A second request where the first verdict cannot be read."""
    answers, replies = earlier.values()
    for answer, reply in _beside(answers, replies):
        if reply and reply.text is not None and isinstance(verdict.read(reply.text, reply.finish), str):
            yield _item(answer, attempt=1)


def _item(answer: Output, attempt: int) -> Item:
    question = question_of(answer)
    request = Asking().request(question, acceptable(answer.reference), answer.text or "", attempt=attempt)
    return Item(answer.task, answer.question, request, {"question": question, **_arm(answer)}, answer.sample)


def _joined(_tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Derived]:
    """The answers, each with the judge's replies; a failed answer stays failed."""
    answers, first, again = earlier.values()
    for (answer, one), (_, other) in zip(_beside(answers, first), _beside(answers, again), strict=True):
        replies = [reply_of(reply) for reply in (one, other) if reply]
        view = {**answer.view, "answer": _about(answer), "judge": replies}
        yield Derived(answer.task, answer.question, answer.text or "", view, answer.sample, answer.error)


def _about(answer: Output) -> Json:
    """The fields of an answer's record beside its text, and the record's key."""
    thought = {"thought": answer.thought} if answer.thought else {}
    return {"key": answer.key, "finish": answer.finish, "tokens": list(answer.tokens), **thought}


def _arm(output: Output) -> Mapping[str, Any]:
    """The member of a view that names the arm; none of an output without one."""
    return {"arm": output.view["arm"]} if "arm" in output.view else {}


def _place(output: Output) -> tuple[object, ...]:
    return output.task, output.question, output.sample, output.view.get("arm")


def _beside(answers: Iterable[Output], replies: Iterable[Output]) -> Iterator[tuple[Output, Output | None]]:
    """Each answer with the judge's reply or None. Both inputs are in the order of outputs.json."""
    rest = iter(replies)
    reply = next(rest, None)
    for answer in answers:
        if reply and _place(reply) == _place(answer):
            yield answer, reply
            reply = next(rest, None)
        else:
            yield answer, None
