"""The plot beside a number: a dot and its interval on a fixed axis, as wide as its table cell."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.report.markup import Html, plain

WIDTH = 200
"""Length of an axis in units of the SVG view box."""


def interval_plot(
    value: float | None,
    interval: Sequence[float] | None,
    aria_label: str,
    *,
    axis: tuple[float, float] = (0.0, 1.0),
    kind: str = "score",
) -> Html:
    """A dot at `value` and a bar over `interval`, with lines at the quarters of the axis."""
    low, high = axis
    quarters = "".join(f"M{_at(low + (high - low) * part / 4, axis)} 0v10" for part in range(5))
    drawn = [f'<path class="axis" d="{quarters}"/>']
    if low < 0.0 < high:
        drawn.append(f'<path class="zero" d="M{_at(0.0, axis)} 0v10"/>')
    if interval is not None:
        drawn.append(f'<path class="bar" d="M{_at(interval[0], axis)} 5H{_at(interval[1], axis)}"/>')
    if value is not None:
        drawn.append(f'<path class="dot" d="M{_at(value, axis)} 5h0"/>')
    return Html(
        f'<svg class="plot {plain(kind)}" role="img" aria-label="{plain(aria_label)}" viewBox="-4 0 {WIDTH + 8} 10" '
        f'preserveAspectRatio="none">{"".join(drawn)}</svg>'
    )


def _at(value: float, axis: tuple[float, float]) -> str:
    """The x coordinate of `value`, clipped to the axis."""
    part = (min(max(value, axis[0]), axis[1]) - axis[0]) / (axis[1] - axis[0])
    return f"{part * WIDTH:.1f}".removesuffix(".0")
