"""Self-edits: 1 when the model that was trained with the self-edit solves the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.records import Grade, Output
from hybrid.tasks.arc.grid import Grid
from pipelines.seal.edit_results import MOST_STEPS, Attempts, EditResult, right, truths_of


@dataclass(frozen=True)
class SelfEdit:
    """1 when every test input of the task is right in one of two attempts of the model that the self-edit trained.

    A reply that is no configuration, or needs more steps than allowed, trains nothing: its attempts are those of the
    untrained model. Controls are the score of the same task without training (`base`), with the configuration chosen
    by hand (`fixed`), and the mean score over random configurations (`random`).
    """

    def grade(self, output: Output) -> Grade:
        """Grade one self-edit. Failed outputs are not wrong answers: without attempts there is no score."""
        truths = truths_of(output.reference)
        if truths is None:
            return Grade(None, "no reference" if output.reference is None else "the reference is no list of grids")
        try:
            result = EditResult.from_text(output.text or "")
        except ValueError:
            return Grade(None, "not the record of a self-edit")
        if result.attempts is None:
            return Grade(None, f"no answer: {result.failed}")
        score = float(right(result.attempts, truths))
        arms = _arms(result, truths)
        return Grade(
            score=score,
            figures={**_figures(result, truths), **_of_round(output.view, score, arms)},
            detail=_detail(result),
            arms=arms,
        )


def _arms(result: EditResult, truths: Sequence[Grid]) -> dict[str, float]:
    """Scores of the other arms, without those that have no attempts."""
    scores = {"base": _score(result.base, truths), "fixed": _score(result.fixed, truths)}
    random = [score for score in (_score(each, truths) for each in result.random) if score is not None]
    if random and len(random) == len(result.random):
        scores["random"] = sum(random) / len(random)
    return {name: score for name, score in scores.items() if score is not None}


def _score(attempts: Attempts | None, truths: Sequence[Grid]) -> float | None:
    return None if attempts is None else float(right(attempts, truths))


def _figures(result: EditResult, truths: Sequence[Grid]) -> dict[str, float]:
    """The figures of one self-edit. `any-right` is a figure of the task: only its first self-edit has it."""
    figures = {
        "valid": float(result.edit is not None),
        "bare": float(result.bare),
        "trained": float(result.trained),
        "distinct": float(result.first),
    }
    if result.trained:
        figures["steps"] = min(1.0, result.steps / MOST_STEPS)
    if result.together:
        if (known := _any(result.together, truths)) is not None:
            figures["any-right"] = known
        if result.random and (known := _any(result.random, truths)) is not None:
            figures["any-right/random"] = known
    return figures


def _any(arms: Sequence[Attempts | None], truths: Sequence[Grid]) -> float | None:
    """1 when some arm is right; None unless all arms have attempts: without the failed ones it would be biased."""
    scores = [_score(each, truths) for each in arms]
    return None if None in scores else float(1.0 in scores)


def _of_round(view: Mapping[str, Any], score: float, arms: Mapping[str, float]) -> dict[str, float]:
    """The score and its controls, named by round and split: the points of the reward curve."""
    number, split = view.get("round"), view.get("split")
    if type(number) is not int or not 0 <= number < 1000 or split not in ("train", "eval"):
        return {}
    name = f"round-{number}/{split}"
    return {name: score, **{f"{name}/{arm}": value for arm, value in arms.items()}}


def _detail(result: EditResult) -> dict[str, Any]:
    return {
        "edit": result.edit,
        "reply": result.reply,
        "untrained": result.untrained,
        "tried": result.attempts,
        "steps": result.steps,
        "tokens": result.tokens,
        "views": result.views,
        "policy": result.policy,
    }
