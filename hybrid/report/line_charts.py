"""Line charts over rounds, or what else is counted, as SVG: axes of any range, bands, lines told apart by text, dash
and colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from hybrid.report.axes import Axis, axis_of, label
from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, plain

STYLED_LINES = 6
"""Lines with a dash pattern and a colour of their own; further lines are grey."""
MAX_GREY_LINES = 60
"""Most grey lines that are drawn; the others are counted."""
MAX_POINTS = 800
"""Most points that are drawn of a line: of each stretch the lowest and the highest."""

WIDTH, HEIGHT, RIGHT, TOP, BOTTOM = 560, 240, 12, 10, 34
"""Size and margins of the chart in units of the SVG view box; the left margin depends on the labels."""
DIGIT_WIDTH = 6.2
"""Width of a digit of a label, in those units."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: round -> value; and its band, if any: round -> (lowest, highest)."""

    name: str
    points: Mapping[int, float]
    band: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def line_chart(title: str, lines: Sequence[Line], left_out: int = 0, *, across: str = "round") -> Html:
    """A chart of `lines`, the most important first, with a table of their values as legend.

    `left_out` further lines are counted there, too. `across` is what the numbers of the points count.
    """
    styled, grey = lines[:STYLED_LINES], lines[STYLED_LINES : STYLED_LINES + MAX_GREY_LINES]
    plot = _Plot([*styled, *grey])
    drawn = [plot.axes(across)]
    drawn += [plot.line(line, "more") for line in grey]
    drawn += [plot.band(line, f"k{number}") for number, line in enumerate(styled) if line.band]
    drawn += [plot.line(line, f"k{number}") for number, line in reversed(list(enumerate(styled)))]
    aria_label = plain(f"{title} by {across}, {count_of(len(lines), 'line')}; the table has the numbers")
    svg = (
        f'<svg class="lines" role="img" aria-label="{aria_label}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(drawn)}</svg>'
    )
    return el(
        "figure",
        el("figcaption", el("b", title)),
        Html(svg),
        _legend(styled, lines[STYLED_LINES:], left_out, across),
        cls="series",
    )


class _Plot:
    """The axes of a chart, and its lines and bands in their coordinates."""

    def __init__(self, lines: Sequence[Line]) -> None:
        values = [value for line in lines for value in line.points.values()]
        values += [edge for line in lines for edges in line.band.values() for edge in edges]
        self._x = axis_of([float(number) for line in lines for number in line.points], 8, whole=True)
        self._y = axis_of(values)
        self._left = 14 + DIGIT_WIDTH * max(len(label) for _, label in self._y.ticks)

    def axes(self, across: str) -> str:
        return "".join([*self._rows(self._y), *self._columns(self._x, across)])

    def _rows(self, axis: Axis) -> Iterator[str]:
        for value, tick in axis.ticks:
            y = self._y_of(value)
            yield f'<path class="axis" d="M{self._left:.1f} {y}H{WIDTH - RIGHT}"/>'
            yield f'<text x="{self._left - 6:.1f}" y="{y}" class="tick">{plain(tick)}</text>'

    def _columns(self, axis: Axis, across: str) -> Iterator[str]:
        for value, tick in axis.ticks:
            yield f'<text x="{self._x_of(value)}" y="{HEIGHT - BOTTOM + 15}" class="at">{plain(tick)}</text>'
        middle = (self._left + WIDTH - RIGHT) / 2
        yield f'<text x="{middle:.1f}" y="{HEIGHT - 3}" class="at">{plain(across)}</text>'

    def _x_of(self, number: float) -> str:
        return f"{self._left + self._x.share(number) * (WIDTH - RIGHT - self._left):.1f}"

    def _y_of(self, value: float) -> str:
        return f"{HEIGHT - BOTTOM - self._y.share(value) * (HEIGHT - BOTTOM - TOP):.1f}"

    def line(self, line: Line, kind: str) -> str:
        shown = thinned(line.points)
        path = "L".join(f"{self._x_of(number)} {self._y_of(value)}" for number, value in shown)
        if len(shown) == 1:
            return f'<path class="dot {kind}" d="M{path}h0"/>'
        return f'<path class="line {kind}" d="M{path}"/>'

    def band(self, line: Line, kind: str) -> str:
        highs = thinned({number: edges[1] for number, edges in line.band.items()})
        lows = thinned({number: edges[0] for number, edges in line.band.items()})
        path = "L".join(f"{self._x_of(number)} {self._y_of(value)}" for number, value in [*highs, *reversed(lows)])
        return f'<path class="band {kind}" d="M{path}Z"/>'


def thinned(points: Mapping[int, float], most: int = MAX_POINTS) -> list[tuple[int, float]]:
    """The points by round. Of more than `most`: the first, the last, and the extremes of each stretch."""
    known = sorted(points.items())
    if len(known) <= most:
        return known
    size = -(-len(known) * 2 // most)
    kept = {known[0], known[-1]}
    for start in range(0, len(known), size):
        stretch = known[start : start + size]
        kept |= {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
    return sorted(kept)


def _legend(styled: Sequence[Line], rest: Sequence[Line], left_out: int, across: str) -> Html:
    """One row per line: its stroke, its name and its values."""
    names = ("", "first", "lowest", "highest", "last")
    head = el("tr", *(el("th", name, scope="col", cls="n" if name else None) for name in names))
    rows = [_row(line, f"k{number}", across) for number, line in enumerate(styled)]
    rows += [_row(line, "more", across) for line in rest[:MAX_GREY_LINES]]
    if left := max(0, len(rest) - MAX_GREY_LINES) + left_out:
        rows.append(el("tr", el("td", f"{count_of(left, 'more line')} not drawn", colspan=5, cls="none")))
    return el("div", el("table", el("thead", head), el("tbody", *rows)), cls="scroll", tabindex="0")


def _row(line: Line, kind: str, across: str) -> Html:
    known = sorted(line.points.items())
    values = [value for _, value in known]
    numbers = (values[0], min(values), max(values), values[-1])
    key = Html(
        f'<svg class="lines key" aria-hidden="true" viewBox="0 0 34 8"><path class="line {kind}" d="M1 4H33"/></svg>'
    )
    name = el("th", key, line.name, scope="row")
    cells = [el("td", number(value), cls="n") for value in numbers]
    cells[-1] = el("td", number(values[-1]), el("small", f" {across} {known[-1][0]:,}"), cls="n")
    return el("tr", name, *cells)


def number(value: float) -> str:
    """A value with four significant digits; U+2212 for minus."""
    return label(Decimal(f"{value:.4g}"))
