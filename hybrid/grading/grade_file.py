"""outputs -> questions -> grader -> grades.json, as one stream. A failure to grade is counted, never scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from hybrid.canonical import Json, encode
from hybrid.grading import calibration
from hybrid.grading.questions import OutOfOrder, grouped, in_order
from hybrid.grading.summary import Reasons, Tally
from hybrid.machine import home
from hybrid.machine.replacing import refuse_foreign, replacing
from hybrid.outputs import OutputsFile, open_outputs
from hybrid.plugins.faults import checked, naming, refuse
from hybrid.progress import Quiet
from hybrid.protocols import Grader, ModelGrader, OutputGrader, QuestionGrader, ReadyGrader, Watcher
from hybrid.records import Grade, Output, Question
from hybrid.settings import freeze
from hybrid.statistics.majority import Majority

FORMAT = "hybrid/grades"
VERSION = 1
BEGINS = b'{"format":"%s"' % FORMAT.encode()

Summary = dict[str, Any]


Judging = OutputGrader | QuestionGrader
"""A grader that can grade at once."""


def grade_file(
    source: Path | str, grader: Grader, grader_name: str, out: Path | str, watcher: Watcher | None = None
) -> Summary:
    """Judge an outputs file into the grades file `out` and return its summary. The same file gives the same bytes.

    Raises BadData when the outputs are not whole, Temporary on a full disk or when a judging model is away; then `out`
    is as it was. What a grader raises is a fault in it: PluginFault names the question.
    """
    return grade_outputs(open_outputs(source), grader, grader_name, out, watcher)


def grade_outputs(
    outputs: OutputsFile, grader: Grader, grader_name: str, out: Path | str, watcher: Watcher | None = None
) -> Summary:
    """`grade_file` for outputs that are open already. `watcher` is told of the calls of a judging model."""
    refuse_foreign(Path(out), BEGINS)
    try:
        return _graded(outputs, grader, grader_name, Path(out), watcher or Quiet(), sort=False)
    except OutOfOrder:  # all anew: what a grader has counted is of the half that was graded
        return _graded(outputs, grader, grader_name, Path(out), watcher or Quiet(), sort=True)


def _graded(outputs: OutputsFile, grader: Grader, name: str, out: Path, watcher: Watcher, *, sort: bool) -> Summary:
    with made_ready(grader, Again(outputs), watcher) as judge, replacing(out, BEGINS, home.parts()) as stream:
        records = in_order(outputs.records()) if sort else outputs.records()
        return Scribe(outputs, grader, name, judge, stream).write(records)


class Again:
    """The outputs of a file, each time from the first one on."""

    def __init__(self, outputs: OutputsFile) -> None:
        self._outputs = outputs

    def __iter__(self) -> Iterator[Output]:
        return self._outputs.records()


@contextmanager
def made_ready(grader: Grader, outputs: Iterable[Output], watcher: Watcher) -> Iterator[Judging]:
    """The grader; one that judges with a model has then asked it."""
    if isinstance(grader, ModelGrader):
        with ExitStack() as stack:
            with naming(grader, "asking its model"):
                judge = stack.enter_context(grader.ready(outputs, watcher))
            yield judge
    else:
        yield grader


class Scribe:
    """Writes grades.json. The digest of the outputs stands in its head and is known last: its place is kept."""

    def __init__(self, outputs: OutputsFile, grader: Grader, name: str, judge: Judging, stream: BinaryIO) -> None:
        self._outputs, self._grader, self._judge, self._stream = outputs, grader, judge, stream
        self._name = name

    def write(self, records: Generator[Output, None, None]) -> Summary:
        stream, about = self._stream, encode({"name": self._name, "settings": freeze(self._grader)})
        stream.write(BEGINS + b',"version":%d,\n"grader":%s,\n"outputs":' % (VERSION, about))
        place = stream.tell()
        stream.write(_judged(self._outputs, "0" * 64) + b',\n"grades":[\n')
        hashed = hashlib.sha256(about + b"\n")
        count = 0
        with Majority() as majority:
            tally = Tally(getattr(self._grader, "unit", "question"), majority)
            with closing(records):
                for count, line in enumerate(self._lines(records, tally), start=1):
                    stream.write(b",\n" + line if count > 1 else line)
                    hashed.update(line + b"\n")
            summary = self._summary(tally)
        judged = _judged(self._outputs, str(self._outputs.sha256))
        hashed.update(judged + b"\n" + encode(summary) + b"\n")
        stream.write(b'%s],\n"summary":%s,\n' % (b"\n" if count else b"", encode(summary)))
        stream.write(b'"count":%d,"sha256":"%s"}\n' % (count, hashed.hexdigest().encode()))
        stream.seek(place)
        stream.write(judged)
        stream.seek(0, 2)
        return summary

    def _lines(self, records: Iterator[Output], tally: Tally) -> Iterator[bytes]:
        """One line of grades.json a question, counted in `tally` on the way."""
        judge = _judge_of(self._judge, tally)
        control: Callable[[Json], str | None] | None = getattr(self._grader, "control", None)
        for question in grouped(records, self._outputs.tasks, str(self._outputs.path)):
            for output in question.outputs:
                if output.error is not None:
                    tally.failed(output.error.kind)
            try:
                grade = judge(question)
                constant = control(question.reference) if control and grade.score is not None else None
                line = _line(question, grade)
            except Exception as error:  # noqa: BLE001 - graders are anybody's code
                refuse(
                    self._grader, error, f"judging the question '{question.id:.200}' of the task '{question.task:.200}'"
                )
            tally.add(question, grade, constant)
            yield line

    def _summary(self, tally: Tally) -> Summary:
        """The tally's, and for a judging model what it is, what is known of its errors, and the score without them."""
        summary = tally.summary()
        if isinstance(self._judge, ReadyGrader):
            about = self._judge.about()
            known = calibration.known(calibration.identity(self._name, self._grader, about))
            judge = {**about, "check": calibration.brief(known)}
            if known and summary["score"] is not None:
                judge["corrected"] = calibration.corrected_by(known, summary["score"], tally.effective)
            summary["judge"] = judge
        return summary


