"""Numbers and names as the page says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.report.markup import Html, el

NAMES = {"majority": "most frequent answer"}
"""Controls that are of no experiment with a plain name; sections bring more, others are shown as they are written."""


def called(name: str, names: Mapping[str, str]) -> str:
    """A figure's or control's name for people."""
    kind, _, rest = name.partition("/")
    return f"Right in view {rest}" if kind == "view" and rest else names.get(name, name)


def percent(value: float | None) -> str:
    """`value` in [0, 1] with one decimal, or a dash."""
    return "–" if value is None else f"{value * 100:.1f} %"


def span(interval: Sequence[float] | None) -> str:
    """An interval in percent."""
    return "–" if interval is None else f"{interval[0] * 100:.1f} – {interval[1] * 100:.1f} %".replace("-", "−")


def signed(value: float | None) -> str:
    """A difference in percentage points, with its sign and a true minus."""
    return "–" if value is None else f"{value * 100:+.1f}".replace("-", "−")


def count(number: int, one: str, many: str = "") -> str:
    """`3 views`, `1 view`, thousands parted."""
    return f"{number:,} {one if number == 1 else many or one + 's'}".replace(",", "\u202f")


def mark(status: str) -> Html:
    """The badge of a status: a sign and a word, so that colour is never alone."""
    sign = {"right": "✓", "wrong": "✗", "partly": "◐", "ungraded": "?", "absent": "–"}[status]
    return el("span", el("span", sign, aria_hidden="true"), f" {status}", cls=f"badge {status}")


def status_of(score: float | None) -> str:
    """The word for a score: right (1), wrong (0), partly (between), ungraded (None)."""
    if score is None:
        return "ungraded"
    return "right" if score >= 1.0 else "wrong" if score <= 0.0 else "partly"
