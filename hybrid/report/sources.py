"""The input of a report: runs, each an outputs file with matching grades, merged task by task."""

from __future__ import annotations

import heapq
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import BadData, UsageError, nearest
from hybrid.execution.local import chosen_folder
from hybrid.execution.requests import Requests
from hybrid.execution.stage_view import StageView
from hybrid.formats import USUAL, Reading, open_any
from hybrid.grading.questions import OutOfOrder, grouped, in_order
from hybrid.machine import home
from hybrid.machine.text_files import utf8_stream
from hybrid.outputs import OutputsFile, grades_beside, is_stale, outputs_stem
from hybrid.records import Output, Question
from hybrid.report.grades_file import BEGINS, GradeRow, GradesFile, has_scores, open_grades

MAX_OUTPUTS = 60
"""Most outputs of one question that the page shows; the others are counted."""

MAX_QUESTIONS = 200
"""Most questions of one task that the page shows; the others are counted."""

FIRST = 20
"""How many tasks or outputs a section sees when it decides whether it wants a run."""

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
"""What the id of a run may be as a part of a path."""

LOG = logging.getLogger("hybrid")


@dataclass(frozen=True, slots=True)
class ReportRun:
    """One run of the report.

    `label` is unique on the page. `grades` is None for a run that was not graded. `folder` is the shared folder of the
    run, None when it is unknown. `requests`, where they are to be shown, are what it asked.
    """

    label: str
    outputs: OutputsFile
    grades: GradesFile | None
    unfinished: Unfinished | None = None
    folder: Path | None = None
    requests: Requests | None = None

    @property
    def pipeline(self) -> str:
        """The name of the run's pipeline; "" when its outputs do not name it."""
        return str(self.outputs.run.get("pipeline") or "")

    @property
    def grader(self) -> str:
        """The name of the grader; "" without grades."""
        return self.grades.grader if self.grades else ""

    @property
    def unit(self) -> str:
        """The unit of a score: `question` or `task`."""
        return str(self.grades.summary["unit"]) if self.grades else "question"

    @property
    def figures(self) -> Mapping[str, Any]:
        """The grader's figures: name -> `mean`, `n`, `interval`."""
        found: Mapping[str, Any] = self.grades.summary["figures"] if self.grades else {}
        return found

    def grade_rows(self) -> Iterator[GradeRow]:
        """The grades in file order; none without a grades file. Raises BadData."""
        return self.grades.grades() if self.grades else iter(())

    def state(self) -> tuple[list[Json], bool]:
        """What changes when the run has news, and whether every item has a record. Reads all outputs."""
        grades = self.grades.sha256 if self.grades else ""
        if self.unfinished:
            return [[stage.name, stage.content, stage.done] for stage in self.unfinished.stages], False
        with closing(self.outputs.records()) as records:
            missing = sum(one.error is not None and one.error.kind == "missing" for one in records)
        return [self.outputs.sha256, grades], not missing

    def first_tasks(self) -> list[Any]:
        """The data of the first tasks, by which a section recognizes a data set."""
        return [self.outputs.tasks[task] for task in islice(self.outputs.tasks, FIRST)]

    def first_outputs(self) -> list[Output]:
        """The first outputs of the file, by which a section recognizes them; their digest is not verified yet."""
        with closing(self.outputs.records()) as records:
            return list(islice(records, FIRST))


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The stages of an unfinished run, and the name of the stage whose outputs are shown."""

    stages: Sequence[StageView]
    shown: str


@dataclass(slots=True)
class Totals:
    """Sums over a run, a task or a question: outputs, failures by kind, prompt and completion tokens."""

    questions: int = 0
    outputs: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: Totals) -> None:
        """Add the sums of `other`."""
        self.questions += other.questions
        self.outputs += other.outputs
        self.failed.update(other.failed)
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """One question: its grade, its first outputs, its reference, and the sums over all its outputs."""

    grade: GradeRow
    outputs: Sequence[Output]
    reference: Json
    totals: Totals

    @property
    def failed(self) -> int:
        return self.totals.failed.total()

    @property
    def count(self) -> int:
        return self.totals.outputs


@dataclass(slots=True)
class TaskResult:
    """One run's part of a task: the scores of all its questions, and the first of these in `questions`.

    `due` says whether a score was to be expected of one of them.
    """

    questions: list[QuestionResult] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    due: bool = False

    @property
    def failed(self) -> int:
        return self.totals.failed.total()

    def score(self, unit: str) -> float | None:
        """For the unit `task` the lowest score, None if a question is ungraded; else the mean of the graded ones."""
        graded = [score for score in self.scores if score is not None]
        if not graded or (unit == "task" and len(graded) < len(self.scores)):
            return None
        return min(graded) if unit == "task" else sum(graded) / len(graded)


def find_source(path: Path, grader: str = "", reading: Reading = USUAL, *, graded: bool = True) -> ReportRun:
    """The run of an outputs or grades file, or of a file of another tool.

    Without `graded` and a `grader`, an outputs file is taken without its grades.

    Raises UsageError without such grades, BadData when they do not match.
    """
    grades_path: Path | None
    if _is_grades(path):
        open_grades(path)  # a damaged file is reported before its outputs are looked for
        grades_path, outputs_path = path, _outputs_of(path)
    else:
        grades_path, outputs_path = _beside(path, grader, reading) if graded or grader else None, path
    if grades_path and is_stale(grades_path, outputs_path):
        if grades_path == path or grader:  # requested; others may be of an earlier state of the run
            raise BadData(
                f"{grades_path}: judges other outputs than {outputs_path.name} holds now",
                hint=f"it was graded before it changed: hybrid grade {outputs_path}",
            )
        LOG.warning("%s judges other outputs than %s holds now; no scores are drawn", grades_path, outputs_path.name)
        grades_path = None
    grades, outputs = open_grades(grades_path) if grades_path else None, open_any(outputs_path, reading)
    label = str(outputs.run.get("id") or _label(outputs_path))
    return ReportRun(label, outputs, grades, folder=_folder_of(outputs_path, outputs.run.get("id")))


def _label(path: Path) -> str:
    """The label of outputs without a run id: the name of the file, or of its folder for a file called outputs."""
    stem = outputs_stem(path)
    return (path.absolute().parent.name if stem == "outputs" else stem) or path.name


def _folder_of(path: Path, run: object) -> Path | None:
    """The folder of a run whose outputs are in FOLDER/results/RUN, where `hybrid` writes them; else None."""
    place = path.absolute()
    there = place.parent.name == run and place.parent.parent.name == "results"
    if not there:
        return None
    folder = place.parents[2]
    return folder if home.store_url(folder) or (folder / "hybrid.json").is_file() else None


def with_folder(run: ReportRun, folder: Path | None) -> ReportRun:
    """The run with the chosen folder where that holds it and its outputs lie elsewhere."""
    id, here = str(run.outputs.run.get("id") or ""), chosen_folder(folder)
    if run.folder or not RUN_ID.fullmatch(id) or not (here / "runs" / id / "run.json").is_file():
        return run
    return replace(run, folder=here)


def _beside(path: Path, grader: str, reading: Reading) -> Path | None:
    """The grades file beside an outputs file; None when there is none and `grader` is ""."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="name an outputs.json, a grades.json or a run")
    found = grades_beside(path)
    if not found and not grader:
        return None
    if not found:
        raise UsageError(f"{path}: not graded yet", hint=f"hybrid grade {path} --grader {grader}")
    if grader and grader not in found:
        raise UsageError(f"{path}: no grades of '{grader}' beside it", hint=nearest(grader, found))
    if not grader and len(found) > 1:
        grader = own_grader(open_any(path, reading))
        scored = [grader] if grader in found else [name for name in found if _may_have_scores(found[name])]
        grader = scored[0] if len(scored) == 1 else ""
        if not grader:
            raise UsageError(f"{path}: graded more than once", hint=f"choose with --grader: {', '.join(sorted(found))}")
    return found[grader or next(iter(found))]


