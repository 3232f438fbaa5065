"""The door: what is refused before it becomes a candidate, and how far a text keeps to what was asked.

All patterns take linear time: they are anchored, or fixed words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hybrid.grading.patterns import compiled
from pipelines.branch.nodes import Verdict
from pipelines.branch.scenario import LONGEST, Level, Scenario

BOILERPLATE = (
    r"^(?:sure|certainly|of course|absolutely|okay|great)\b[,!.:]",
    r"^here(?:'s| is| are)\b",
    r"^(?:as an? (?:ai|language model)|i'm sorry|i am sorry|i cannot|i can't)\b",
    r"^what an? (?:great|thrilling|wonderful|fascinating|interesting) (?:idea|premise|prompt|story|concept)\b",
    r"^\**(?:option|title|chapter|premise|opening|twist|ending)\b[ \d]{0,4}[:*]",
    r"\b(?:i hope this helps|let me know if|feel free to)\b",
)
"""How an answer begins, or ends, that talks to the user instead of telling the story. Letter case does not count."""

LIST = re.compile(r"^[ \t]{0,8}(?:[-*\u2022][ \t]|\d{1,3}[.)][ \t])", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}[ \t]", re.MULTILINE)
END = (".", "!", "?", "\u2026", '."', '!"', '?"', ".\u201d", "!\u201d", "?\u201d", ".'", ".\u2019", "*")
BLANK_LINES = re.compile(r"\n[ \t]*\n")
WORDS = re.compile(r"\w+")
QUOTES = ('"', '"'), ("\u201c", "\u201d")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a text is no candidate."""

    verdict: Verdict
    reason: str


def cleaned(text: str) -> str:
    """The text without white space around it, and without quotation marks that enclose all of it."""
    text = text.strip()
    for opening, closing in QUOTES:
        inside = text[1:-1]
        if len(text) > 2 and text[0] == opening and text[-1] == closing and not {opening, closing} & set(inside):
            return inside.strip()
    return text


def normalised(text: str) -> str:
    """The text without letter case and white space: two texts that are the same then are duplicates of each other."""
    return " ".join(text.casefold().split())


def refused(text: str, scenario: Scenario, level: Level, asked: str) -> Refusal | None:
    """Why this answer to what was `asked` is refused whatever the others are; None when it is not."""
    said = normalised(asked)
    if all(normalised(line) in said for line in text.splitlines()):
        return Refusal("rejected-boilerplate", "it only repeats what it was asked")
    for pattern in (*BOILERPLATE, *scenario.boilerplate):
        if found := compiled(pattern, ignore_case=True).search(text[:LONGEST]):
            return Refusal("rejected-boilerplate", f"it talks to the reader: '{found.group()[:60]}'")
    broken = [name for name, kept in hard_checks(text, level).items() if not kept]
    return Refusal("rejected-constraint", broken[0]) if broken else None


def hard_checks(text: str, level: Level) -> Mapping[str, bool]:
    """What a text must keep to, each with the reason that stands where it does not."""
    words, paragraphs = len(WORDS.findall(text)), len(BLANK_LINES.split(text.strip()))
    return {
        f"{words:,} words, fewer than {level.min_words:,}": words >= level.min_words,
        f"{words:,} words, more than {level.max_words:,}": words <= level.max_words,
        f"{paragraphs:,} paragraphs, more than {level.paragraphs:,}": paragraphs <= level.paragraphs,
        "it is a list": level.lists or not LIST.search(text),
        "it has headings": not HEADING.search(text),
    }


def kept_share(text: str, level: Level, finish: str) -> float:
    """The share of the soft checks that a text meets: it ends as a sentence does, the model ended it, it does not
    repeat itself, and its length lies well inside the bounds.
    """
    words = [word.casefold() for word in WORDS.findall(text)]
    pairs = list(pairwise(words))
    middle = (level.min_words + level.max_words) / 2
    checks: Sequence[bool] = (
        text.rstrip().endswith(END),
        finish != "length",
        not pairs or len(set(pairs)) >= 0.8 * len(pairs),
        abs(len(words) - middle) <= 0.9 * (level.max_words - level.min_words) / 2,
    )
    return sum(checks) / len(checks)
