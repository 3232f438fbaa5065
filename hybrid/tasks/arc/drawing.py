"""ARC grids as SVG, one path a colour.

A run of equal cells in a row is one stroke a cell thick (`M3 5h4`: four cells in row 5 from column 3), the most
frequent colour is one rectangle under it, and the lines between the cells are one shared pattern. Colours and pattern
are defined once, in the page's style and in `DEFINITIONS`, so a grid of 30 by 30 cells takes about a kilobyte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypeAlias, TypeGuard

from hybrid.report.markup import Html, el, plain

Grid: TypeAlias = Sequence[Sequence[int]]

LARGEST = 30
"""Rows and columns that are drawn; ARC has no larger grid."""

DEFINITIONS = Html(
    '<svg class="defs" width="0" height="0" aria-hidden="true"><defs>'
    '<pattern id="cell" width="1" height="1" patternUnits="userSpaceOnUse">'
    '<path d="M0 0H1M0 0V1" class="line"/></pattern></defs></svg>'
)


def is_grid(value: Any) -> TypeGuard[Grid]:
    """Whether `value` is a rectangle of colours 0..9, at most 30 by 30, at least one cell."""
    if not (isinstance(value, list) and 0 < len(value) <= LARGEST and isinstance(value[0], list)):
        return False
    width = len(value[0])
    return 0 < width <= LARGEST and all(
        isinstance(row, list) and len(row) == width and all(type(cell) is int and 0 <= cell <= 9 for cell in row)
        for row in value
    )


def size(grid: Grid) -> str:
    """Columns × rows."""
    return f"{len(grid[0])}×{len(grid)}"


def wrong_cells(grid: Grid, truth: Grid) -> list[tuple[int, int]] | None:
    """(row, column) of the cells that differ, or None when the two have different sizes."""
    if (len(grid), len(grid[0])) != (len(truth), len(truth[0])):
        return None
    return [(y, x) for y, row in enumerate(grid) for x, cell in enumerate(row) if cell != truth[y][x]]


def grid_svg(grid: Grid, title: str, *, wide: int, wrong: Sequence[tuple[int, int]] = ()) -> Html:
    """`grid` at most `wide` pixels long, cells in `wrong` crossed; `title` is read aloud."""
    rows, columns = len(grid), len(grid[0])
    cell = max(4, min(18, wide // max(rows, columns)))
    back = Counter(value for row in grid for value in row).most_common(1)[0][0]
    parts = [f'<rect class="c{back}" width="{columns}" height="{rows}"/>']
    parts.append('<g transform="translate(0 .5)">')  # a stroke lies on both sides of its line
    parts += (f'<path class="s{colour}" d="{path}"/>' for colour, path in sorted(_strokes(grid, back).items()))
    parts.append("</g>")
    parts.append(f'<rect class="cells" width="{columns}" height="{rows}"/>')
    if wrong:
        parts.append(f'<path class="x" d="{_crosses(wrong)}"/>')
    named = plain(title)
    return Html(
        f'<svg class="grid" role="img" aria-label="{named}" viewBox="0 0 {columns} {rows}" width="{columns * cell}" '
        f'height="{rows * cell}"><title>{named}</title>{"".join(parts)}</svg>'
    )


def _strokes(grid: Grid, back: int) -> dict[int, str]:
    """The path of every colour but the background's."""
    paths: dict[int, str] = {}
    for y, row in enumerate(grid):
        x = 0
        for colour, cells in groupby(row):
            length = sum(1 for _ in cells)
            if colour != back:
                paths[colour] = f"{paths.get(colour, '')}M{x} {y}h{length}"
            x += length
    return paths


def _crosses(wrong: Sequence[tuple[int, int]]) -> str:
    return "".join(f"M{x}.3 {y}.3l.4 .4m0-.4l-.4 .4" for y, x in wrong)


def not_drawn(value: Any) -> Html:
    """The placeholder for a value that is not a grid."""
    return el("span", "no grid" if value is None else "not a grid", cls="none")
