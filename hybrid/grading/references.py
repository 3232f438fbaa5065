"""Reads references for graders that compare texts: a reference is a text or number, or a list of acceptable ones."""

from __future__ import annotations

from hybrid.canonical import Json
from hybrid.grading.answers import normal


def acceptable(reference: Json) -> tuple[str, ...]:
    """The answers that count as right; none when the reference is nothing that a text can be compared with."""
    if isinstance(reference, str):
        return (reference,)
    listed = reference if isinstance(reference, list | tuple) else [reference]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in listed):
        return ()  # a grid, say: a text that holds one of its numbers is not an answer to it
    return tuple(str(one) for one in listed)


def worded(reference: Json) -> tuple[str, ...]:
    """The acceptable answers of which SQuAD's normalisation leaves something, as the script of SQuAD 2.0 takes them."""
    return tuple(one for one in acceptable(reference) if normal(one))


def why_none(reference: Json) -> str:
    """Why a reference has no `worded` answer."""
    return NO_WORDS if acceptable(reference) else why_not_acceptable(reference)


def why_not_acceptable(reference: Json) -> str:
    """Why a reference has no `acceptable` answer."""
    return NONE_GIVEN if reference is None else NO_REFERENCE


NO_WORDS = "the reference holds nothing but articles, punctuation and white space"
NO_REFERENCE = "the reference is not a text or a number"
NONE_GIVEN = "no reference"
"""Why a grader that needs such a reference gives no score."""
