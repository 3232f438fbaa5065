"""ARC: read the answers of all views, turn them back, vote, and compare two attempts with the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hybrid.arc.grid import Grid, cell_accuracy, grid_of
from hybrid.arc.text import FORMATS, parse
from hybrid.arc.views import ORDER, UNDO
from hybrid.arc.voting import METHODS, Vote, count
from hybrid.records import Grade, Output, Question

TOP = 5
"""How many of the most voted grids the report gets."""


@dataclass(frozen=True)
class Arc:
    """Two attempts by vote over all views; right when one of them is the truth (pass@2).

    `voting=flat` gives each view that holds a grid one vote. `voting=seal` is the rule that SEAL published, in which
    one view can weigh as much as all views in the question's own orientation together, an attempt can be a grid that
    no view answered, and both attempts can be the same although another grid was answered (docs/seal-eval.md).
    A task is right when all its test inputs are.
    """

    voting: Literal["flat", "seal"] = field(
        default="flat", metadata={"help": "flat: one vote a view; seal: the published rule, ties made deterministic"}
    )

    unit: ClassVar[Literal["task", "question"]] = "task"

    def grade_question(self, question: Question) -> Grade:
        """Judge one question. An answer that is no grid is a wrong answer; an output that failed is none at all.

        Failed outputs are left out and counted in `detail["failed"]`; when all failed, or the reference is no grid,
        there is no score.
        """
        truth = grid_of(question.reference)
        if truth is None:
            return Grade(None, "no reference" if question.reference is None else "the reference is not a grid")
        answers, failed = _answers(question.outputs)
        if not answers:
            return Grade(None, f"all outputs failed: {_worst(failed)}" if failed else "no outputs")
        votes = [Vote(answer.grid, answer.transform) for answer in answers if answer.grid is not None]
        attempts = METHODS[self.voting](votes)
        return Grade(
            score=float(truth in attempts),
            figures=_figures(truth, attempts, answers),
            controls=_controls(truth, question),
            detail=_detail(attempts, votes, answers, failed),
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one output says: a grid in the question's own orientation, or the reason why there is none."""

    grid: Grid | None
    reason: str
    transform: str


def _answers(outputs: Sequence[Output]) -> tuple[list[_Answer], Counter[str]]:
    """The answers in an order of their own (so the order of the file decides nothing), and the failures by kind."""
    answers: list[tuple[Any, _Answer]] = []
    failed: Counter[str] = Counter()
    for output in outputs:
        transform, format = _view(output.view)
        if output.text is None:
            failed[output.error.kind if output.error else "no text"] += 1
        elif transform not in UNDO or format not in ("", *FORMATS):
            failed["unknown view"] += 1
        else:
            place = (ORDER[transform], str(output.view.get("train", "")), output.sample, output.key)
            answers.append((place, _answer(output, transform, format)))
    answers.sort(key=lambda each: each[0])
    return [answer for _, answer in answers], failed


def _view(view: Any) -> tuple[str, str]:
    """Transform and format of a view; one that says nothing is the question as it is, in a format to be guessed."""
    if not isinstance(view, Mapping):
        return "?", ""
    return str(view.get("transform", "identity")), str(view.get("format", ""))


def _answer(output: Output, transform: str, format: str) -> _Answer:
    if output.finish == "length":  # a cut compact answer would still read as a smaller grid
        return _Answer(None, "cut at the token bound", transform)
    grid, reason = parse(output.text or "", format)
    return _Answer(UNDO[transform](grid) if grid is not None else None, reason, transform)


def _figures(truth: Grid, attempts: Sequence[Grid], answers: Sequence[_Answer]) -> dict[str, float]:
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
    """What answering without a model scores: the test input itself, the most frequent output of the demonstrations."""
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
    """Of a tie, the first."""
    return Counter(map(grid_of, outputs)).most_common(1)[0][0]


def _detail(
    attempts: Sequence[Grid], votes: Sequence[Vote], answers: Sequence[_Answer], failed: Counter[str]
) -> dict[str, Any]:
    refused = Counter(answer.reason for answer in answers if answer.grid is None)
    top = count(votes)[:TOP]
    detail: dict[str, Any] = {
        "attempts": list(attempts),
        "votes": [{"grid": t.grid, "votes": len(t.transforms), "views": list(t.transforms)} for t in top],
        "refused": dict(sorted(refused.items())),
    }
    if failed:
        detail["failed"] = dict(sorted(failed.items()))
    return detail


def _worst(failed: Counter[str]) -> str:
    """The most frequent kind of failure; ties by name."""
    return min(failed, key=lambda kind: (-failed[kind], kind))
