"""What has to be known to read the figures of a run: missing rounds, a cold start, shortfalls, unequal work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

from hybrid.report.formatting import count_of
from pipelines.sapo.comparison import Comparison
from pipelines.sapo.results import Swarm

Weight = Literal["fault", "missing", "warning", "note"]
COLD_AFTER = 20
"""Rounds from which on a swarm that does not begin to learn is named, and of which that is said: of all that a shorter
run has when it is whole."""
COLD_DEAD, COLD_TAGGED = 0.99, 0.01
"""Share of rollouts without advantage from which on, and of completions with an answer below which, none is learned."""
COLD = {
    "dead": "rollouts have equal rewards, so that nothing is learned from them",
    "tagged": "completions have an answer that can be scored",
}
NOTHING_LEARNED = "cold start: dead"
COLD_NAMES = {"dead": NOTHING_LEARNED, "tagged": "cold start: tagged"}
MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found: in words, and as a figure `name` with its value, where it has one."""

    weight: Weight
    arm: str
    text: str
    name: str = ""
    value: float = 0.0
    n: int = 0


def findings(comparison: Comparison) -> list[Finding]:
    """All that was found, faults first."""
    found: list[Finding] = [*_doubles(comparison.swarms), *_empty(comparison.empty)]
    for arm in comparison.arms:
        swarms = comparison.of(arm)
        found += [*_missing(arm, swarms), *_cold(arm, swarms), *_short(arm, swarms), *_counted(arm, swarms)]
        found += _unequal(comparison, arm)
    if warm_up := comparison.context.warm_up:
        said = f"the models were fine-tuned on the format of answers for {warm_up:,} steps before the first round"
        found.append(Finding("note", "", said))
    order = get_args(Weight)
    return sorted(found, key=lambda one: order.index(one.weight))


def _empty(swarms: Sequence[Swarm]) -> Iterator[Finding]:
    """Swarms without any round."""
    if swarms:
        why = next((f": {one.failure:.200}" for one in swarms if one.failure), "")
        yield Finding("missing", "", f"no round is there of {_listed([one.name for one in swarms])}{why}")


def _missing(arm: str, swarms: Sequence[Swarm]) -> Iterator[Finding]:
    """Rounds that are not there, and nodes that fell behind."""
    late = [one for one in swarms if not one.whole]
    if not late:
        return
    told = [f"seed {one.seed} {one.done:,} of {one.rounds:,} rounds" for one in late]
    why = next((f": {one.failure:.200}" for one in late if one.failure), "")
    said = f"{arm} is not whole ({_listed(told)}){why}; its figures are of the rounds that there are"
    yield Finding("missing", arm, said, "rounds missing", sum(one.lacking for one in late), len(late))


def _cold(arm: str, swarms: Sequence[Swarm]) -> Iterator[Finding]:
    """Swarms that have nothing to learn from, in their newest rounds."""
    for metric in ("dead", "tagged"):
        known = {one.seed: _newest(one, metric) for one in swarms if one.done >= COLD_AFTER or one.whole}
        wrong = [value for value in known.values() if value is not None and _is_cold(metric, value)]
        if wrong:
            value = math.fsum(wrong) / len(wrong)
            rounds = min(COLD_AFTER, max(one.done for one in swarms))
            said = (
                f"cold start of {arm}: in the newest {count_of(rounds, 'round')} {100 * value:.1f} % of {COLD[metric]}"
            )
            seeds = f"{len(wrong)} of {len(swarms)} seed{'s' if len(swarms) > 1 else ''}"
            yield Finding("warning", arm, f"{said} ({seeds})", COLD_NAMES[metric], value, len(wrong))


def _newest(one: Swarm, metric: str) -> float | None:
    return one.mean(metric, range(max(0, one.done - COLD_AFTER), one.done))


def _is_cold(metric: str, value: float) -> bool:
    return value >= COLD_DEAD if metric == "dead" else value < COLD_TAGGED


def _short(arm: str, swarms: Sequence[Swarm]) -> Iterator[Finding]:
    """Foreign rollouts that were wanted and were not there."""
    wanted, got = (math.fsum(v for s in swarms for v in s.sums(name).values()) for name in ("ext_wanted", "n_ext"))
    if wanted > got:
        said = f"{arm} wanted {wanted:,.0f} foreign rollouts and got {got:,.0f} ({100 * got / wanted:.0f} %)"
        yield Finding("warning", arm, said, "foreign rollouts that were missing", wanted - got, len(swarms))


def _counted(arm: str, swarms: Sequence[Swarm]) -> Iterator[Finding]:
    """Refused rollouts, skipped steps, and what had no room."""
    for metric, what in (
        ("refused", "foreign rollouts were refused, since they were not valid"),
        ("skipped", "optimizer steps were skipped, since the gradient was not finite"),
        ("no_room", "own questions were not asked, since they left no room for an answer in the model's context"),
        ("left_out", "rollouts were not trained on, since their questions leave no room for an answer"),
    ):
        count = math.fsum(value for one in swarms for value in one.sums(metric).values())
        if count > 0:
            yield Finding("warning", arm, f"{arm}: {count:,.0f} {what}", metric, count, len(swarms))


def _unequal(comparison: Comparison, arm: str) -> Iterator[Finding]:
    """Comparisons of arms that wrote more completions than the other one."""
    for control in comparison.controls(arm):
        paired = comparison.paired(arm, control, comparison.figures.own)
        ratio = paired.wrote if paired else None
        if ratio and abs(ratio - 1) > 0.01:
            said = f"{arm} wrote {ratio:.2f} completions for each one of {control}: their compute is not equal"
            yield Finding(
                "note", arm, said, f"completions for each of {control}", ratio, paired.found.n if paired else 0
            )


def _doubles(swarms: Sequence[Swarm]) -> Iterator[Finding]:
    """Pairs of swarms that trained, and are equal to the bit in every reward and loss."""
    for first, second in combinations(swarms, 2):
        same_seed, same_arm = first.seed == second.seed, first.arm == second.arm
        if same_seed == same_arm or not _trained(first) or not _equal(first, second):
            continue
        does = "the seed changes nothing" if same_arm else "one of them does nothing that the other does not do"
        yield Finding("fault", first.arm.name, f"{first.name} and {second.name} are equal to the bit: {does}")


def _trained(one: Swarm) -> bool:
    return any(value > 0 for node in one.nodes.values() for value in node.values("gradient_norm"))


def _equal(first: Swarm, second: Swarm) -> bool:
    """Whether all nodes have the same rewards and losses in the same rounds, and more than one of them."""
    if first.nodes.keys() != second.nodes.keys():
        return False
    return all(
        list(node.curve(metric)) == list(second.nodes[name].curve(metric))
        for name, node in first.nodes.items()
        for metric in ("reward_own", "reward_train", "loss")
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown
