"""What a run has taken so far, as it was measured: tokens, time of machines, energy, and what that time costs.

Tokens are the sums over all verified records, repeated and failed items included. A worker's time goes from its start
to its newest heartbeat, by its own clock. Money is the time of GPUs at the prices in the table of `hybrid plan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hybrid.canonical import Json
from hybrid.errors import BadData
from hybrid.execution.stage_view import StageView
from hybrid.machine.terminal import clean_line, count_of, duration
from hybrid.machine.usage import watt_hours
from hybrid.plan.gpus import named_by
from hybrid.plan.money import Price, PriceTable, price_table
from hybrid.status.attempts import Attempt

HOUR = 3600.0
MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class Spent:
    """`machine_seconds` of the `workers` whose times are known; `gpu_seconds` by the name of the GPU, of which those in
    `prices` cost `usd` together. `unpriced` are the GPUs without a price; `why` says why the table cannot be read.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    workers: int = 0
    machine_seconds: float = 0.0
    gpu_seconds: tuple[tuple[str, float], ...] = ()
    energy_wh: float | None = None
    usd: float | None = None
    prices: tuple[Price, ...] = ()
    unpriced: tuple[str, ...] = ()
    why: str = ""

    def to_json(self) -> dict[str, Json]:
        prices: list[Json] = [
            {"gpu": one.gpu, "where": one.where, "usd_per_hour": one.usd_per_hour, "read_on": one.read_on.isoformat()}
            for one in self.prices
        ]
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "machine_seconds": self.machine_seconds if self.workers else None,
            "gpu_seconds": dict(self.gpu_seconds),
            "energy_wh": self.energy_wh,
            "usd": None if self.usd is None else round(self.usd, 4),
            "prices": prices,
            "unpriced": list(self.unpriced),
        }

    def lines(self) -> Iterator[str]:
        """The same for people; nothing where nothing was measured."""
        if self.prompt_tokens or self.completion_tokens:
            yield f"{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out"
        if self.machine_seconds >= 1:
            energy = "" if self.energy_wh is None else f", {watt_hours(self.energy_wh)} of their GPUs"
            yield f"{duration(self.machine_seconds)} of {count_of(self.workers, 'worker')}{energy}"
        if self.usd is not None:
            at = "; ".join(
                f"{one.gpu} ${one.usd_per_hour:.2f} an hour at {one.where}, {one.read_on}" for one in self.prices
            )
            yield clean_line(f"${self.usd:,.2f} if its GPUs are rented: {at}")
        if self.why and self.gpu_seconds:
            yield f"what it costs is not known: {self.why}"
        elif self.unpriced:
            yield f"no price is known of {', '.join(self.unpriced)}: put one into HYBRID_HOME/prices.toml"


NOTHING_SPENT = Spent()


def spent_on(stages: Sequence[StageView], attempts: Sequence[Attempt]) -> Spent:
    """What a run has taken so far, at the prices of the user's table, else of the one of this package."""
    known = [one for one in attempts if one.seconds is not None]
    gpu_seconds = _gpu_seconds(known)
    usd, prices, unpriced, why = None, list[Price](), list[str](), ""
    if gpu_seconds:
        try:
            usd, prices, unpriced = _money(gpu_seconds, price_table())
        except BadData as error:
            why = clean_line(error.message, 300)
    energies = [one.usage.energy_wh for one in attempts if one.usage and one.usage.energy_wh is not None]
    prompt, completion = (sum(stage.tokens[at] for stage in stages if stage.tokens) for at in (0, 1))
    return Spent(
        prompt,
        completion,
        len(known),
        sum(one.seconds or 0.0 for one in known),
        tuple(sorted(gpu_seconds.items())),
        sum(energies) if energies else None,
        usd,
        tuple(prices),
        tuple(unpriced),
        why,
    )


def _gpu_seconds(attempts: Iterable[Attempt]) -> dict[str, float]:
    """Seconds of each kind of GPU, as its driver names it; several GPUs of a worker count each."""
    seconds: dict[str, float] = {}
    for one in attempts:
        if name := (one.gpu.get("name") if one.gpu and one.device != "cpu" else ""):
            name = clean_line(str(name), MAX_NAME)
            seconds[name] = seconds.get(name, 0.0) + (one.seconds or 0.0) * _gpus(one)
    return seconds


def _gpus(one: Attempt) -> float:
    return max(1.0, min(16.0, (one.usage.gpus if one.usage else None) or 1.0))


def _money(seconds: Mapping[str, float], table: PriceTable) -> tuple[float | None, list[Price], list[str]]:
    """What the time costs, None where no GPU has a price; the prices, and the names of the GPUs that have none."""
    usd, prices, unpriced = 0.0, dict[str, Price](), list[str]()
    for name, spent in sorted(seconds.items()):
        gpu = named_by(name)
        price = table.price(gpu.name) if gpu else None
        if price is None:
            unpriced.append(name)
        else:
            usd += spent / HOUR * price.usd_per_hour
            prices[price.gpu] = price
    return (usd if prices else None), list(prices.values()), unpriced
