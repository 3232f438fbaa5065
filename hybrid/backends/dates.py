"""The date that a chat template writes: the one that a request pins, never the day's.

A template gets it as `date_string`, or by calling `strftime_now(format)`, which libraries answer from the clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

NAME = "date_string"
"""Of the date among the settings of a request's template."""

DEFAULT = "26 Jul 2024"
"""For a request that pins none: the date that Llama 3's own template writes then."""

READ = ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y")


def strftime_now(template: Mapping[str, str]) -> Callable[[str], str]:
    """What a template calls, for a request with these settings.

    The time is midnight. A date in none of the usual forms is written as it stands, whatever format is asked for.
    """
    said = str(template.get(NAME, DEFAULT))
    day = _read(said)
    return (lambda form: said) if day is None else (lambda form: day.strftime(str(form)))


CALL = re.compile(r"""strftime_now\s*\(\s*(?:format\s*=\s*)?(["'])(.*?)\1""")
DATES = "pinned_dates"
MACRO = (
    "{%- macro strftime_now(format) -%}{{ DATES[format] if format in DATES else DATES[''] }}{%- endmacro -%}"
).replace("DATES", DATES)


def pinned(template: str) -> str:
    """A chat template that llama.cpp cannot answer from the clock: what it calls is a macro of its own.

    Empty when the template asks for no date.
    """
    return MACRO + template if "strftime_now" in template else ""


def for_llama_cpp(settings: Mapping[str, str], template: str) -> dict[str, Any]:
    """The settings of a request's template with the dates that `pinned(template)` reads: every format that it names."""
    if "strftime_now" not in template:
        return dict(settings)
    write = strftime_now(settings)
    dates = {form: write(form) for _, form in CALL.findall(template)}
    return {DATES: {"": settings.get(NAME, DEFAULT), **dates}, **settings}


def _read(text: str) -> datetime | None:
    for form in READ:
        try:
            return datetime.strptime(text.strip(), form)  # noqa: DTZ007 - a day has no time zone
        except ValueError:
            continue
    return None
