"""Text for a terminal: numbers and durations for people, and untrusted text with its control characters escaped.

A terminal would obey control characters in the texts of models and in the names of files.
"""

from __future__ import annotations

import itertools
import re

# C0 and C1 controls except tab and newline, DEL, marks and overrides of direction, line and paragraph separators,
# zero-width characters, the byte order mark, interlinear anchors, tags, and lone surrogates (which cannot be encoded).
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def clean(text: str, limit: int | None = None) -> str:
    """`text` with control characters escaped (`\\x1b`), cut to `limit` characters."""
    shown = text if limit is None else text[: limit + 1]  # a text may have gigabytes
    safe = _UNSAFE.sub(_escape, shown)
    return safe if limit is None or len(safe) <= limit else f"{safe[: limit - 1]}…"


def clean_line(text: str, limit: int | None = None) -> str:
    """Like `clean`, on one line: tabs and newlines are escaped, too."""
    shown = text if limit is None else text[: limit + 1]
    return clean(shown.replace("\n", "\\n").replace("\t", "\\t"), limit)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def count_of(number: int, what: str) -> str:
    """A number with its noun: `1 item`, `2,000 items`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def is_or_are(number: int) -> str:
    """The verb after a count: 1 item `is` here, 2 items `are`."""
    return "is" if number == 1 else "are"


def has_or_have(number: int) -> str:
    """The verb after a count: 1 item `has` no record, 2 items `have` none."""
    return "has" if number == 1 else "have"


def was_or_were(number: int) -> str:
    """The verb after a count: 1 item `was` done, 2 items `were`."""
    return "was" if number == 1 else "were"


def duration(seconds: float) -> str:
    """A duration in its two largest units: `1 d 3 h`, `2 min 5 s`."""
    whole = round(seconds)
    units = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")]
    for (size, name), (smaller, low) in itertools.pairwise(units):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size:,} {name}" + (f" {rest} {low}" if rest and size > 60 else "")
    return f"{whole} s"


def per_minute(items: float) -> str:
    """A rate in items per minute, with more decimals when it is low."""
    return f"{items:,.{0 if items >= 10 else 1 if items >= 1 else 2}f} items/min"
