"""Arms compared in pairs by a judge who sees each pair in both orders; docs/rubric.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar

from hybrid.bounds import help_of
from hybrid.canonical import Json, digest
from hybrid.grading.arms import arms_named
from hybrid.grading.judging import comparing
from hybrid.grading.judging.asking import NO_QUESTION
from hybrid.grading.judging.comparing import Verdict, Vote, both_of
from hybrid.grading.judging.pairs import Arms, Pair, arms_of
from hybrid.grading.judging.panel import Call, Panel, Replies
from hybrid.grading.judging.tally import Tally
from hybrid.grading.judging.verdict import LONGEST_REASON
from hybrid.grading.label_check import KindOfError, LabelledRow, LabelScale
from hybrid.grading.references import acceptable
from hybrid.metrics import Measured
from hybrid.protocols import Watcher
from hybrid.records import Grade, Output, Question, Request

ANOTHER_QUESTION = "the arms were asked different things"
ONE_ALONE = "not both arms have an answer"
WINNERS = ("b", "tie", "a")
"""Labels of the rows of a check: the first answer loses, draws or wins."""
ROW_WITH_LABEL = 'a row is {"question": "...", "a": "...", "b": "...", "winner": "a", "b" or "tie"}'
LABELS = LabelScale(
    WINNERS,
    weighted=False,
    rules={
        "longer wins": lambda row: 1 + _sign(len(row.outputs[0].text or "") - len(row.outputs[1].text or "")),
        "first wins": lambda _: 2,
        "always a tie": lambda _: 1,
    },
    errors=(
        KindOfError("loser called winner", lambda truth: truth != 1, lambda said, truth: said == 2 - truth),
        KindOfError("winner called tie", lambda truth: truth != 1, lambda said, _: said == 1),
        KindOfError("tie called winner", lambda truth: truth == 1, lambda said, _: said != 1),
    ),
)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


NO_PAIR = "no other arm answered this question"
NOT_ALONE = "answers are compared, none is judged alone"


@dataclass(frozen=True)
class Pairwise(Panel):
    """What the arms beside the baseline win against it on a question: 1 a win, 0.5 a tie, 0 a loss.

    Every pair is judged in both orders, and a verdict that the order changes is a tie. Strengths of all arms (Bradley
    and Terry), win rates, and what the judge makes of order and length are measured of all questions together.
    """

    baseline: str = field(default="", metadata=help_of("compare with this arm alone; empty: all pairs of arms"))
    criterion: str = field(default="", metadata=help_of("what better means; empty: left to the judge"))
    ties: bool = field(default=True, metadata=help_of("the judge may call a tie"))
    reference: bool = field(default=False, metadata=help_of("show the judge the reference, where there is one"))

    version: ClassVar[int] = 1
    sample: ClassVar[str] = "pairwise_sample.jsonl"
    row: ClassVar[str] = ROW_WITH_LABEL
    scales: ClassVar[Mapping[str, LabelScale]] = {"winner": LABELS}
    of_the_task: ClassVar[tuple[str, ...]] = ("baseline",)

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[ReadyPairwise]:
        """Ask the models about every pair of different answers that is not cached."""
        arms = arms_of(outputs, self.baseline, self.first_arms())
        tally = Tally(arms.names)
        with self.replies("pairwise", partial(self._calls, outputs, arms), watcher) as replies:
            yield ReadyPairwise(self, arms, replies, tally)

    def of_run(self, run: Mapping[str, Any], models: Sequence[Any]) -> Pairwise:
        """The grader that takes the arms in the order in which a run names them: the first is the one to beat."""
        return _OfRun(**{one.name: getattr(self, one.name) for one in fields(self)}, order=tuple(arms_named(run)))

    def first_arms(self) -> Sequence[str]:
        """Arms that come before those that are found in the outputs."""
        return ()

    def labelled(self, value: Mapping[str, Any], task: str, number: int) -> LabelledRow:
        """A row of `hybrid judge check`: two answers, and which is better."""
        question, *answers = (value.get(name) for name in ("question", "a", "b"))
        if not isinstance(question, str) or not all(isinstance(one, str) for one in answers):
            raise ValueError("a row needs the texts 'question', 'a' and 'b'")
        name, winner, reference = f"{task}/{number}", value.get("winner"), value.get("reference")
        if winner not in WINNERS:
            raise ValueError(f"the winner is {winner!r:.40}, not a, b or tie")
        outputs = [
            Output(f"{name}/{arm}", task, name, {"question": question, "arm": arm}, 0, text, None, reference)
            for arm, text in zip("ab", answers, strict=True)
        ]
        row = Question(task, name, reference, tuple(outputs))
        return LabelledRow(row, "winner", WINNERS.index(winner))

    def of_rows(self) -> Pairwise:
        """The same judge without a baseline, which the rows do not have."""
        return replace(self, baseline="")

    def request(self, pair: Pair, turned: bool, sample: int, attempt: int) -> Request:
        """The request about a pair; `turned` shows the second answer first."""
        shown = pair.first.text or "", pair.second.text or ""
        references = acceptable(pair.first.reference) if self.reference else ()
        how = {"explain": self.explain, "ties": self.ties}
        opening = comparing.instruction_for(self.criterion, self.instruction)
        chat = comparing.messages(
            self.question_of(pair.first), references, shown[::-1] if turned else shown, instruction=opening, **how
        )
        return self.asking.of(chat, comparing.schema(**how), sample, attempt)

    def calls(self, pair: Pair) -> list[tuple[Call[Verdict], Call[Verdict]]]:
        """The calls about a pair in both orders, two of them a sample."""
        read = partial(comparing.read, ties=self.ties)
        asked = [[partial(self.request, pair, turned, n) for turned in (False, True)] for n in range(self.samples)]
        return [(Call(forward, read), Call(backward, read)) for forward, backward in asked]

    def settled(self, pair: Pair) -> float | str | None:
        """What a pair is without a judge: a tie of equal answers, or why it cannot be compared; None: ask one."""
        if pair.first.text is None or pair.second.text is None:
            return ONE_ALONE
        if not (question := self.question_of(pair.first)):
            return NO_QUESTION
        if question != self.question_of(pair.second):
            return ANOTHER_QUESTION
        return 0.5 if pair.first.text == pair.second.text else None

    def _calls(self, outputs: Iterable[Output], arms: Arms) -> Iterator[Call[Verdict]]:
        for question in arms.questions(outputs):
            for pair in arms.pairs(question, self.baseline):
                if self.settled(pair) is None:
                    for both in self.calls(pair):
                        yield from both


@dataclass(frozen=True)
class _OfRun(Pairwise):
    """The grader for the outputs of a run that names its arms."""

    order: tuple[str, ...] = ()

    def first_arms(self) -> Sequence[str]:
        return self.order


class ReadyPairwise:
    """Outcomes from the cached verdicts of all judges, and what they are worth together."""

    def __init__(self, pairwise: Pairwise, arms: Arms, replies: Replies, tally: Tally) -> None:
        self._pairwise, self._arms, self._replies, self._tally = pairwise, arms, replies, tally
        self._baseline = pairwise.baseline or arms.names[0]
        self.mixes = "arms" if len(arms.names) > 2 else ""

    def grade(self, output: Output) -> Grade:
        """A single answer has no score."""
        return Grade(None, NOT_ALONE)

    def grade_question(self, question: Question) -> Grade:
        """The mean of what the other arms win against the baseline; no score when no such pair was judged."""
        told: list[Json] = []
        won: list[float] = []
        problem = ""
        for pair in self._arms.pairs(question, self._pairwise.baseline):
            outcome, votes = self.outcome(pair)
            self._tally.add(question.task, pair, outcome, votes)
            told.append(_told(pair, outcome, votes))
            if self._baseline in pair.arms and isinstance(outcome, str):
                problem = problem or outcome
            elif self._baseline in pair.arms and not isinstance(outcome, str):
                won.append(1 - outcome if pair.arms[0] == self._baseline else outcome)
        detail = {"by": "pairs", "baseline": self._baseline, "pairs": told}
        if not won:
            return Grade(None, problem or NO_PAIR, detail=detail)
        return Grade(sum(won) / len(won), detail=detail)

    def label_of(self, question: Question) -> int | str:
        """The place of the winner of a row of a check among WINNERS, or why there is none."""
        (pair,) = self._arms.pairs(question)
        outcome, votes = self.outcome(pair)
        self._tally.add(question.task, pair, outcome, votes)
        return outcome if isinstance(outcome, str) else round(2 * outcome)

    def outcome(self, pair: Pair) -> tuple[float | str, list[Vote]]:
        """What the first answer won against the second, or why nobody can tell, and the votes."""
        settled = self._pairwise.settled(pair)
        if settled is not None:
            return settled, []
        votes: list[Vote] = []
        for forward, backward in self._pairwise.calls(pair):
            votes += zip(self._replies.votes(forward), self._replies.votes(backward), strict=True)
        found = comparing.majority([one for vote in votes if (one := both_of(vote))], len(votes))
        problems = [one for vote in votes for one in vote if isinstance(one, str)]
        return (problems[0] if found is None else found), votes

    def about(self) -> Mapping[str, Json]:
        """Models and their digests, how they were asked, and the counts of pairs and verdicts."""
        pair = Pair(("A", "B"), 0, _answer("answer"), _answer("another"))
        asked = self._pairwise.request(pair, False, 0, 0)
        prompt = digest([[[one.role, one.content] for one in asked.messages], asked.schema])
        about: dict[str, Any] = {"models": self._replies.models(), "version": self._pairwise.version, "prompt": prompt}
        about |= {"counts": dict(self._tally.counts), "swaps": dict(self._tally.swaps)}
        about |= {} if self.mixes else {"baseline": self._baseline}
        alpha = self._tally.alpha
        return {**about, "agreement": {"alpha": alpha.value, "rows": alpha.rows}} if alpha.rows else about

    def measures(self) -> Iterable[Measured]:
        """Strengths and win rates of the arms, each pair, and the judge's own leanings."""
        return self._tally.measures(self._pairwise.baseline)


def _answer(text: str) -> Output:
    return Output("", "", "", {"question": "question"}, 0, text, None, None)


def _told(pair: Pair, outcome: float | str, votes: list[Vote]) -> Json:
    """A pair as it stands in the detail of a grade."""
    won = None if isinstance(outcome, str) else {1.0: pair.arms[0], 0.0: pair.arms[1]}.get(outcome, comparing.TIE)
    told: dict[str, Any] = {"arms": list(pair.arms), "sample": pair.sample, "winner": won}
    if isinstance(outcome, str):
        told["problem"] = outcome
    changed = any(one.changed for vote in votes if (one := both_of(vote)))
    return {**told, "changed": changed, "verdicts": [[_verdict(one) for one in vote] for vote in votes]}


def _verdict(verdict: Verdict | str) -> Json:
    if isinstance(verdict, str):
        return {"problem": verdict}
    return {"better": verdict.value, "reason": verdict.reason[:LONGEST_REASON]}