def _may_have_scores(grades: Path) -> bool:
    """Whether there is a score in a grades file, or nobody can tell, since it is damaged."""
    try:
        return has_scores(open_grades(grades).summary)
    except BadData:
        return True


def own_grader(outputs: OutputsFile) -> str:
    """The default grader of the outputs, as for `hybrid grade`; "" when they do not name one."""
    about = outputs.run.get("about")
    name = about.get("grader") if isinstance(about, Mapping) else None
    return name if isinstance(name, str) else ""


def _is_grades(path: Path) -> bool:
    """Whether a file is a grades file, by its name or its first bytes."""
    if path.name.startswith("grades."):
        return True
    with suppress(OSError, BadData), utf8_stream(path.open("rb"), str(path)) as file:
        return file.read(len(BEGINS)) == BEGINS
    return False


def _outputs_of(path: Path) -> Path:
    """The outputs file that a grades file belongs to, by its name. Raises UsageError when there is none."""
    stem, found, _ = path.name.partition(".grades.")
    stem = stem if found else "outputs"
    for ending in (".json", ".jsonl", ".json.zst", ".jsonl.zst", ""):
        if (path.parent / f"{stem}{ending}").is_file():
            return path.parent / f"{stem}{ending}"
    raise UsageError(
        f"{path}: which outputs do these grades judge? there is no {stem}.json or {stem}.jsonl beside it",
        hint="put them there, and call the grades grades.GRADER.json or NAME.grades.GRADER.json",
    )