def _judged(outputs: OutputsFile, sha256: str) -> bytes:
    run = outputs.run.get("id")
    return encode({"run": run if isinstance(run, str) else None, "sha256": sha256})


def _judge_of(grader: Judging, tally: Tally) -> Callable[[Question], Grade]:
    if isinstance(grader, QuestionGrader):
        return lambda question: checked(grader.grade_question(question), Grade)
    return lambda question: judge_alone(grader, question, tally.ungraded_outputs)


def judge_alone(grader: OutputGrader, question: Question, ungraded: Reasons) -> Grade:
    """A question's grade from the grades of its outputs: the mean of those that have a score.

    Outputs without a text never reach the grader. Why single outputs were not graded is counted in `ungraded`.
    """
    grades: list[Grade] = [checked(grader.grade(one), Grade) for one in question.outputs if one.text is not None]
    scores = [grade.score for grade in grades if grade.score is not None]
    if len(scores) < len(grades):
        for grade in grades:
            if grade.score is None:
                ungraded.count(grade.reason)
    if len(grades) == len(question.outputs) == 1:
        return grades[0]
    if not scores:
        return Grade(None, grades[0].reason if grades else "no output to grade")
    measured = [grade for grade in grades if grade.score is not None and (grade.figures or grade.controls)]
    score = sum(scores) / len(scores)
    if len(scores) == len(question.outputs) and not measured:
        return _bare(score)
    detail: Mapping[str, Any] = {"graded": len(scores)} if len(scores) < len(question.outputs) else {}
    figures, controls = [grade.figures for grade in measured], [grade.controls for grade in measured]
    return Grade(score, "", _means(figures), _means(controls), detail)


@lru_cache(maxsize=1024)
def _bare(score: float) -> Grade:
    """A grade that is a score and nothing else: there are few of them, and many questions."""
    return Grade(score)


def _means(measures: list[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for measure in filter(None, measures):
        for name, value in measure.items():
            sums.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sums.items()}


def _line(question: Question, grade: Grade) -> bytes:
    value: dict[str, Json] = {
        "task": question.task,
        "question": question.id,
        "score": grade.score,
        "reason": grade.reason,
        "figures": grade.figures,
        "controls": {**grade.controls, **grade.arms},
        "detail": grade.detail,
        "outputs": len(question.outputs),
    }
    simple = not (grade.figures or grade.controls or grade.arms or grade.detail)
    if simple and (not grade.score or grade.score >= 0.001):  # both encoders write such numbers with the same digits
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return encode(value)
