"""Files beside outputs.json: every node's rounds as a table for other programs, and the comparisons of the arms.

`metrics.csv` is a superset of what the guide's table would have. Rows are written one by one. What is not known is an
empty cell. Times and memory differ from run to run, everything else does not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

from hybrid.records import Output
from hybrid.statistics.paired import holm
from pipelines.sapo.comparison import Comparison, Figure, Paired
from pipelines.sapo.context import Context
from pipelines.sapo.results import EVAL, REWARD, NodeRounds, Swarm, read_swarms
from pipelines.sapo.settings import TaskName

TASKS: tuple[str, ...] = get_args(TaskName)
"""Every task has its columns, so that the first line is the same in each run."""
COLUMNS: Mapping[str, str] = {
    "reward_train_T": "reward_train", "reward_own": "reward_own", "eval_pass1": "eval_pass1", "n_own": "n_own",
    "n_ext": "n_ext", "ext_wanted": "ext_wanted", "ext_pool": "ext_pool", "ext_max_age": "ext_age_max",
    "ext_mean_age": "ext_age_mean", "frac_zero_adv": "dead", "tagged": "tagged", "ended": "ended",
    **{f"reward_{task}": f"{REWARD}{task}" for task in TASKS}, **{f"eval_{task}": f"{EVAL}{task}" for task in TASKS},
    "tokens_gen": "tokens_generated", "tokens_train": "tokens_trained", "loss": "loss", "grad_norm": "gradient_norm",
    "refused": "refused", "skipped": "skipped", "no_room": "no_room", "left_out": "left_out",
    "t_gen": "generate_seconds", "t_wait": "wait_seconds", "t_train": "train_seconds", "peak_mem": "peak_bytes",
}  # fmt: skip
"""Column -> metric or cost of the node."""
HEAD = ("round", "node", "config", "seed", *COLUMNS, "cum_paper", "cum_completions")
PAIRS = (
    "Arm", "Control", "Figure", "Paired by", "Pairs", "Mean difference", "95 % low", "95 % high", "t", "p (paired t)",
    "p (Holm)", "p (Wilcoxon)", "least p of Wilcoxon", "bootstrap low", "bootstrap high", "Cohen's d",
    "Completions of the arm for each of the control", "Verdict", "Caveat",
)  # fmt: skip
DIGITS = 6

Cell = str | float | int | None


def pages(outputs: Iterable[Output], *, group: int) -> Mapping[str, str | Iterable[str]]:
    """The files of a run: name -> text, or its lines. `group`: completions of a rollout."""
    comparison = Comparison(read_swarms(outputs), Context(group=group))
    return {"metrics.csv": metrics(comparison.swarms, group), "comparisons.csv": "".join(comparisons(comparison))}


def metrics(swarms: Sequence[Swarm], group: int) -> Iterator[str]:
    """Yield the lines of metrics.csv: the nodes of a round one below the other, swarm by swarm."""
    yield _line(HEAD)
    for swarm in swarms:
        nodes = [(number, _Rows(node, group)) for number, node in swarm.nodes.items()]
        for number in range(swarm.done):
            for node, rows in nodes:
                if (found := rows.at(number)) is not None:
                    yield _line((number, f"node-{node}", swarm.arm.name, swarm.seed, *found))


class _Rows:
    """The rows of a node, asked for in ascending order of rounds."""

    def __init__(self, node: NodeRounds, group: int) -> None:
        self._node, self._group = node, group
        self._next = 0
        self._paper = self._completions = 0.0

    def at(self, number: int) -> list[Cell] | None:
        """The cells of a round; None where the node has none."""
        place = self._node.place(number, self._next)
        if place is None:
            return None
        self._next = place + 1
        row = self._node.row(place)
        self._paper += row.get("reward_train", 0.0)
        self._completions += self._group * row.get("reward_own", 0.0) * row.get("n_own", 0.0)
        return [*(row.get(metric) for metric in COLUMNS.values()), self._paper, self._completions]


def comparisons(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of comparisons.csv: each arm against each of its controls."""
    yield _line(PAIRS)
    figures = comparison.figures.own, comparison.figures.held_out
    found = [
        (arm, control, figure, paired)
        for figure in figures
        for arm in comparison.arms
        for control in comparison.controls(arm)
        if (paired := comparison.paired(arm, control, figure))
    ]
    corrected = _holm(found)
    for place, (arm, control, figure, paired) in enumerate(found):
        yield _line(_pair(arm, control, figure, paired, corrected.get(place)))


def _holm(found: Sequence[tuple[str, str, Figure, Paired]]) -> dict[int, float]:
    """The corrected p values by place; of all comparisons of a figure together."""
    corrected: dict[int, float] = {}
    for name in dict.fromkeys(figure.name for _, _, figure, _ in found):
        known = {
            place: p
            for place, (_, _, figure, paired) in enumerate(found)
            if figure.name == name and (p := paired.found.t_p) is not None
        }
        corrected.update(zip(known, holm(list(known.values())), strict=True))
    return corrected


def _pair(arm: str, control: str, figure: Figure, paired: Paired, p: float | None) -> list[Cell]:
    found = paired.found
    low, high = found.interval or (None, None)
    least, most = found.bootstrap or (None, None)
    by = "seed" if paired.over == "seeds" else "node of one seed"
    return [
        arm, control, figure.name, by, found.n, found.mean, low, high, found.t, found.t_p, p, found.wilcoxon_p,
        found.least_wilcoxon_p, least, most, found.cohens_d, paired.wrote, paired.verdict, found.caveat,
    ]  # fmt: skip


def _line(cells: Iterable[Cell]) -> str:
    """A line of CSV. Arms and nodes are names of ours, so no cell is taken for a formula."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerow([_cell(one) for one in cells])
    return written.getvalue()


def _cell(value: Cell) -> Cell:
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}" if abs(value) < 10**DIGITS else f"{value:.0f}"
    return value
