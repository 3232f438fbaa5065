"""The rounds of a run as tables: variant, seed and size -> what each of its rounds measured."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.metrics import LARGEST, Interval, RoundMetrics, costs_of
from hybrid.records import Output
from hybrid.statistics.intervals import student_quantile
from hybrid.statistics.paired import PairedComparison, compared
from pipelines.cvfp.settings import BOUND, COUNTED, MOST_SWEEPS, VARIANTS

SERIES = re.compile(r"(?P<variant>[a-z-]+)/(?:pieces-(?P<pieces>[0-9]+)/)?seed-(?P<seed>[0-9]+)")
CONVERGED, GOOD_DIFFERENCE = 0.95, 1e-3
"""The guide's: share of tokens whose context stays, and the distance between two passes that it calls good."""
TRAIN_RANK, HELD_OUT_RANK = 0.85, 0.75
"""The guide's effective ranks, of its 6,400 tokens and of the last 1,280 of them."""

SHARE, SIZE = (0.0, 1.0), (0.0, LARGEST)
RANGES: Mapping[str, Interval] = {
    "perplexity": (1.0, LARGEST), "bits_per_byte": SIZE, "top1": SHARE, "top5": SHARE, "effective_rank": SHARE,
    "effective_rank_of_noise": SHARE, "effective_rank_over_noise": SIZE, "growth": SIZE, "context_use": SIZE,
    "final_difference": SIZE, "converged": SHARE,
}  # fmt: skip
"""What a metric can be: an interval holds nothing else."""


@dataclass(slots=True)
class Trained:
    """The rounds of one series: the metrics of each, in order, and why it ended early, "" if it did not."""

    variant: str
    pieces: int
    seed: int
    rounds: dict[int, Mapping[str, float]] = field(default_factory=dict)
    failure: str = ""
    shape: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    log: list[str] = field(default_factory=list)  # the guide's lines, of phase 1 in its own order
    peak_bytes: float = 0.0
    seconds: dict[int, float] = field(default_factory=dict)  # of each round

    @property
    def name(self) -> str:
        """Variant and size, as tables name it."""
        return self.variant if not self.pieces else f"{self.variant}, {self.pieces:,} pieces"

    def curve(self, metric: str, phase: int) -> list[tuple[int, float]]:
        """Round and value of a metric in a phase."""
        return [
            (number, of[metric])
            for number, of in sorted(self.rounds.items())
            if metric in of and of.get("phase") == phase and not of.get("stopped")
        ]

    def last(self, metric: str, phase: int) -> float | None:
        """The last value of a metric in a phase."""
        found = self.curve(metric, phase)
        return found[-1][1] if found else None

    def of_contexts(self, metric: str) -> float | None:
        """The last value of a metric of the contexts in phase 1; of an untrained network, that of its first weights."""
        found = self.last(metric, 1)
        return self.last(metric, 2) if found is None else found

    def tokens_per_second(self, phase: int) -> float | None:
        """Tokens of the training documents per second of a round: the median of those of a phase."""
        tokens = self.shape.get("tokens")
        known = [self.seconds[number] for number, _ in self.curve("phase", phase) if self.seconds.get(number)]
        return tokens / statistics.median(known) if known and isinstance(tokens, int) else None

    def best(self) -> Mapping[str, float] | None:
        """The metrics of the epoch with the lowest held-out loss."""
        epochs = [of for of in self.rounds.values() if "loss" in of and not of.get("stopped")]
        return min(epochs, key=lambda of: of["loss"]) if epochs else None

    @property
    def ended(self) -> bool:
        """Whether every round is there, up to the last one, which alone has a text; not where one failed."""
        return bool(self.text) and not self.failure and sorted(self.rounds) == list(range(len(self.rounds)))

    @property
    def still_improving(self) -> bool:
        """Whether it has ended, and its last epoch was the best: more of them may help."""
        return self.ended and self.variant not in COUNTED and self.rounds[max(self.rounds)] is self.best()

    @property
    def sweeps_needed(self) -> float | None:
        """Sweeps without training until their bound was below BOUND; None where it never was."""
        bound = self.last("sweep_bound", 1)
        return self.last("sweeps_needed", 1) if bound is not None and bound < BOUND else None

    @property
    def is_certified(self) -> bool:
        """Whether sweeps without training were made after phase 1."""
        return self.last("sweep_rate", 1) is not None

    @property
    def converged(self) -> bool | None:
        """Whether the contexts have a fixed point that forgets its past; None without a measurement."""
        growth, difference = self.of_contexts("growth"), self.of_contexts("final_difference")
        if growth is None or difference is None:
            return None
        return growth < 1 and difference < GOOD_DIFFERENCE


@dataclass(frozen=True, slots=True)
class Summary:
    """A mean over `n` seeds and its 95 % interval, None where it is not known."""

    mean: float
    interval: Interval | None
    n: int


