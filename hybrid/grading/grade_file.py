"""Grade an outputs file into grades.json, as one stream. A failure to grade is counted, never scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from hybrid.canonical import Json, encode
from hybrid.grading import calibration
from hybrid.grading.arms import MOST, arm_of, arms_named, by_arm
from hybrid.grading.questions import OutOfOrder, grouped, in_order
from hybrid.grading.samples import Vote, sample_figures, usual_vote
from hybrid.grading.summary import GradeSummary, Reasons, without_mean
from hybrid.machine import home
from hybrid.machine.replacing import refuse_foreign, replacing
from hybrid.metrics import Measured
from hybrid.outputs import OutputsFile, open_outputs
from hybrid.plugins.faults import attributed_to, checked, raise_attributed
from hybrid.progress import SilentProgress
from hybrid.protocols import (
    Grader,
    MeasuringGrader,
    ModelGrader,
    OutputGrader,
    QuestionGrader,
    ReadyGrader,
    RunGrader,
    Watcher,
)
from hybrid.records import Grade, Output, Question
from hybrid.settings import freeze
from hybrid.statistics.majority import MajorityControl

FORMAT = "hybrid/grades"
FIRST = 100
"""Outputs in which the arms of a file are looked for that does not name them: those of a question are neighbours."""
VERSION = 1
BEGINS = b'{"format":"%s"' % FORMAT.encode()

Summary = dict[str, Any]


PreparedGrader = OutputGrader | QuestionGrader
"""A grader that needs no further model call."""


def grade_file(
    source: Path | str, grader: Grader, grader_name: str, out: Path | str, watcher: Watcher | None = None
) -> Summary:
    """Grade an outputs file into the grades file `out` and return its summary. The same input gives the same bytes.

    Raises BadData when the outputs are incomplete, Temporary when the disk is full or the judge cannot be reached;
    `out` is then unchanged. An exception of the grader becomes PluginFault, which names the question.
    """
    return grade_outputs(open_outputs(source), grader, grader_name, out, watcher)


def grade_outputs(
    outputs: OutputsFile, grader: Grader, grader_name: str, out: Path | str, watcher: Watcher | None = None
) -> Summary:
    """`grade_file` for outputs that are already open. `watcher` follows the calls of a judge model."""
    refuse_foreign(Path(out), BEGINS)
    try:
        return _graded(outputs, grader, grader_name, Path(out), watcher or SilentProgress(), sort=False)
    except OutOfOrder:  # start over: the grader has counted only the outputs before this point
        return _graded(outputs, grader, grader_name, Path(out), watcher or SilentProgress(), sort=True)


def _graded(outputs: OutputsFile, grader: Grader, name: str, out: Path, watcher: Watcher, *, sort: bool) -> Summary:
    with (
        prepared(_of_run(grader, outputs), Reread(outputs), watcher) as judge,
        replacing(out, BEGINS, home.parts_folder()) as stream,
    ):
        records = in_order(outputs.records()) if sort else outputs.records()
        return GradesWriter(outputs, grader, name, judge, stream).write(records)


def _of_run(grader: Grader, outputs: OutputsFile) -> Grader:
    """The grader, told of which run the outputs are if it is one that judges by that."""
    if not isinstance(grader, RunGrader):
        return grader
    with attributed_to(grader, "reading which models the run had"):
        return grader.of_run(outputs.run, outputs.models)


class Reread:
    """The outputs of a file; every iteration starts at the first one."""

    def __init__(self, outputs: OutputsFile) -> None:
        self._outputs = outputs

    def __iter__(self) -> Iterator[Output]:
        return self._outputs.records()


@contextmanager
def prepared(grader: Grader, outputs: Iterable[Output], watcher: Watcher) -> Iterator[PreparedGrader]:
    """The grader, after all model calls that it needs."""
    if isinstance(grader, ModelGrader):
        with ExitStack() as stack:
            with attributed_to(grader, "asking its model"):
                judge = stack.enter_context(grader.ready(outputs, watcher))
            yield judge
    else:
        yield grader


class GradesWriter:
    """Writes grades.json. The digest of the outputs is in the header but known last, so its place is reserved."""

    def __init__(
        self, outputs: OutputsFile, grader: Grader, name: str, judge: PreparedGrader, stream: BinaryIO
    ) -> None:
        self._outputs, self._grader, self._judge, self._stream = outputs, grader, judge, stream
        self._name = name
        self._arms = arms_named(outputs.run)

    def write(self, records: Generator[Output, None, None]) -> Summary:
        stream, about = self._stream, encode({"name": self._name, "settings": freeze(self._grader)})
        stream.write(BEGINS + b',"version":%d,\n"grader":%s,\n"outputs":' % (VERSION, about))
        place = stream.tell()
        stream.write(_outputs_named(self._outputs, "0" * 64) + b',\n"grades":[\n')
        hashed = hashlib.sha256(about + b"\n")
        count = 0
        with MajorityControl() as majority:
            counted = GradeSummary(getattr(self._grader, "unit", "question"), majority)
            with closing(records):
                first = list(islice(records, 0 if self._arms else FIRST))
                self._arms = self._arms or _arms_in(first)
                for count, line in enumerate(self._lines(chain(first, records), counted), start=1):
                    stream.write(b",\n" + line if count > 1 else line)
                    hashed.update(line + b"\n")
            summary = self._summary(counted)
        judged = _outputs_named(self._outputs, str(self._outputs.sha256))
        hashed.update(judged + b"\n" + encode(summary) + b"\n")
        stream.write(b'%s],\n"summary":%s,\n' % (b"\n" if count else b"", encode(summary)))
        stream.write(b'"count":%d,"sha256":"%s"}\n' % (count, hashed.hexdigest().encode()))
        stream.seek(place)
        stream.write(judged)
        stream.seek(0, 2)
        return summary

    def _lines(self, records: Iterator[Output], counted: GradeSummary) -> Iterator[bytes]:
        """One line of grades.json for each question; adds each grade to `counted`."""
        judge = _grading(self._judge, counted, getattr(self._grader, "vote", usual_vote), self._arms)
        control: Callable[[Json], str | None] | None = getattr(self._grader, "control", None)
        for question in grouped(records, self._outputs.tasks, str(self._outputs.path)):
            for output in question.outputs:
                if output.error is not None:
                    counted.failed(output.error.kind)
            try:
                grade = judge(question)
                constant = control(question.reference) if control and grade.score is not None else None
                line = _line(question, grade)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - graders are anybody's code
                raise_attributed(
                    self._grader, error, f"judging the question '{question.id:.200}' of the task '{question.task:.200}'"
                )
            counted.add(question, grade, constant)
            yield line

    def _summary(self, counted: GradeSummary) -> Summary:
        """The summary; with a judge model also its identity, its measured errors and the corrected score, and what the
        grader measured of all outputs together.
        """
        summary = counted.summary()
        mixed = checked(getattr(self._judge, "mixes", ""), str)
        if self._arms and not mixed and not isinstance(self._judge, QuestionGrader):
            summary["arms"] = self._arms
        if isinstance(self._judge, ReadyGrader):
            about = self._judge.about()
            own = calibration.identity(self._name, self._grader, about)
            known = calibration.known(getattr(self._judge, "checked_as", own))
            judge = {**about, "check": calibration.brief(known)}
            if known and "scales" not in known and summary["score"] is not None and not mixed:
                judge["corrected"] = calibration.corrected_by(known, summary["score"], counted.effective_size)
            summary["judge"] = judge
        if isinstance(self._judge, MeasuringGrader):
            with attributed_to(self._grader, "measuring the outputs"):
                if mixed:
                    summary |= without_mean(mixed)
                summary["measures"] = [checked(one, Measured).to_json() for one in self._judge.measures()]
        return summary


def _arms_in(outputs: Sequence[Output]) -> list[str]:
    """The arms of the first outputs, by name, of a file that names none in its head."""
    return sorted({arm_of(one) for one in outputs if "arm" in one.view})[:MOST]


def _outputs_named(outputs: OutputsFile, sha256: str) -> bytes:
    run = outputs.run.get("id")
    return encode({"run": run if isinstance(run, str) else None, "sha256": sha256})


def _grading(
    grader: PreparedGrader, counted: GradeSummary, vote: Vote, arms: Sequence[str]
) -> Callable[[Question], Grade]:
    if isinstance(grader, QuestionGrader):
        return lambda question: checked(grader.grade_question(question), Grade)
    return lambda question: arms_grade(grader, question, counted.ungraded_outputs, vote, arms)


def arms_grade(
    grader: OutputGrader, question: Question, ungraded: Reasons, vote: Vote, names: Sequence[str] = ()
) -> Grade:
    """The grade of the first arm's outputs, with the scores of the other arms, whose figures are named `FIGURE@ARM`.

    `names` are those of the run's arms in their order.
    """
    (_, outputs), *others = by_arm(question.outputs, names).items()
    grade = mean_grade(grader, outputs, ungraded, vote)
    if not others:
        return grade
    arms = {name: mean_grade(grader, each, ungraded, vote) for name, each in others}
    figures = {f"{figure}@{name}": value for name, one in arms.items() for figure, value in one.figures.items()}
    scores = {name: one.score for name, one in arms.items() if one.score is not None}
    return replace(grade, figures={**grade.figures, **figures}, arms={**grade.arms, **scores})


def mean_grade(grader: OutputGrader, outputs: Sequence[Output], ungraded: Reasons, vote: Vote) -> Grade:
    """The mean score of the outputs that have one, and of several samples their figures.

    Outputs without a text never reach the grader. `ungraded` counts the reasons of outputs without a score.
    """
    answered = [one for one in outputs if one.text is not None]
    grades: list[Grade] = [checked(grader.grade(one), Grade) for one in answered]
    scores = [grade.score for grade in grades if grade.score is not None]
    if len(scores) < len(grades):
        for grade in grades:
            if grade.score is None and grade.due:
                ungraded.count(grade.reason)
    if len(grades) == len(outputs) == 1:
        return grades[0]
    if not scores:
        return _ungraded(grades)
    measured = [grade for grade in grades if grade.score is not None and (grade.figures or grade.controls)]
    score = sum(scores) / len(scores)
    together = sample_figures(list(zip(answered, grades, strict=True)), len(outputs), vote)
    if len(scores) == len(outputs) and not (measured or together):
        return _bare(score)
    detail: Mapping[str, Any] = {"graded": len(scores)} if len(scores) < len(outputs) else {}
    figures, controls = [grade.figures for grade in measured], [grade.controls for grade in measured]
    return Grade(score, "", {**_means(figures), **together}, _means(controls), detail)


def _ungraded(grades: Sequence[Grade]) -> Grade:
    """The grade of outputs of which none has a score: of the first that should have had one, if any."""
    first = next((grade for grade in grades if grade.due), grades[0] if grades else None)
    return Grade(None, first.reason, due=first.due) if first else Grade(None, "no output to grade")


@lru_cache(maxsize=1024)
def _bare(score: float) -> Grade:
    """A grade that is only a score. Few values serve many questions, so they are cached."""
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
        **({} if grade.due else {"due": False}),
    }
    if not (grade.controls or grade.arms or grade.detail) and all(
        not one or one >= 0.001 for one in (grade.score, *grade.figures.values())
    ):  # both encoders write such numbers with the same digits
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return encode(value)
