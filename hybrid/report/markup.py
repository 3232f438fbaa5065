"""HTML that is escaped by construction: every string that is not `Html` is text, and text is escaped.

Model text is untrusted. Besides the five special characters of HTML, characters that could mislead a reader are made
visible: control characters, bidirectional overrides (CVE-2021-42574), zero-width and tag characters.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

VOID = frozenset({"meta", "input", "br", "hr", "rect", "path", "use", "line", "circle"})
"""Elements that are written without an end tag; the SVG ones close themselves."""

SVG_VOID = frozenset({"rect", "path", "use", "line", "circle"})

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff"
    "\ud800-\udfff\U0001fffe\U0001ffff\U000e0000-\U000e0fff]"
)
"""Characters that are invisible or change how others are shown. Tab and newline are not among them."""


class Html(str):
    """Markup that is written unchanged. It comes from this module, or from templates whose parts do."""

    __slots__ = ()


def name_of(character: str) -> str:
    """The visible name of a hidden character: `U+202E`."""
    return f"U+{ord(character):04X}"


def text(value: str) -> Html:
    """`value` as element content; hidden characters become small labelled marks."""
    return Html(HIDDEN.sub(lambda found: f'<i class="u">{name_of(found[0])}</i>', html.escape(value)))


def plain(value: str) -> Html:
    """`value` as an attribute value, where no markup is possible."""
    return Html(HIDDEN.sub(lambda found: f"[{name_of(found[0])}]", html.escape(value)))


def join(parts: Iterable[str], between: str = "") -> Html:
    """The parts joined by `between`; those that are text are escaped."""
    return Html(text(between).join(part if isinstance(part, Html) else text(part) for part in parts))


def el(name: str, /, *children: str, **attributes: str | int | bool | None) -> Html:
    """One element. `cls` is the class, `_` in a name becomes `-`; None and False omit an attribute."""
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}{'/' if name in SVG_VOID else ''}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def _attribute(key: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    written = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
    return f" {written}" if value is True else f' {written}="{plain(str(value))}"'
