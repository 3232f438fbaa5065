"""Criteria, each asked of a judge: the answer needs no reference; docs/rubric.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, ClassVar

from hybrid.bounds import help_of
from hybrid.canonical import Json, digest
from hybrid.errors import UsageError
from hybrid.grading.judging import marking
from hybrid.grading.judging.asking import NO_QUESTION
from hybrid.grading.judging.criteria import LONGEST_NAME, ROW, Criterion, Scale, as_rows, criteria_in
from hybrid.grading.judging.panel import Call, Panel, Replies
from hybrid.grading.judging.replies import Said
from hybrid.grading.judging.verdict import LONGEST_REASON
from hybrid.grading.label_check import KindOfError, LabelledRow, LabelScale
from hybrid.grading.references import acceptable
from hybrid.protocols import Watcher
from hybrid.records import Grade, Output, Question, Request
from hybrid.statistics.agreement import KrippendorffAlpha

SPLIT_VOTES = "the votes are split"
LONGEST_REPLY = 100_000

MARKS = range(1, 6)
ROW_WITH_LABEL = 'a row is {"question": "...", "answer": "...", "criterion": "...", "verdict": true, false or 1 to 5}'
LABELS: Mapping[str, LabelScale] = {
    "yes/no": LabelScale(
        ("no", "yes"),
        weighted=False,
        rules={
            "always yes": lambda _: 1,
            "always no": lambda _: 0,
            "long answers": lambda row: int(_length(row) >= LONG),
        },
        errors=(
            KindOfError("met called not met", lambda truth: truth == 1, lambda said, _: said == 0),
            KindOfError("not met called met", lambda truth: truth == 0, lambda said, _: said == 1),
        ),
    ),
    "1-5": LabelScale(
        tuple(map(str, MARKS)),
        weighted=True,
        rules={"always 3": lambda _: 2, "by length": lambda row: min(4, 2 * _length(row) // LONG)},
        errors=(
            KindOfError("too low", lambda truth: truth > 0, lambda said, truth: said < truth),
            KindOfError("too high", lambda truth: truth < len(MARKS) - 1, lambda said, truth: said > truth),
            KindOfError("off by 2 or more", lambda _: True, lambda said, truth: abs(said - truth) > 1),
        ),
    ),
}
LONG = 50
"""Characters from which on a rule calls an answer long."""


def _length(row: Question) -> int:
    return len(row.outputs[0].text or "")


Mark = Said[int]
Votes = list[Mark | str]


@dataclass(frozen=True)
class Rubric(Panel):
    """The weighted mean of what judges say of each criterion, 0 to 1; no score when one of them has no verdict."""

    criteria: str = field(default="", metadata=help_of("texts with | between, or a file NAME.jsonl; docs/rubric.md"))
    scale: Scale = field(default="yes/no", metadata=help_of("of criteria that name none"))
    together: bool = field(
        default=False, metadata=help_of("one call for all criteria: faster, but each verdict sees those before it")
    )
    reference: bool = field(default=False, metadata=help_of("show the judge the reference, where there is one"))

    version: ClassVar[int] = 1
    sample: ClassVar[str] = "rubric_sample.jsonl"
    row: ClassVar[str] = ROW_WITH_LABEL
    scales: ClassVar[Mapping[str, LabelScale]] = LABELS
    of_the_task: ClassVar[tuple[str, ...]] = ("criteria", "scale")
    """Settings that do not make another judge of it: its errors are measured on criteria of the check's rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = as_rows(criteria_in(self.criteria, self.scale))
        object.__setattr__(self, "criteria", rows)  # so that grades say what was asked, not in which file it stood

    @cached_property
    def rubric(self) -> tuple[Criterion, ...]:
        """The criteria in their order."""
        return criteria_in(self.criteria, self.scale)

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[ReadyRubric]:
        """Ask the models for every verdict that is not cached."""
        self.refuse_nothing()
        with self.replies("rubric", partial(self._calls, outputs), watcher) as replies:
            yield ReadyRubric(self, replies)

    def refuse_nothing(self) -> None:
        """Raise UsageError where no criterion is given."""
        if not self.rubric:
            raise UsageError("rubric: there are no criteria", hint=f"--set criteria='Is it polite?' or a file; {ROW}")

    def criteria_of(self, output: Output) -> tuple[Criterion, ...]:
        """What is asked about an answer."""
        return self.rubric

    def labelled(self, value: Mapping[str, Any], task: str, number: int) -> LabelledRow:
        """A row of `hybrid judge check`: an answer and a criterion, with its verdict, true or false or 1 to 5."""
        question, answer, criterion = (value.get(name) for name in ("question", "answer", "criterion"))
        if not (isinstance(question, str) and isinstance(answer, str) and isinstance(criterion, str)):
            raise ValueError("a row needs the texts 'question', 'answer' and 'criterion'")
        verdict = value.get("verdict")
        if isinstance(verdict, bool):
            scale, label = "yes/no", int(verdict)
        elif isinstance(verdict, int) and verdict in MARKS:
            scale, label = "1-5", verdict - 1
        else:
            raise ValueError(f"the verdict is {verdict!r:.40}, not true, false or a whole number from 1 to 5")
        view = {"question": question, "criterion": criterion, "scale": scale}
        name = f"{task}/{number}"
        output = Output(name, task, name, view, 0, answer, None, value.get("reference"))
        return LabelledRow(Question(task, name, output.reference, (output,)), scale, label)

    def of_rows(self) -> Rubric:
        """The same judge, asked about the criterion of each row."""
        return _OfRows(**{one.name: getattr(self, one.name) for one in fields(self)})

    def request(self, output: Output, criteria: Sequence[Criterion], sample: int, attempt: int) -> Request:
        """The request for the marks of an answer on one criterion, or on all that are asked together."""
        how = {"explain": self.explain, "together": self.together}
        references = acceptable(output.reference) if self.reference else ()
        chat = marking.messages(
            self.question_of(output), references, output.text or "", criteria, instruction=self.instruction, **how
        )
        longest = min(LONGEST_REPLY, self.max_tokens * len(criteria))
        return replace(self.asking, max_tokens=longest).of(chat, marking.schema(criteria, **how), sample, attempt)

    def calls(self, output: Output, criteria: Sequence[Criterion]) -> Iterator[tuple[Criterion, list[Call[Mark]]]]:
        """Each criterion with its calls, one a sample. Criteria that are asked together have the same request."""
        for number, one in enumerate(criteria, start=1):
            asked = criteria if self.together else (one,)
            read = partial(marking.read, one, number if self.together else 0)
            samples = range(self.samples)
            yield one, [Call(partial(self.request, output, asked, sample), read) for sample in samples]

    def _calls(self, outputs: Iterable[Output]) -> Iterator[Call[Mark]]:
        for output in outputs:
            if output.text is not None and self.question_of(output):
                for _, calls in self.calls(output, self.criteria_of(output)):
                    yield from calls


