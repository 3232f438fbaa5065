"""What the model allows of the settings. Only who has the model can tell: a worker, before the first round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.errors import CannotRun
from hybrid.loops import Lab
from pipelines.atlas import rank_budget
from pipelines.atlas.methods import METHODS
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.trained_slots import Slots

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
"""The ranks of a layer within a budget."""


def check_model(settings: AtlasSettings, lab: Lab, labels: Sequence[int]) -> None:
    """Raise CannotRun for targets, ranks, budgets and a cut that the model does not allow, whichever method has them:
    else the last of several methods would tell, after the others have trained for hours.

    `labels`: of each client's task.
    """
    methods = [METHODS[name] for name in settings.methods]
    if all(method.combine == "full" for method in methods):
        return
    slots = Slots(lab, settings, METHODS["local"], 0, [max(settings.ranks())], [max(labels)])
    budgets, even = len(settings.budget_kb), dict.fromkeys(slots.layers, 0.0)
    try:
        seen = set[tuple[int, int]]()
        for client, count in enumerate(labels if budgets else ()):
            if (client % budgets, count) not in seen:
                seen.add((client % budgets, count))
                budgeted_ranks(settings, slots, client, count, even)
    finally:
        slots.close()


def budgeted_ranks(
    settings: AtlasSettings, slots: Slots, client: int, labels: int, importance: Mapping[str, float]
) -> Mapping[str, int]:
    """The ranks of the layers within the budget of a client whose task has so many labels. Raises CannotRun where it
    has no room for the least.
    """
    head = sum(value.size for value in slots.first(1, labels).head.values()) * rank_budget.TRAINED_BYTES
    budget = settings.budget_kb[client % len(settings.budget_kb)] * 1000
    try:
        return rank_budget.allocate(slots.layers, importance, budget, CANDIDATES, head).ranks
    except rank_budget.BudgetTooSmall as error:
        raise CannotRun(f"client {client}: {error}", hint=f"--set budget_kb={-(-error.needed // 1000)}") from error