def read(outputs: Iterable[Output]) -> list[Trained]:
    """The series of a run, in the order of the variants, whole or not."""
    found: dict[tuple[str, int, int], Trained] = {}
    for output in outputs:
        named = SERIES.fullmatch(output.task)
        if named is None or named["variant"] not in VARIANTS:
            continue
        at = named["variant"], int(named["pieces"] or 0), int(named["seed"])
        series = found.setdefault(at, Trained(*at))
        if output.error is not None:
            series.failure = series.failure or output.error.message
            continue
        try:
            metrics = RoundMetrics.from_text(output.text or "")
        except ValueError:
            continue
        series.rounds[metrics.round] = {**metrics.metrics, **_of_noise(metrics.metrics)}
        costs = costs_of(output.trained).get("", {})
        series.peak_bytes = max(series.peak_bytes, costs.get("peak_bytes", 0.0))
        if "round_seconds" in costs:
            series.seconds[metrics.round] = costs["round_seconds"]
        shape, text, line = (metrics.notes.get(name) for name in ("shape", "text", "log"))
        series.log += [line] if isinstance(line, str) else []
        series.shape = shape if isinstance(shape, dict) else series.shape
        series.text = text if isinstance(text, str) else series.text
    order = {name: place for place, name in enumerate(VARIANTS)}
    return sorted(found.values(), key=lambda one: (one.pieces, order[one.variant], one.seed))  # type: ignore[index]


def _of_noise(metrics: Mapping[str, float]) -> dict[str, float]:
    """The effective rank as a share of what as many rows of noise have, where it was measured."""
    rank, noise = metrics.get("effective_rank"), metrics.get("effective_rank_of_noise")
    share = rank / noise if rank is not None and noise else math.nan
    return {"effective_rank_over_noise": share} if abs(share) <= LARGEST else {}


def names_of(series: Sequence[Trained]) -> list[str]:
    """The names of variants and sizes, in order."""
    return list(dict.fromkeys(one.name for one in series))


def summary(values: Sequence[float], metric: str) -> Summary | None:
    """The mean over seeds with Student's interval, as far as the metric can be there; None for none."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Summary(mean, None, len(values))
    half = student_quantile(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    low, high = RANGES.get(metric, (-LARGEST, LARGEST))
    return Summary(mean, (max(low, mean - half), min(high, mean + half)), len(values))


def best_of(series: Sequence[Trained], name: str, metric: str) -> dict[int, float]:
    """Seed -> a metric of the best epoch of the variant and size `name`."""
    best = {one.seed: one.best() for one in series if one.name == name}
    return {seed: of[metric] for seed, of in best.items() if of is not None and metric in of}


def summary_of_best(series: Sequence[Trained], name: str, metric: str) -> Summary | None:
    """The summary of `best_of`."""
    return summary(list(best_of(series, name, metric).values()), metric)


def difference(series: Sequence[Trained], name: str, control: str) -> PairedComparison | None:
    """Held-out loss of `name` minus that of `control`, in nats a token, seed by seed; counts have one for all seeds.

    None where they share no seed, and for losses that are further apart than a metric can be.
    """
    first, second = best_of(series, control, "loss"), best_of(series, name, "loss")
    if _is_counted(control) and not _is_counted(name):
        first = _for_all(first, second)
    elif _is_counted(name) and not _is_counted(control):
        second = _for_all(second, first)
    pairs = [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]
    found = compared(pairs) if pairs else None
    known = found and all(abs(one) <= LARGEST for one in (found.mean, *(found.interval or ())))
    return found if known else None


def _for_all(one: Mapping[int, float], seeds: Iterable[int]) -> dict[int, float]:
    """The value of a counted variant for each seed, if there is one."""
    return {seed: value for value in one.values() for seed in seeds}


def _is_counted(name: str) -> bool:
    return name.partition(",")[0] in COUNTED


def fixed_point(series: Sequence[Trained]) -> str:
    """In how many seeds of a variant the contexts have a fixed point, and the growth that says why; "" if unknown."""
    known = [one for one in series if one.converged is not None]
    if not known:
        return ""
    growths = [one.of_contexts("growth") or 0.0 for one in known]
    low, high = f"{min(growths):.2f}", f"{max(growths):.2f}"
    told = f"growth {low}" + (f" to {high}" if high != low else "")
    reached = sum(one.converged or False for one in known)
    return f"{reached} of {len(known)}: {told}"


def sweeps_until_exact(series: Sequence[Trained]) -> str:
    """How many sweeps the seeds of a variant needed, and in how many the most were not enough; "–" if unknown."""
    known = [one for one in series if one.is_certified]
    reached = [one.sweeps_needed for one in known if one.sweeps_needed is not None]
    low, high = f"{min(reached, default=0):.0f}", f"{max(reached, default=0):.0f}"
    told = [low if low == high else f"{low} to {high}"] if reached else []
    if missed := len(known) - len(reached):
        told.append(f"not within {MOST_SWEEPS}" + (f": {missed} of {len(known)} seeds" if len(known) > 1 else ""))
    return "; ".join(told) or "–"


def criteria(one: Trained) -> dict[str, bool | None]:
    """The guide's four criteria of phase 1; None where nothing was measured.

    An untrained network has no sweeps: its share of tokens that stay is that of the guide's check.
    """
    rank, held_out = one.of_contexts("effective_rank"), one.of_contexts("effective_rank_of_last")
    share, difference_ = one.last("converged", 1), one.of_contexts("final_difference")
    share = one.of_contexts("final_converged") if share is None else share
    return {
        "effective rank over 85 %": None if rank is None else rank > TRAIN_RANK,
        "of the last fifth over 75 %": None if held_out is None else held_out > HELD_OUT_RANK,
        "95 % of tokens converged": None if share is None else share >= CONVERGED,
        "final difference under 0.001": None if difference_ is None else difference_ < GOOD_DIFFERENCE,
    }
