"""What hours of a GPU cost, and how many sessions of a site that lends GPUs for hours: from a dated table.

The table is `prices.toml` of this package, or the user's copy of it in HYBRID_HOME.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from hybrid.errors import BadData
from hybrid.machine.files import read_bounded
from hybrid.machine.home import home
from hybrid.plan.speed import Span

TABLE = "prices.toml"
MOST_BYTES = 1 << 20
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for an hour of a GPU somewhere, and where and when it was read."""

    gpu: str
    where: str
    usd_per_hour: float
    source: str
    read_on: date

    def of(self, seconds: Span) -> tuple[float, float]:
        """What so many seconds cost, at least and at most."""
        return seconds.low / HOUR * self.usd_per_hour, seconds.high / HOUR * self.usd_per_hour


@dataclass(frozen=True, slots=True)
class Site:
    """A site that lends GPUs for sessions. `week_hours` of all in a week, 0 where there is no such limit."""

    where: str
    gpus: tuple[str, ...]
    session_hours: float
    week_hours: float
    source: str
    read_on: date

    def sessions(self, seconds: float) -> int:
        """Sessions that so many seconds take."""
        return max(1, math.ceil(seconds / HOUR / self.session_hours))

    def weeks(self, seconds: float) -> int:
        """Weeks whose hours so many seconds take; 0 where weeks have no limit."""
        return max(1, math.ceil(seconds / HOUR / self.week_hours)) if self.week_hours else 0


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices and sites, and the file that they are from."""

    prices: tuple[Price, ...]
    sites: tuple[Site, ...]
    path: str

    def price(self, gpu: str) -> Price | None:
        """The lowest price of a GPU."""
        return min((one for one in self.prices if one.gpu == gpu), key=lambda one: one.usd_per_hour, default=None)

    def lending(self, gpu: str) -> list[Site]:
        """The sites that lend a GPU."""
        return [one for one in self.sites if gpu in one.gpus]


def price_table() -> PriceTable:
    """The user's table, else the one of this package. Raises BadData for one that cannot be read."""
    own = home() / TABLE
    if own.is_file():
        return _parsed(read_bounded(own, MOST_BYTES).decode("utf-8", "replace"), str(own))
    return _parsed((files("hybrid.plan") / TABLE).read_text(encoding="utf-8"), f"hybrid/plan/{TABLE}")


def _parsed(text: str, path: str) -> PriceTable:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadData(f"{Path(path).name}: {error}", hint=f"correct or remove {path}") from error
    prices = [_price(row, f"{path}: price {number}") for number, row in _rows(table, "price", path)]
    sites = [_site(row, f"{path}: sessions {number}") for number, row in _rows(table, "sessions", path)]
    return PriceTable(tuple(prices), tuple(sites), path)


def _rows(table: Mapping[str, Any], name: str, path: str) -> Iterable[tuple[int, Any]]:
    rows = table.get(name, [])
    if not isinstance(rows, list):
        raise BadData(f"{path}: '{name}' is not a list of tables", hint=f"write [[{name}]] before each")
    return enumerate(rows, 1)


def _price(row: Any, where: str) -> Price:
    usd = _number(row, "usd_per_hour", where)
    return Price(
        _text(row, "gpu", where), _text(row, "where", where), usd, _text(row, "source", where), _day(row, where)
    )


def _site(row: Any, where: str) -> Site:
    gpus = row.get("gpus") if isinstance(row, Mapping) else None
    if not isinstance(gpus, list) or not all(isinstance(one, str) for one in gpus):
        raise BadData(f"{where}: 'gpus' is not a list of names", hint='gpus = ["t4"]')
    hours = _number(row, "session_hours", where)
    if hours <= 0:
        raise BadData(f"{where}: 'session_hours' is not over 0")
    week = _number(row, "week_hours", where) if "week_hours" in row else 0.0
    name, source = _text(row, "where", where), _text(row, "source", where)
    return Site(name, tuple(gpus), hours, week, source, _day(row, where))


def _text(row: Any, name: str, where: str) -> str:
    value = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(value, str) or not value:
        raise BadData(
            f"{where}: '{name}' is not a text", hint="the file that comes with hybrid shows how it is written"
        )
    return value[:300]


def _number(row: Any, name: str, where: str) -> float:
    value = row.get(name) if isinstance(row, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise BadData(f"{where}: '{name}' is not a number from 0 to 1,000,000")
    return float(value)


def _day(row: Any, where: str) -> date:
    value = row.get("read_on")
    if not isinstance(value, date):
        raise BadData(f"{where}: 'read_on' is not a day", hint="write it without quotes: read_on = 2026-11-29")
    return value
