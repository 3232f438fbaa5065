"""Numbers, intervals, names and status badges as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.report.markup import Html, el

CONTROL_NAMES = {"majority": "most frequent answer"}
"""Name of a general control -> its name on the page. Sections add more; other names are shown unchanged."""


def display_name(name: str, names: Mapping[str, str]) -> str:
    """The name of a figure or control on the page."""
    kind, _, rest = name.partition("/")
    return f"Right in view {rest}" if kind == "view" and rest else names.get(name, name)


def percent(value: float | None) -> str:
    """`value` in [0, 1] as a percentage with one decimal, or a dash for None."""
    return "–" if value is None else f"{value * 100:.1f} %"


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval within [0, 1] in percent, or a dash for None."""
    return "–" if interval is None else f"{interval[0] * 100:.1f} – {interval[1] * 100:.1f} %".replace("-", "−")


def signed(value: float | None) -> str:
    """A difference in percentage points with its sign (U+2212 for minus), or a dash for None."""
    return "–" if value is None else f"{value * 100:+.1f}".replace("-", "−")


def count_of(number: int, one: str, many: str = "") -> str:
    """`3 views`, `1 view`; thousands are separated by narrow no-break spaces."""
    return f"{number:,} {one if number == 1 else many or one + 's'}".replace(",", "\u202f")


def status_badge(status: str) -> Html:
    """The badge of a status: a sign and a word, so that it does not depend on colour alone."""
    sign = {"right": "✓", "wrong": "✗", "partly": "◐", "graded": "●", "ungraded": "?"}.get(status, "–")
    return el("span", el("span", sign, aria_hidden="true"), f" {status}", cls=f"badge {status}")


def status_of(score: float | None, *, due: bool = True) -> str:
    """The word for a score: right (1), wrong (0), partly (between), ungraded (None), no score (None, and none due)."""
    if score is None:
        return "ungraded" if due else "unscored"
    return "right" if score >= 1.0 else "wrong" if score <= 0.0 else "partly"
