"""Text that is judged, between tags that it cannot close itself."""

from __future__ import annotations

import re


def escaping(*tags: str) -> re.Pattern[str]:
    """What `block` escapes: the beginning of each of these tags in a text, opening or closing, in whatever case."""
    return re.compile(rf"<(?=\s*/?\s*(?:{'|'.join(tags)})\b)", re.IGNORECASE)


def block(tag: str, text: str, escaped: re.Pattern[str], note: str = "") -> str:
    """`text` between the tags; `escaped` finds what would look like one of the prompt's own tags in it."""
    clean = escaped.sub("&lt;", text.encode("utf-8", "replace").decode())
    return f"<{tag}>{note}\n{clean}\n</{tag}>"
