"""What phases and variants are worth: held-out loss beside every control, and whether phase 1 converged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hybrid.metrics import Measured
from hybrid.protocols import Watcher
from hybrid.records import Grade, Output
from pipelines.cvfp.results import Trained, difference, names_of, read, summary, summary_of_best
from pipelines.cvfp.settings import BOUND, MOST_SWEEPS

DIGITS = 6
CONTROLS = "bigram", "token-only", "untrained", "untrained-chaotic", "end-to-end"
"""What a variant is compared with, the strongest that needs no training first."""
FIGURES = ("perplexity", "lower"), ("bits_per_byte", "lower"), ("top1", "higher"), ("top5", "higher")
CONTEXTS = (
    "effective_rank", "effective_rank_of_noise", "effective_rank_over_noise", "growth", "context_use",
    "final_difference", "converged",
)  # fmt: skip


@dataclass(frozen=True)
class Cvfp:
    """No round has a score. Measured of each variant are the held-out documents at its best epoch, with intervals over
    seeds, the differences of the loss to each control, paired by seed, and what the contexts of phase 1 are like.
    """

    def of_run(self, run: Mapping[str, Any], models: Sequence[Any]) -> Cvfp:
        """It needs nothing of a run."""
        return self

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[CvfpMeasures]:
        """Read all rounds. No model is asked."""
        yield CvfpMeasures(read(outputs))


class CvfpMeasures:
    """The grader after it has seen all rounds."""

    def __init__(self, series: Sequence[Trained]) -> None:
        self._series = series

    def grade(self, output: Output) -> Grade:
        """A round has no score: perplexities are no shares."""
        return Grade(None, "a round has no score", due=False)

    def measures(self) -> Iterator[Measured]:
        """The figures of each variant."""
        for name in names_of(self._series):
            for metric, better in FIGURES:
                found = summary_of_best(self._series, name, metric)
                if found is not None:
                    value, interval = round(found.mean, DIGITS), _rounded(found.interval)
                    yield Measured(name, f"{metric} of held-out documents", value, found.n, interval, better=better)
            yield from self._differences(name)
            yield from self._contexts(name)

    def _differences(self, name: str) -> Iterator[Measured]:
        size = name.partition(", ")[2]
        for control in CONTROLS:
            other = f"{control}, {size}" if size else control
            found = None if other == name else difference(self._series, name, other)
            if found is not None:
                what = f"loss minus that of {control}"
                value, interval = round(found.mean, DIGITS), _rounded(found.interval)
                by = f"{other}, paired by seed (nats a token)"
                yield Measured(name, what, value, found.n, interval, 0.0, (0.0, 0.0), by, "lower")

    def _contexts(self, name: str) -> Iterator[Measured]:
        of = [one for one in self._series if one.name == name]
        for metric in CONTEXTS:
            values = [value for one in of if (value := one.of_contexts(metric)) is not None]
            found = summary(values, metric)
            if found is not None:
                yield Measured(name, f"contexts: {metric}", round(found.mean, 9), found.n, _rounded(found.interval))
        known = [one.converged for one in of if one.converged is not None]
        if known:
            yield Measured(name, "contexts: seeds with a fixed point that forgets its past", sum(known), len(known))
        yield from _sweeps(name, [one for one in of if one.is_certified])
        if improving := sum(one.still_improving for one in of):
            ended = sum(one.ended for one in of)
            yield Measured(name, "seeds that were still improving at their last epoch", improving, ended)


def _sweeps(name: str, of: Sequence[Trained]) -> Iterator[Measured]:
    """In how many seeds sweeps without training came close, and how many it took, if they did in each."""
    needed = [one.sweeps_needed for one in of if one.sweeps_needed is not None]
    if of:
        what = f"contexts: seeds within {BOUND:g} of the exact contexts after {MOST_SWEEPS} sweeps"
        yield Measured(name, what, len(needed), len(of))
    found = summary(needed, "sweeps_needed")
    if found is not None and len(needed) == len(of):
        yield Measured(name, "contexts: sweeps_needed", found.mean, found.n, _rounded(found.interval))


def _rounded(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (round(interval[0], DIGITS), round(interval[1], DIGITS))
