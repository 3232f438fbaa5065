"""Verdicts on answers: what the judge is asked, each different row once, and the grade of a record of the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hybrid.canonical import Json, digest
from hybrid.grading.answers import RULES
from hybrid.grading.judging import verdict
from hybrid.grading.judging.asking import Asking, question_of, settled
from hybrid.grading.judging.recorded import grade_of, reply_of, vote_in
from hybrid.grading.references import acceptable
from hybrid.records import Grade, Item, Output

ROW = "row"


def row_of(answer: Output) -> str:
    """The name of what a judge is asked: equal questions, references and answers are one row."""
    return digest([question_of(answer), list(acceptable(answer.reference)), (answer.text or "").strip()])[:32]


def rows(answers: Iterable[Output], rules: Iterable[str]) -> dict[str, Output]:
    """The answers that no rule settles, the first of each row."""
    found: dict[str, Output] = {}
    for answer in answers:
        if answer.text is not None and not settled(answer.text, answer.reference, question_of(answer), rules):
            found.setdefault(row_of(answer), answer)
    return found


def asked(open_rows: Mapping[str, Output], judged: Iterable[Output]) -> Iterator[Item]:
    """A request for each row that was not `judged` before."""
    before = {reply.view[ROW] for reply in judged}
    for row, answer in open_rows.items():
        if row not in before:
            yield _item(answer, row, attempt=0)


def asked_again(open_rows: Mapping[str, Output], replies: Iterable[Output]) -> Iterator[Item]:
    """A second request for each row whose verdict cannot be read."""
    for reply in replies:
        row = reply.view[ROW]
        unreadable = reply.text is not None and isinstance(verdict.read(reply.text, reply.finish), str)
        if unreadable and row in open_rows:
            yield _item(open_rows[row], row, attempt=1)


def _item(answer: Output, row: str, attempt: int) -> Item:
    question = question_of(answer)
    request = Asking().request(question, acceptable(answer.reference), (answer.text or "").strip(), attempt=attempt)
    name = f"{answer.question.partition('@')[0]}@{row[:16]}"
    return Item(answer.task, name, request, {"question": question, ROW: row})


def replies_by_row(judged: Iterable[Output]) -> dict[str, list[Json]]:
    """What the judge replied, by row, in the order in which it was asked."""
    found: dict[str, list[Json]] = {}
    for reply in judged:
        found.setdefault(reply.view[ROW], []).append(reply_of(reply))
    return found


def grade(output: Output) -> Grade:
    """1 or 0 for a record of the results, or no score and the reason. Never raises on a hostile file.

    A rule settles it, else the judge's replies (`view.judge`); in a run without a judge what no rule calls right is
    wrong.
    """
    if output.text is None:
        return Grade(None, output.error.kind if output.error else "no text")
    given = output.view.get("rules")
    rules = [one for one in given if isinstance(one, str) and one in RULES] if isinstance(given, list) else []
    if decided := settled(output.text, output.reference, question_of(output), rules):
        return decided
    if "judge" in output.view:
        return grade_of(vote_in(output.view["judge"]))
    return Grade(0.0, detail={"by": "no rule"}) if rules else Grade(None, "neither rules nor verdicts")


def judged_view(answer: Output, rules: tuple[str, ...], replies: Mapping[str, list[Json]] | None) -> dict[str, Any]:
    """The members of a result's view that `grade` reads; `replies` is None in a run without a judge."""
    settings: dict[str, Any] = {"rules": list(rules)}
    if replies is None or answer.text is None:
        return settings
    return {**settings, "judge": replies.get(row_of(answer), [])}