@dataclass(frozen=True)
class _OfRows(Rubric):
    """A rubric whose criteria stand in the rows of a check."""

    def refuse_nothing(self) -> None:
        pass

    def criteria_of(self, output: Output) -> tuple[Criterion, ...]:
        text = str(output.view["criterion"])
        return (Criterion(text[:LONGEST_NAME], text, str(output.view["scale"])),)


class ReadyRubric:
    """Grades from the cached verdicts of all judges on all criteria."""

    def __init__(self, rubric: Rubric, replies: Replies) -> None:
        self._rubric, self._replies = rubric, replies
        self._alphas: dict[str, KrippendorffAlpha] = {}
        self._counts = {"verdicts": 0, "repaired": 0, "unreadable": 0}

    def grade(self, output: Output) -> Grade:
        """The weighted mean over the criteria, each of which is a figure."""
        if not self._rubric.question_of(output):
            return Grade(None, NO_QUESTION)
        figures: dict[str, float] = {}
        told: list[Json] = []
        problem = ""
        for one, calls in self._rubric.calls(output, self._rubric.criteria_of(output)):
            votes = [vote for call in calls for vote in self._replies.votes(call)]
            self._count(one, votes)
            found = outcome(one, votes)
            if isinstance(found, str):
                problem = problem or f"{one.name}: {found}"
            else:
                figures[one.name] = found
            told.append({"name": one.name, "scale": one.scale, "verdicts": [_told(one, vote) for vote in votes]})
        detail = {"by": "criteria", "criteria": told}
        return Grade(None if problem else self._mean(figures), problem, figures, detail=detail)

    def label_of(self, question: Question) -> int | str:
        """The place on its scale of what is said of a row of a check, or why nothing is."""
        (output,) = question.outputs
        if not self._rubric.question_of(output):
            return NO_QUESTION
        ((criterion, calls),) = self._rubric.calls(output, self._rubric.criteria_of(output))
        votes = [vote for call in calls for vote in self._replies.votes(call)]
        self._count(criterion, votes)
        found = outcome(criterion, votes)
        return found if isinstance(found, str) else round(found * (len(LABELS[criterion.scale].labels) - 1))

    def _mean(self, figures: Mapping[str, float]) -> float:
        weights = {one.name: one.weight for one in self._rubric.rubric}
        share = sum(weights[name] * value for name, value in figures.items()) / sum(weights.values())
        return min(1.0, max(0.0, share))

    def _count(self, criterion: Criterion, votes: Votes) -> None:
        read = [vote for vote in votes if isinstance(vote, Said)]
        self._counts["verdicts"] += len(read)
        self._counts["repaired"] += sum(vote.repaired for vote in read)
        self._counts["unreadable"] += len(votes) - len(read)
        self._alphas.setdefault(criterion.name, KrippendorffAlpha()).add([vote.value for vote in read])

    def about(self) -> Mapping[str, Json]:
        """Models and their digests, the numbers of verdicts, and the agreement of several on each criterion."""
        chats = [self._rubric.request(_NOTHING, (Criterion("", "criterion", scale),), 0, 0) for scale in LABELS]
        asked = digest([[[[one.role, one.content] for one in chat.messages], chat.schema] for chat in chats])
        about: dict[str, Any] = {"models": self._replies.models(), "version": self._rubric.version, "prompt": asked}
        about["counts"] = dict(self._counts)
        agreed = {name: {"alpha": one.value, "rows": one.rows} for name, one in self._alphas.items() if one.rows}
        return {**about, "agreements": agreed} if agreed else about


_NOTHING = Output("", "", "", {"question": "question"}, 0, "answer", None, None)


def outcome(criterion: Criterion, votes: Votes) -> float | str:
    """What the votes say of a criterion, in [0, 1], or why they say nothing: without a majority there is no score.

    On the scale yes/no it is what more than half of all votes say, on the other the mean, when more than half are
    readable.
    """
    read = [vote.value for vote in votes if isinstance(vote, Said)]
    problem = next((vote for vote in votes if isinstance(vote, str)), SPLIT_VOTES)
    if criterion.scale == "yes/no":
        met = sum(read)
        return problem if 2 * max(met, len(read) - met) <= len(votes) else float(2 * met > len(votes))
    return criterion.share(sum(read) / len(read)) if 2 * len(read) > len(votes) else problem


def _told(criterion: Criterion, vote: Mark | str) -> Json:
    """A vote as it stands in the detail of a grade: `said` is true or false, or 1 to 5."""
    if isinstance(vote, str):
        return {"problem": vote}
    said = bool(vote.value) if criterion.scale == "yes/no" else vote.value
    return {"said": said, "reason": vote.reason[:LONGEST_REASON]}
