"""Lines over rounds as SVG: axes of any range, bands, and a legend that tells lines apart by text, dash and colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from hybrid.report.axes import Axis, axis_of, label
from hybrid.report.markup import Html, el, plain
from hybrid.report.words import count

STYLES = 6
"""Lines with a dash pattern and a colour of their own; further ones are grey."""
MOST_GREY = 60
"""Grey lines that are drawn; the others are counted."""
MOST_POINTS = 800
"""Points of a line that are drawn: of each stretch the lowest and the highest."""

WIDE, HIGH, RIGHT, TOP, BOTTOM = 560, 240, 12, 10, 34
"""The drawing and its margins, in its own units; the left margin follows the labels."""
LETTER = 6.2
"""Width of a digit of the labels, in those units."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: round -> value, and for a band round -> lowest and highest."""

    name: str
    points: Mapping[int, float]
    band: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def line_chart(title: str, lines: Sequence[Line]) -> Html:
    """A chart of `lines`, those that matter first, with a table of their numbers as legend."""
    styled, grey = lines[:STYLES], lines[STYLES : STYLES + MOST_GREY]
    frame = _Frame([*styled, *grey])
    drawn = [frame.axes()]
    drawn += [frame.line(line, "more") for line in grey]
    drawn += [frame.band(line, f"k{number}") for number, line in enumerate(styled) if line.band]
    drawn += [frame.line(line, f"k{number}") for number, line in reversed(list(enumerate(styled)))]
    spoken = plain(f"{title} by round, {count(len(lines), 'line')}; the table has the numbers")
    svg = f'<svg class="lines" role="img" aria-label="{spoken}" viewBox="0 0 {WIDE} {HIGH}">{"".join(drawn)}</svg>'
    return el("figure", el("figcaption", el("b", title)), Html(svg), _legend(styled, lines[STYLES:]), cls="series")


class _Frame:
    """Where values lie in the drawing."""

    def __init__(self, lines: Sequence[Line]) -> None:
        values = [value for line in lines for value in line.points.values()]
        values += [edge for line in lines for edges in line.band.values() for edge in edges]
        self._x = axis_of([float(number) for line in lines for number in line.points], 8, whole=True)
        self._y = axis_of(values)
        self._left = 14 + LETTER * max(len(said) for _, said in self._y.ticks)

    def axes(self) -> str:
        return "".join([*self._rows(self._y), *self._columns(self._x)])

    def _rows(self, axis: Axis) -> Iterator[str]:
        for value, said in axis.ticks:
            y = self._high(value)
            yield f'<path class="axis" d="M{self._left:.1f} {y}H{WIDE - RIGHT}"/>'
            yield f'<text x="{self._left - 6:.1f}" y="{y}" class="tick">{plain(said)}</text>'

    def _columns(self, axis: Axis) -> Iterator[str]:
        for value, said in axis.ticks:
            yield f'<text x="{self._wide(value)}" y="{HIGH - BOTTOM + 15}" class="at">{plain(said)}</text>'
        middle = (self._left + WIDE - RIGHT) / 2
        yield f'<text x="{middle:.1f}" y="{HIGH - 3}" class="at">round</text>'

    def _wide(self, number: float) -> str:
        return f"{self._left + self._x.share(number) * (WIDE - RIGHT - self._left):.1f}"

    def _high(self, value: float) -> str:
        return f"{HIGH - BOTTOM - self._y.share(value) * (HIGH - BOTTOM - TOP):.1f}"

    def line(self, line: Line, kind: str) -> str:
        shown = thinned(line.points)
        path = "L".join(f"{self._wide(number)} {self._high(value)}" for number, value in shown)
        if len(shown) == 1:
            return f'<path class="dot {kind}" d="M{path}h0"/>'
        return f'<path class="line {kind}" d="M{path}"/>'

    def band(self, line: Line, kind: str) -> str:
        highs = thinned({number: edges[1] for number, edges in line.band.items()})
        lows = thinned({number: edges[0] for number, edges in line.band.items()})
        path = "L".join(f"{self._wide(number)} {self._high(value)}" for number, value in [*highs, *reversed(lows)])
        return f'<path class="band {kind}" d="M{path}Z"/>'


def thinned(points: Mapping[int, float], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """The points by round; of more than `most` the first, the last, and of each stretch the lowest and the highest."""
    known = sorted(points.items())
    if len(known) <= most:
        return known
    size = -(-len(known) * 2 // most)
    kept = {known[0], known[-1]}
    for start in range(0, len(known), size):
        stretch = known[start : start + size]
        kept |= {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
    return sorted(kept)


def _legend(styled: Sequence[Line], rest: Sequence[Line]) -> Html:
    """A row a line: how it is drawn, its name, and its numbers."""
    names = ("", "first", "lowest", "highest", "last")
    head = el("tr", *(el("th", name, scope="col", cls="n" if name else None) for name in names))
    rows = [_row(line, f"k{number}") for number, line in enumerate(styled)]
    rows += [_row(line, "more") for line in rest[:MOST_GREY]]
    if left := len(rest) - MOST_GREY:
        rows += [el("tr", el("td", f"{count(left, 'more line')} not drawn", colspan=5, cls="none"))] if left > 0 else []
    return el("div", el("table", el("thead", head), el("tbody", *rows)), cls="scroll", tabindex="0")


def _row(line: Line, kind: str) -> Html:
    known = sorted(line.points.items())
    values = [value for _, value in known]
    numbers = (values[0], min(values), max(values), values[-1])
    key = Html(
        f'<svg class="lines key" aria-hidden="true" viewBox="0 0 34 8"><path class="line {kind}" d="M1 4H33"/></svg>'
    )
    name = el("th", key, line.name, scope="row")
    cells = [el("td", number(value), cls="n") for value in numbers]
    cells[-1] = el("td", number(values[-1]), el("small", f" round {known[-1][0]:,}"), cls="n")
    return el("tr", name, *cells)


def number(value: float) -> str:
    """A value with four digits, with a true minus."""
    return label(Decimal(f"{value:.4g}"))
