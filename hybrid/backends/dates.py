"""The date that a chat template writes: the date that the request pins, never today's.

A template reads it as `date_string`, or by calling `strftime_now(format)`, which libraries answer from the clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

DATE_SETTING = "date_string"
"""The setting of a request's template that holds the date."""

DEFAULT = "26 Jul 2024"
"""The date for a request that pins none. Llama 3's own template has the same default."""

DATE_FORMATS = (
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%b %d %Y",
    "%B %d %Y",
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d.%m.%Y",
)


def strftime_now(template: Mapping[str, str]) -> Callable[[str], str]:
    """The function `strftime_now` for a request with these template settings.

    The time is midnight. A date in none of `DATE_FORMATS` is returned as it is, whatever format is asked for.
    """
    date = str(template.get(DATE_SETTING, DEFAULT))
    day = _read(date)
    return (lambda pattern: date) if day is None else (lambda pattern: day.strftime(str(pattern)))


STRFTIME_CALL = re.compile(r"""strftime_now\s*\(\s*(?:format\s*=\s*)?(["'])(.*?)\1""")
DATES = "pinned_dates"
MACRO = (
    "{%- macro strftime_now(format) -%}{{ DATES[format] if format in DATES else DATES[''] }}{%- endmacro -%}"
).replace("DATES", DATES)


def with_pinned_dates(template: str) -> str:
    """`template` with a macro `strftime_now`, so that llama.cpp does not answer that call from the clock.

    Empty when the template does not call it.
    """
    return MACRO + template if "strftime_now" in template else ""


def llama_cpp_settings(settings: Mapping[str, str], template: str) -> dict[str, Any]:
    """The template settings of a request, with the pinned date in every format that the macro reads."""
    if "strftime_now" not in template:
        return dict(settings)
    write = strftime_now(settings)
    dates = {pattern: write(pattern) for _, pattern in STRFTIME_CALL.findall(template)}
    return {DATES: {"": settings.get(DATE_SETTING, DEFAULT), **dates}, **settings}


def _read(text: str) -> datetime | None:
    for pattern in DATE_FORMATS:
        try:
            return datetime.strptime(text.strip(), pattern)  # noqa: DTZ007 - a date has no time zone
        except ValueError:
            continue
    return None
