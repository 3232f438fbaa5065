"""The metrics of a node in a round, and of the swarm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from hybrid.tasks.reasoning.answers import tagged
from pipelines.sapo.advantages import mean_reward
from pipelines.sapo.ledger import Entry, Group
from pipelines.sapo.pool import Candidate
from pipelines.sapo.training import Trained
from pipelines.sapo.training_set import TrainingSet

SUMS = frozenset((
    "n_own", "n_ext", "ext_wanted", "tokens_generated", "tokens_trained", "refused", "skipped", "no_room", "left_out",
    "cut",
))  # fmt: skip
"""Metrics of which the swarm has the sum over its nodes; of the others it has the mean."""


def written(own: Sequence[Candidate], prefix: str, tokens: int) -> dict[str, float]:
    """What a node wrote itself: rewards, by task too, and whether its answers have the form that is asked for."""
    found: dict[str, float] = {"n_own": len(own), "tokens_generated": tokens}
    if not own:
        return found
    by_task: dict[str, list[tuple[int, ...]]] = {}
    for one in own:
        by_task.setdefault(one.rollout.task, []).append(one.rewards)
    answers = [answer for one in own for answer in one.rollout.answers]
    return {
        **found,
        **{f"reward/{task}": mean_reward(rewards) for task, rewards in sorted(by_task.items())},
        "reward_own": mean_reward([one.rewards for one in own]),
        "tagged": fmean(tagged(prefix + one.text) for one in answers),
        "ended": fmean(one.ended for one in answers),
    }


def trained(
    groups: Sequence[Group], entry: Entry, made: TrainingSet, done: Trained, cumulative: float
) -> dict[str, float]:
    """What a node trained on. `cumulative`: the paper's sum of `reward_train` before this round."""
    reward = mean_reward([one.rewards for one in groups])
    found: dict[str, float] = {
        "reward_train": reward,
        "cumulative": cumulative + reward,
        "n_ext": len(entry.foreign),
        "ext_wanted": entry.wanted,
        "ext_pool": entry.pool,
        "tokens_trained": made.trained,
        "loss": done.loss,
        "gradient_norm": done.norm,
        "skipped": done.skipped,
        "refused": sum(entry.refused.values()),
        "left_out": made.left_out,
        "cut": made.cut,
    }
    if entry.foreign:
        found["ext_of_one"] = max(Counter(one.node for one in entry.foreign).values())
    if entry.ages:
        found |= {"ext_age_max": max(entry.ages), "ext_age_mean": fmean(entry.ages)}
    if groups:
        found["dead"] = sum(one.advantages is None for one in groups) / len(groups)
    return found


def of_swarm(nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sums and means over the nodes."""
    names = {name for one in nodes for name in one}
    values = {name: [one[name] for one in nodes if name in one] for name in sorted(names)}
    return {name: float(sum(of)) if name in SUMS else fmean(of) for name, of in values.items()}
