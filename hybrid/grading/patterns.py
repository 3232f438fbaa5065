"""Regular expressions from files: compiled only when no text can keep them busy for long.

Python's engine tries alternatives one by one and cannot be stopped. The number of ways a pattern can be tried on a text
is bounded by the product of the choices that it leaves; patterns whose choices multiply with the text's length (a
repeat of something that is itself open, as `(a+)+`) are refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]  # the only way to see a pattern's parts
from typing import Any

MOST_WAYS = 10**8
"""Ways to try one pattern on one text, at most: some seconds in the worst case (5 to 45 ns each), mostly far less."""

WIDE = 32
"""Characters of a fixed part that are compared in the time that one way takes."""

LONGEST_PATTERN = 1000

_REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT}


class BadPattern(ValueError):
    """The pattern does not compile or could run for ever; the message says which."""


def ways(pattern: str, length: int) -> int:
    """An upper bound of the ways to try `pattern` on a text of `length` characters, long ones counted as several.

    Raises BadPattern.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise BadPattern(f"a pattern of more than {LONGEST_PATTERN} characters")
    try:
        parsed, length = _parsed(pattern), max(1, length)
        fixed = min(int(parsed.getwidth()[0]), length)  # what each way may compare before it fails
        return length * _ways(parsed, length) * max(1, fixed // WIDE)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadPattern(f"not a regular expression: {error}") from error


@lru_cache(maxsize=256)
def compiled(pattern: str, *, ignore_case: bool = False) -> re.Pattern[str]:
    """The compiled pattern, which `ways` has let through."""
    with warnings.catch_warnings(action="ignore"):  # of what another Python might read otherwise: noise from a file
        return re.compile(pattern, re.IGNORECASE if ignore_case else 0)


@lru_cache(maxsize=256)
def _parsed(pattern: str) -> Any:
    with warnings.catch_warnings(action="ignore"):
        return _parser.parse(pattern)


def _ways(parts: Iterable[Any], length: int) -> int:
    """Of a sequence of parsed parts: the product of each one's choices."""
    product = 1
    for operation, argument in parts:
        product *= _choices(operation, argument, length)
        if product > MOST_WAYS:
            return product
    return product


def _choices(operation: Any, argument: Any, length: int) -> int:
    if operation in _REPEATS:
        low, high, inner = argument
        high = min(int(high), length)
        inside = _ways(inner, length)
        rounds = max(1, high - int(low) + 1)
        return rounds if inside == 1 else min(MOST_WAYS + 1, rounds * inside ** min(high, 40))
    if operation is _constants.BRANCH:
        return sum(_ways(branch, length) for branch in argument[1])
    if operation in (_constants.SUBPATTERN, _constants.ASSERT, _constants.ASSERT_NOT):
        return _ways(argument[-1], length)
    if operation is _constants.ATOMIC_GROUP:
        return _ways(argument, length)
    if operation is _constants.GROUPREF_EXISTS:
        return sum(_ways(branch, length) for branch in argument[1:] if branch)
    return 1
