"""Reads references for graders that compare texts: a reference is a text or number, or a list of acceptable ones."""

from __future__ import annotations

from hybrid.canonical import Json


def acceptable(reference: Json) -> tuple[str, ...]:
    """The answers that count as right; none when the reference is nothing that a text can be compared with."""
    if isinstance(reference, str):
        return (reference,)
    if isinstance(reference, list | tuple):
        return tuple(answer for one in reference for answer in acceptable(one))
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        return (str(reference),)
    return ()


NO_REFERENCE = "the reference is not a text or a number"
"""Why a grader that needs such a reference gives no score."""
