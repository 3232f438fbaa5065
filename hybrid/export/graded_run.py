"""A run as programs read it: every output with the grade of its question, as a stream of typed rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid.execution.local import find_outputs
from hybrid.export.arm_grades import arm_grades
from hybrid.grading.arms import arms_named
from hybrid.machine.late_imports import import_object
from hybrid.outputs import OutputsFile
from hybrid.records import Output, Question
from hybrid.report.grades_file import GradeRow
from hybrid.report.sources import ReportRun, find_source, graded_questions, with_folder


@dataclass(frozen=True, slots=True)
class GradedOutput:
    """One output, and the grade of its question; None in a run that was not graded. Of a question with several arms it
    is the grade of the output's own arm.
    """

    output: Output
    grade: GradeRow | None


@dataclass(slots=True)
class OutputSums:
    """Sums over the outputs of a file: their number, failures by kind, tokens."""

    outputs: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


class GradedRun:
    """The outputs of a run, each with the grade of its question.

    Iterating reads the file as a stream, sorted by task and question, as often as wanted. Before the first row the file
    is read once to its end, so no row is of a file that is cut short or was edited. Raises BadData then.
    """

    def __init__(self, source: ReportRun) -> None:
        self._source = source
        self._sums: OutputSums | None = None
        self._in_order = True

    @property
    def id(self) -> str:
        """The run's id; the file's name where the file has no run."""
        return self._source.label

    @property
    def pipeline(self) -> str:
        """The name of the run's pipeline; "" when the file does not tell."""
        return self._source.pipeline

    @property
    def grader(self) -> str:
        """The name of the grader; "" without grades."""
        return self._source.grader

    @property
    def outputs(self) -> OutputsFile:
        """The file: `run` (the specification), `models`, `tasks`, `sha256`."""
        return self._source.outputs

    @property
    def summary(self) -> Mapping[str, Any]:
        """The summary of the grades (docs/format.md): `score`, `interval`, `n`, `figures` ...; empty without grades."""
        return self._source.grades.summary if self._source.grades else {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the grader; empty without grades."""
        return self._source.grades.settings if self._source.grades else {}

    @property
    def folder(self) -> Path | None:
        """The shared folder that has the run; None when it is not known."""
        return self._source.folder

    @property
    def sums(self) -> OutputSums:
        """The sums over all outputs. The first time, it reads and verifies the file."""
        if self._sums is None:
            self._sums = self._read_once()
        return self._sums

    def __iter__(self) -> Iterator[GradedOutput]:
        for grade, question in self.questions():
            if len(question.outputs) == 1 and "arm" not in question.outputs[0].view:
                yield GradedOutput(question.outputs[0], grade)
                continue
            own = {one.key: each for _, outputs, each in self.arms(grade, question) for one in outputs}
            yield from (GradedOutput(output, own[output.key]) for output in question.outputs)

    def arms(self, grade: GradeRow | None, question: Question) -> list[tuple[str, Sequence[Output], GradeRow | None]]:
        """The arms of a question, the first under the name "", each with its outputs and its grade."""
        return arm_grades(grade, question, arms_named(self.outputs.run))

    def questions(self) -> Iterator[tuple[GradeRow | None, Question]]:
        """Every question with all its outputs, and its grade. Raises BadData."""
        _ = self.sums
        graded = bool(self.grader)
        for grade, question in graded_questions(self._source, sort=not self._in_order):
            yield grade if graded else None, question

    def to_frame(self) -> Any:
        """All rows as a pandas data frame, with the columns of `hybrid export --to csv`; needs pandas.

        Texts are as the model wrote them; what is missing is None or NaN. The whole run is in memory then.
        """
        frame: Any = import_object("hybrid.export.frame:frame_of", needed_for="a data frame")(self)
        return frame

    def _read_once(self) -> OutputSums:
        sums, last = OutputSums(), ("", "")
        for output in self.outputs.records():
            place = (output.task, output.question)
            self._in_order = self._in_order and place >= last
            last = place
            sums.outputs += 1
            if output.error is not None:
                sums.failed[output.error.kind] += 1
            sums.prompt_tokens += output.tokens[0]
            sums.completion_tokens += output.tokens[1]
        return sums


def read_run(
    source: Path | str, *, grader: str = "", folder: Path | str | None = None, graded: bool = True
) -> GradedRun:
    """The outputs and grades of a run: SOURCE is an outputs file, a grades file, or a run of the folder.

    `grader` chooses between several grades beside the outputs; without `graded`, none are looked for. Raises UsageError
    when there is no such run or no such grades, BadData when a file is damaged or the grades are of other outputs.
    """
    here = Path(folder) if folder else None
    found = find_source(Path(find_outputs(str(source), here)), grader, graded=graded)
    return GradedRun(with_folder(found, here))