def tasks_of(source: ReportRun, *, sort: bool) -> Iterator[tuple[str, TaskResult]]:
    """Yield (task, result) with outputs joined to their grades; both files are verified to their end.

    Raises OutOfOrder when the outputs are not sorted by task and question and `sort` is False, BadData when the two
    files have different questions or a digest does not match.
    """
    for task, rows in groupby(graded_questions(source, sort=sort), key=lambda row: row[0].task):
        part = TaskResult()
        for grade, question in rows:
            result = _question_result(grade, question)
            part.scores.append(grade.score)
            part.due |= grade.due
            part.totals.add(result.totals)
            if len(part.questions) < MAX_QUESTIONS:
                part.questions.append(result)
        yield task, part


def graded_questions(source: ReportRun, *, sort: bool) -> Iterator[tuple[GradeRow, Question]]:
    """Every question with all its outputs, and its grade, which has no score and no reason in a run without grades.

    Reads, verifies and raises as `tasks_of` does.
    """
    records = in_order(source.outputs.records()) if sort else source.outputs.records()
    yield from _joined(source, grouped(records, {}, str(source.outputs.path)), sort)
    _check_digest(source)


def _joined(source: ReportRun, questions: Iterator[Question], sort: bool) -> Iterator[tuple[GradeRow, Question]]:
    if source.grades is None:
        for question in questions:
            yield GradeRow(question.task, question.id, None, "", {}, {}, len(question.outputs)), question
        return
    grades = source.grades.checked()
    for question in questions:
        grade = next(grades, None)
        if grade is None or (grade.task, grade.question) != (question.task, question.id):
            if not sort:
                raise OutOfOrder  # or they are other questions, which sorting will show
            raise BadData(
                f"{source.grades.path}: grades other questions than {source.outputs.path} (at {question.id})",
                hint=f"hybrid grade {source.outputs.path}",
            )
        yield grade, question
    if (left := next(grades, None)) is not None:
        raise BadData(
            f"{source.grades.path}: has a grade without outputs ({left.question})", hint="grade the outputs again"
        )


def _question_result(grade: GradeRow, question: Question) -> QuestionResult:
    totals = Totals(1, len(question.outputs))
    for output in question.outputs:
        if output.error is not None:
            totals.failed[output.error.kind] += 1
        totals.prompt_tokens += output.tokens[0]
        totals.completion_tokens += output.tokens[1]
    return QuestionResult(grade, question.outputs[:MAX_OUTPUTS], question.reference, totals)


def _check_digest(source: ReportRun) -> None:
    if source.grades and source.outputs.sha256 != source.grades.outputs:
        raise BadData(
            f"{source.grades.path}: judges other outputs (sha256 {source.grades.outputs:.12}…) "
            f"than {source.outputs.path} (sha256 {source.outputs.sha256!s:.12}…)",
            hint=f"hybrid grade {source.outputs.path}",
        )


def merged(sources: Sequence[ReportRun], *, sort: bool = False) -> Iterator[tuple[str, list[TaskResult | None]]]:
    """Yield every task once, in order, with each run's part of it or None. Raises as `tasks_of` does."""
    streams = [_indexed(source, index, sort) for index, source in enumerate(sources)]
    for task, group in groupby(heapq.merge(*streams, key=lambda row: row[0]), key=lambda row: row[0]):
        parts: list[TaskResult | None] = [None] * len(sources)
        for _, index, part in group:
            parts[index] = part
        yield task, parts


def _indexed(source: ReportRun, index: int, sort: bool) -> Iterator[tuple[str, int, TaskResult]]:
    for task, part in tasks_of(source, sort=sort):
        yield task, index, part
