"""The grade of each arm of a question: what grades.json has of an arm, as a grade of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hybrid.grading.arms import by_arm
from hybrid.records import Output, Question
from hybrid.report.grades_file import GradeRow

NO_SCORE = "no score of this arm"


def arm_grades(
    grade: GradeRow | None, question: Question, names: Sequence[str]
) -> list[tuple[str, Sequence[Output], GradeRow | None]]:
    """Each arm of a question with its outputs and its grade. The first has the question's grade and the name "".

    `names` are those of the run's arms in their order. Another arm has the score that the grades have under its name,
    and the figures that are called `FIGURE@ARM`.
    """
    (_, outputs), *others = by_arm(question.outputs, names).items()
    found: list[tuple[str, Sequence[Output], GradeRow | None]] = [("", outputs, grade)]
    for arm, each in others:
        found.append((arm, each, _of_arm(grade, arm) if grade else None))
    return [one for one in found if one[1]]


def _of_arm(grade: GradeRow, arm: str) -> GradeRow:
    score = grade.controls.get(arm)
    ending = f"@{arm}"
    figures: Mapping[str, float] = {
        name.removesuffix(ending): value for name, value in grade.figures.items() if name.endswith(ending)
    }
    return replace(grade, score=score, reason="" if score is not None else NO_SCORE, figures=figures, detail={})
