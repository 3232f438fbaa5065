"""Runs of `sapo` without a model: records of made-up swarms, and the outputs file that they stand in."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from hybrid.metrics import RoundMetrics
from hybrid.outputs import write_outputs
from hybrid.records import Failure, Output
from pipelines.sapo.arms import arm_of
from pipelines.sapo.results import SERIES

TASKS = "basic_arithmetic", "base_conversion", "fraction_simplification"
SILENT = {
    "basic_arithmetic": {"strict": 0.0, "paper": 0.0}, "base_conversion": {"strict": 0.0, "paper": 0.0},
    "fraction_simplification": {"strict": 0.0, "paper": 0.01},
}  # fmt: skip
GROUP = 8
GAIN = 0.3
"""What a policy learns in all rounds."""

Exchange = Literal["memory", "folder"]
Metrics = dict[str, float]
Change = Callable[[int, int, Metrics], None]
"""What is changed in a node's round before it is written: its round, its node and its metrics."""


def swarm(
    arm: str,
    seed: int,
    *,
    nodes: int = 4,
    rounds: int = 20,
    exchange: Exchange = "memory",
    change: Change | None = None,
    gain: float | None = None,
    present: int | None = None,
) -> list[Output]:
    """The records of an arm with a seed that learns `gain`, and more where it shares; rounds from `present` on are
    missing.
    """
    made = []
    gain = gain if gain is not None else GAIN + 0.1 * (arm_of(arm).shared > 0)
    sums = [0.0] * nodes
    present = rounds if present is None else present
    for number in range(rounds):
        groups = {f"node-{node}": _node(arm, seed, node, number, rounds, gain) for node in range(nodes)}
        for node, metrics in enumerate(groups.values()):
            if change:
                change(number, node, metrics)
            sums[node] += metrics.get("reward_train", 0.0)
            metrics["cumulative"] = sums[node]
        costs = {name: {"generate_seconds": 2.0, "train_seconds": 1.0, "wait_seconds": 0.5} for name in groups}
        made += _records(f"{arm}/seed-{seed}", number, groups, costs, exchange, there=number < present)
    return made


def sapo_outputs(
    arms: Sequence[str] = ("8-0", "4-4"), seeds: Sequence[int] = (0, 1, 2), **settings: Any
) -> list[Output]:
    """The rounds of each arm and seed, in the order of outputs.json."""
    made = (one for arm in arms for seed in seeds for one in swarm(arm, seed, **settings))
    return sorted(made, key=lambda one: (one.task, one.question))


def sapo_run(folder: Path, outputs: Sequence[Output], *, silent: Any = SILENT, **settings: Any) -> Path:
    """outputs.json of a run of `sapo` in `folder`. `silent`: what an empty completion scores."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {**run_of(**settings), "id": f"sapo-{folder.name}", "about": {"grader": "sapo", "silent": silent}}
    write_outputs(folder / "outputs.json", run, [], tasks_of(outputs), outputs)
    return folder / "outputs.json"


def run_of(**settings: Any) -> dict[str, Any]:
    """What the outputs say of their run."""
    return {
        "id": "sapo", "pipeline": "sapo", "model": "tiny",
        "settings": {"scoring": "paper", "group": GROUP, "tasks": list(TASKS), "warm_up": 0, **settings},
        "about": {"grader": "sapo", "silent": SILENT},
    }  # fmt: skip


def tasks_of(outputs: Sequence[Output]) -> dict[str, Any]:
    """The tasks of the run: its series."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(one.task for one in outputs):
        if named := SERIES.fullmatch(name):
            node = {"node": int(named["node"])} if named["node"] else {}
            found[name] = {"arm": named["arm"], "seed": int(named["seed"]), **node}
    return found


def _records(
    series: str, number: int, groups: dict[str, Metrics], costs: dict[str, Metrics], exchange: Exchange, *, there: bool
) -> list[Output]:
    """A round's record, or one for each node."""
    if exchange == "memory":
        together = {"generate_seconds": 3.0, "train_seconds": 2.0, "peak_bytes": 3e9}
        return [record(series, number, RoundMetrics(number, {}, groups), {**costs, "": together}, there=there)]
    return [
        record(f"{series}/{name}", number, RoundMetrics(number, {}, {name: metrics}), {name: costs[name]}, there=there)
        for name, metrics in groups.items()
    ]


def record(
    task: str, number: int, said: RoundMetrics | Failure, costs: dict[str, Metrics] | None = None, *, there: bool = True
) -> Output:
    """The record of a round, or of one that failed or is missing."""
    said = said if there else Failure("missing", "not computed yet")
    text, error = (None, said) if isinstance(said, Failure) else (said.to_text(), None)
    trained = {"costs": costs} if costs and there else {}
    return Output(
        f"{task} {number}", task, f"{task}/{number:05}", {}, 0, text, error, None, finish="stop", trained=trained
    )


def _node(arm: str, seed: int, node: int, number: int, rounds: int, gain: float) -> Metrics:
    draw = random.Random(f"{arm} {seed} {node} {number}")
    worth = 0.1 + 0.02 * random.Random(f"seed {seed} {node}").random() + gain * number / rounds
    of = arm_of(arm)
    found = {
        "reward_train": worth + 0.05 * (of.shared > 0) + draw.gauss(0, 0.01), "n_own": of.own, "n_ext": of.foreign,
        "ext_wanted": of.foreign, "ext_pool": 3.0 * of.foreign, "dead": 0.5 - worth / 2, "tagged": 0.8, "ended": 0.9,
        "tokens_generated": 100.0 * of.own * GROUP, "tokens_trained": 60.0 * (of.own + of.foreign) * GROUP,
        "loss": 0.1 + draw.uniform(0, 0.01), "gradient_norm": 1 + draw.random(), "refused": 0.0, "skipped": 0.0,
    }  # fmt: skip
    if of.own:
        found["reward_own"] = worth + draw.gauss(0, 0.01)
        found |= {f"reward/{task}": found["reward_own"] for task in TASKS}
    if of.shared:
        found |= {"ext_age_max": 1.0, "ext_age_mean": 0.5}
    if number % 5 == 0 or number == rounds - 1:
        found["eval_pass1"] = worth + draw.gauss(0, 0.01)
        found |= {f"eval/{task}": found["eval_pass1"] for task in TASKS}
    return found
