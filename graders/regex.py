"""A regular expression matches the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hybrid.bounds import help_of
from hybrid.canonical import Json
from hybrid.grading.patterns import MOST_WAYS, BadPattern, compiled, ways
from hybrid.grading.references import acceptable
from hybrid.records import Grade, Output

SHORT = 30
"""Characters of the answer on which a pattern of the settings is checked for bounded matching time."""


@dataclass(frozen=True)
class Regex:
    """1 when the pattern is found in the answer, else 0. Without the setting the reference is the pattern."""

    pattern: str = field(default="", metadata=help_of("the pattern; empty: the reference is the pattern"))
    where: Literal["anywhere", "whole"] = field(
        default="anywhere", metadata=help_of("the part of the answer it must fit")
    )
    case: bool = field(default=True, metadata=help_of("upper and lower case differ"))
    longest: int = field(default=10_000, metadata=help_of("longer answers (characters) are not graded"))

    def __post_init__(self) -> None:
        if self.pattern and ways(self.pattern, SHORT) > MOST_WAYS:
            raise ValueError(
                f"the pattern {self.pattern!r} could run for ever: it repeats something that itself repeats or chooses"
            )

    def grade(self, output: Output) -> Grade:
        """Ungraded when a pattern does not compile, or could run too long on this answer."""
        patterns = (self.pattern,) if self.pattern else acceptable(output.reference)
        text = output.text or ""
        if not patterns:
            return Grade(None, "no pattern: neither the setting nor the reference is one")
        if len(text) > self.longest:
            return Grade(None, f"the answer is longer than {self.longest:,} characters")
        try:
            if any(ways(pattern, len(text)) > MOST_WAYS for pattern in patterns):
                return Grade(None, "the pattern could run too long on this answer")
            return Grade(float(any(self._matches(pattern, text) for pattern in patterns)))
        except BadPattern as error:
            return Grade(None, str(error))

    def control(self, reference: Json) -> str | None:
        """The pattern of a question: an answer that matches it is right wherever the same pattern is the reference.

        None with a pattern in the settings: some constant answer matches it everywhere, which would show nothing.
        """
        wanted = () if self.pattern else acceptable(reference)
        try:
            usable = bool(wanted) and ways(wanted[0], SHORT) <= MOST_WAYS
        except BadPattern:
            return None
        return wanted[0] if usable else None

    def _matches(self, pattern: str, text: str) -> bool:
        found = compiled(pattern, ignore_case=not self.case)
        return (found.fullmatch(text) if self.where == "whole" else found.search(text)) is not None
