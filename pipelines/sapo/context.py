"""What the results of a run have to be read with: its settings, and what a model that never answers scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

PART = 0.2
"""Share of the rounds that are the first and the last part of a run."""
UNITS = 10_000
"""A whole number is a score in this part of 1."""


@dataclass(frozen=True, slots=True)
class Context:
    """Settings of a run that its figures depend on.

    `silent` are the mean scores, in [0, 1], that an empty completion gets by task, by the scoring of rewards and, as
    `strict`, by that of held-out questions; None where they are not known. `group` are the completions of a rollout, 0
    where they are not known.
    """

    part: float = PART
    group: int = 0
    scoring: str = ""
    silent: Mapping[str, float] | None = None
    strict: Mapping[str, float] | None = None
    warm_up: int = 0
    model: str = ""

    @property
    def never_answers(self) -> float | None:
        """The mean reward of a model that never answers: tasks are drawn alike often."""
        return fmean(self.silent.values()) if self.silent else None

    @property
    def never_right(self) -> float | None:
        """What it scores on held-out questions."""
        return fmean(self.strict.values()) if self.strict else None

    def ends(self, done: int) -> tuple[range, range]:
        """The first and the last part of so many rounds; they may overlap in a very short run."""
        size = max(1, round(self.part * done))
        return range(min(size, done)), range(max(0, done - size), done)


def context_of(run: Mapping[str, Any], part: float = PART) -> Context:
    """What the outputs say of their run. What is missing or of another type counts as not known."""
    settings, about = (one if isinstance(one, Mapping) else {} for one in (run.get("settings"), run.get("about")))
    scoring, group, warm_up = settings.get("scoring"), settings.get("group"), settings.get("warm_up")
    return Context(
        part=part,
        group=group if isinstance(group, int) and group > 0 else 0,
        scoring=str(scoring or ""),
        silent=_silent(about.get("silent"), scoring, settings.get("tasks")),
        strict=_silent(about.get("silent"), "strict", settings.get("tasks")),
        warm_up=warm_up if isinstance(warm_up, int) and warm_up > 0 else 0,
        model=str(run.get("model") or ""),
    )


def _silent(found: Any, scoring: Any, tasks: Any) -> Mapping[str, float] | None:
    """The score of an empty completion by task; None unless it is known of every task of the run."""
    if not isinstance(found, Mapping):
        return None
    wanted = tasks if isinstance(tasks, list | tuple) and tasks else list(found)
    scores = {}
    for task in wanted:
        score = found[task].get(scoring) if isinstance(found.get(task), Mapping) else None
        if isinstance(score, bool) or not isinstance(score, int | float):
            return None
        score = score / UNITS if isinstance(score, int) else score
        if not 0 <= score <= 1:
            return None
        scores[str(task)] = score
    return scores
