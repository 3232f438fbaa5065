"""ARC: read the answers of all views, undo each view's transform, vote, and compare two attempts with the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hybrid.bounds import help_of
from hybrid.records import Grade, Output, Question
from hybrid.tasks.arc.grid import Grid, cell_accuracy, grid_of
from hybrid.tasks.arc.reading import Answer, answers, by_arm, votes, worst
from hybrid.tasks.arc.voting import METHODS, Vote, count

TOP = 5
"""Grids with the most votes that the details list."""

ARM_FIGURES = ("top1", "pass2", "cells", "oracle", "parsed")
"""The figures that are also computed for other arms, as `cells@base`."""


@dataclass(frozen=True)
class Arc:
    """Two attempts by vote over all views; right when one of them is the truth (pass@2).

    `voting=flat` gives each view that holds a grid one vote. `voting=seal` is the rule that SEAL published, in which
    one view can weigh as much as all views in the question's own orientation together, an attempt can be a grid that
    no view answered, and both attempts can be the same although another grid was answered (docs/seal-eval.md).
    A task is right when all its test inputs are.

    Outputs whose view names an arm, such as `base` of `seal-ttt`, do not count for the score: each arm is graded in the
    same way and reported with it.
    """

    voting: Literal["flat", "seal"] = field(
        default="flat", metadata=help_of("flat: one vote a view; seal: the published rule, with its tie-break")
    )

    unit: ClassVar[Literal["task", "question"]] = "task"

    def grade_question(self, question: Question) -> Grade:
        """Grade one question. An answer that is not a grid is wrong; a failed output is no answer.

        Failed outputs are left out and counted in `detail["failed"]`. There is no score when all failed or the
        reference is no grid.
        """
        truth = grid_of(question.reference)
        if truth is None:
            return Grade(None, "no reference" if question.reference is None else "the reference is not a grid")
        named = [output.reference for output in question.outputs if output.reference is not None]
        if any(other != named[0] for other in named):
            return Grade(None, "its outputs have different references")
        arms = by_arm(question.outputs)
        found, failed = answers(arms.pop(""))
        if unknown := arms.pop("?"):
            failed["unknown arm"] = len(unknown)
        if not found:
            return Grade(None, f"all outputs failed: {worst(failed)}" if failed else "no outputs")
        voted = votes(found)
        attempts = METHODS[self.voting](voted)
        others = {arm: figures for arm, outputs in sorted(arms.items()) if (figures := self._arm(truth, outputs))}
        return Grade(
            score=float(truth in attempts),
            figures={
                **_figures(truth, attempts, found),
                **{f"{name}@{arm}": figures[name] for arm, figures in others.items() for name in ARM_FIGURES},
            },
            controls=_controls(truth, question),
            arms={arm: figures["pass2"] for arm, figures in others.items()},
            detail=_detail(attempts, voted, found, failed),
        )

    def _arm(self, truth: Grid, outputs: Sequence[Output]) -> dict[str, float]:
        """The figures of an arm; none when all its outputs failed."""
        found, _ = answers(outputs)
        return _figures(truth, METHODS[self.voting](votes(found)), found) if found else {}


def _figures(truth: Grid, attempts: Sequence[Grid], answers: Sequence[Answer]) -> dict[str, float]:
    right: dict[str, list[bool]] = {}
    for answer in answers:
        right.setdefault(answer.transform, []).append(answer.grid == truth)
    return {
        "top1": float(truth in attempts[:1]),
        "pass2": float(truth in attempts),
        "cells": cell_accuracy(attempts[0], truth) if attempts else 0.0,
        "oracle": float(any(any(each) for each in right.values())),
        "parsed": sum(answer.grid is not None for answer in answers) / len(answers),
        **{f"view/{name}": sum(each) / len(each) for name, each in right.items()},
    }


def _controls(truth: Grid, question: Question) -> dict[str, float]:
    """The scores of two controls without a model: the test input, and the most frequent demonstration output."""
    source = question.source if isinstance(question.source, Mapping) else {}
    index = question.id.rpartition("/")[2]
    inputs, outputs = _side(source, "test", "input"), _side(source, "train", "output")
    controls = {}
    if index.isascii() and index.isdigit() and len(index) < 9 and int(index) < len(inputs):
        controls["copy-input"] = float(inputs[int(index)] == question.reference)
    if outputs:
        controls["most-frequent-grid"] = float(question.reference in outputs and _most_frequent(outputs) == truth)
    return controls


def _side(source: Mapping[str, Any], part: str, side: str) -> list[Any]:
    pairs = source.get(part)
    if not isinstance(pairs, list):
        return []
    return [pair.get(side) if isinstance(pair, Mapping) else None for pair in pairs]


def _most_frequent(outputs: list[Any]) -> Grid | None:
    """The most frequent grid; of a tie, the first."""
    return Counter(map(grid_of, outputs)).most_common(1)[0][0]


def _detail(
    attempts: Sequence[Grid], votes: Sequence[Vote], answers: Sequence[Answer], failed: Counter[str]
) -> dict[str, Any]:
    reasons = Counter(answer.reason for answer in answers if answer.grid is None)
    top = count(votes)[:TOP]
    detail: dict[str, Any] = {
        "attempts": list(attempts),
        "votes": [{"grid": vote.grid, "votes": len(vote.transforms), "views": list(vote.transforms)} for vote in top],
        "refused": dict(sorted(reasons.items())),
    }
    if failed:
        detail["failed"] = dict(sorted(failed.items()))
    return detail
