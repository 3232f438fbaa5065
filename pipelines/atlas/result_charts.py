"""Accuracy of each method against rounds and against bytes: one small chart a method, all on the same axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from hybrid.report.axes import Axis, axis_of
from hybrid.report.formatting import count_of, percent
from hybrid.report.markup import Html, el, join, plain
from pipelines.atlas.comparison import CONTROLS, MEGABYTE, Comparison
from pipelines.atlas.results import SeriesResult

WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 220, 132, 30, 14, 8, 20
"""Size and margins of a chart in units of its view box."""
MOST_POINTS = 200
LOGARITHMIC = 30.0
"""Ratio of the largest to the smallest traffic from which on the axis of bytes is logarithmic."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The accuracy of a method: (x, mean over seeds) and, with several seeds, (x, lowest, highest)."""

    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Across:
    """The axis of x that all charts share."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    unit: str
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """The position of a value, 0 to 1."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5


def charts(comparison: Comparison) -> Html:
    """Accuracy on clients' own rows by round, by megabytes sent and fetched, and by virtual time where there is one."""
    sound = {method: comparison.sound(method) for method in comparison.methods}
    by_round = {method: _by_round(own) for method, own in sound.items()}
    by_bytes = {method: _over(own, [one.spent() for one in own], MEGABYTE) for method, own in sound.items()}
    by_time = {method: _over(own, [one.curve("virtual_seconds") for one in own]) for method, own in sound.items()}
    parts = [
        _grid("Accuracy by round", by_round, _rounds(by_round)),
        _grid("Accuracy by traffic", by_bytes, _amounts(by_bytes, "MB")),
        _grid("Accuracy by virtual time", by_time, _amounts(by_time, "seconds of the virtual clock")),
    ]
    return join(part for part in parts if part)


def _by_round(sound: Sequence[SeriesResult]) -> Curve:
    return _mean([one.curve("accuracy") for one in sound], {})


def _over(sound: Sequence[SeriesResult], spent: Sequence[Mapping[int, float]], unit: float = 1.0) -> Curve:
    """Over what was spent up to each round, on average; nothing for a method that spends nothing."""
    common = set[int](spent[0]).intersection(*spent[1:]) if spent else set()
    at = {number: fmean(one[number] for one in spent) / unit for number in common}
    if not any(at.values()):
        return Curve(())
    return _mean([one.curve("accuracy") for one in sound], at)


def _mean(curves: Sequence[Mapping[int, float]], at: Mapping[int, float]) -> Curve:
    """The mean over seeds at the rounds that all have; `at` says where a round stands, if not at its number."""
    if not curves:
        return Curve(())
    common = sorted(set[int](curves[0]).intersection(*curves[1:], *([at] if at else [])))
    common = common[:: -(-len(common) // MOST_POINTS) or 1]
    values = [(at.get(number, number + 1.0), [one[number] for one in curves]) for number in common]
    points = [(x, fmean(each)) for x, each in values]
    return Curve(points, [(x, min(each), max(each)) for x, each in values] if len(curves) > 1 else ())


def _rounds(curves: Mapping[str, Curve]) -> Across:
    every = [x for one in curves.values() for x, _ in one.points]
    axis = axis_of(every, 4, whole=True)
    return Across(axis.low, axis.high, axis.ticks, "round")


def _amounts(curves: Mapping[str, Curve], unit: str) -> Across:
    """An axis from 0, or a logarithmic one where methods differ much."""
    every = [x for one in curves.values() for x, _ in one.points if x > 0]
    if not every or max(every) < LOGARITHMIC * min(every):
        axis = axis_of([0.0, *every], 4)
        return Across(axis.low, axis.high, axis.ticks, unit)
    low, high = min(every), max(every)
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    shown = [(one, f"{one:g}") for one in powers if low <= one <= high]
    return Across(low, high, shown[:: -(-len(shown) // 4) or 1], unit, logarithmic=True)


def _grid(title: str, curves: Mapping[str, Curve], across: Across) -> Html:
    """The charts of all methods that have points; in each the controls are thin lines behind."""
    curves = {name: one for name, one in curves.items() if one.points}
    if not curves:
        return Html("")
    values = [value for one in curves.values() for _, value in one.points]
    values += [edge for one in curves.values() for _, *edges in one.band for edge in edges]
    up = axis_of(values, 4)
    controls = {name: curves[name] for name in CONTROLS if name in curves}
    frame = Frame(across, up)
    drawn = [_chart(name, one, controls, frame) for name, one in curves.items()]
    scale = ", on a logarithmic axis" if across.logarithmic else ""
    behind = " Thin lines are the controls: dashed local, dotted fedavg-lora." if controls else ""
    said = (
        f"On clients' own held-out rows, by {across.unit}{scale}; the line is the mean over seeds, its band goes from "
        f"the lowest to the highest seed.{behind}"
    )
    return join([el("h3", title), el("div", *drawn, cls="atlas-grid"), el("p", said, cls="note")])


@dataclass(frozen=True, slots=True)
class Frame:
    """The axes that all charts share."""

    across: Across
    up: Axis

    def at(self, x: float, value: float) -> str:
        """The point of a value in units of the view box, as a path has it."""
        height = HIGH - BOTTOM - self.up.share(value) * (HIGH - BOTTOM - TOP)
        return f"{LEFT + self.across.share(x) * (WIDE - LEFT - RIGHT):.1f} {height:.1f}"

    def axes(self) -> str:
        """Grid lines and labels."""
        parts = []
        for value, label in self.up.ticks:
            y = self.at(self.across.low, value).split(" ")[1]
            parts.append(f'<path class="axis" d="M{LEFT} {y}H{WIDE - RIGHT}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 4}" y="{y}">{plain(label)}</text>')
        for value, label in self.across.ticks:
            x = self.at(value, self.up.low).split(" ")[0]
            parts.append(f'<text class="at" x="{x}" y="{HIGH - 6}">{plain(label)}</text>')
        return "".join(parts)


def _chart(name: str, curve: Curve, controls: Mapping[str, Curve], frame: Frame) -> Html:
    parts = [frame.axes()]
    for place, control in enumerate(CONTROLS):
        if control in controls and control != name:
            parts.append(_path(f"control c{place}", [frame.at(*one) for one in controls[control].points]))
    if curve.band:
        edges = [frame.at(x, high) for x, _, high in curve.band]
        edges += [frame.at(x, low) for x, low, _ in reversed(curve.band)]
        parts.append(f'<path class="band" d="M{"L".join(edges)}Z"/>')
    parts.append(_path("own", [frame.at(*one) for one in curve.points]))
    last = curve.points[-1][1]
    spoken = f"{name}: accuracy {curve.points[0][1]:.3f} to {last:.3f} over {count_of(len(curve.points), 'round')}"
    svg = f'<svg role="img" aria-label="{plain(spoken)}" viewBox="0 0 {WIDE} {HIGH}">{"".join(parts)}</svg>'
    return el("figure", el("figcaption", el("b", name), f" {percent(last)}"), Html(svg))


def _path(kind: str, points: Sequence[str]) -> str:
    if len(points) == 1:
        return f'<path class="dot {kind}" d="M{points[0]}h0"/>'
    return f'<path class="line {kind}" d="M{"L".join(points)}"/>'
