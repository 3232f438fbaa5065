"""Short answers compared as words: SQuAD's official normalisation, and the rules that need no model.

Rajpurkar et al. 2016, arXiv 1606.05250 and its evaluation script: lower case, no punctuation, no articles, single
spaces.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

MOST_OF_IT = 0.6
"""Share of the reference's words that the rule `words` asks for."""


def normal(text: str) -> str:
    """`text` as the official script compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall of words, repeats counted; 1 when both have none."""
    said, wanted = normal(answer).split(), normal(reference).split()
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


def best_f1(answer: str, references: Sequence[str]) -> float:
    """`f1` with the reference that fits best; 0 without references."""
    return max((f1(answer, one) for one in references), default=0.0)


def same(answer: str, references: Sequence[str]) -> bool:
    """A reference, normalised, is the answer."""
    said = normal(answer)
    return any(normal(one) == said for one in references)


def contained(answer: str, references: Sequence[str]) -> bool:
    """A reference, normalised, stands in the answer as whole words. One without words stands nowhere."""
    said = f" {normal(answer)} "
    return any(f" {wanted} " in said for one in references if (wanted := normal(one)))


def words(answer: str, references: Sequence[str]) -> bool:
    """At least `MOST_OF_IT` of a reference's words stand in the answer."""
    return any(_recall(answer, one) >= MOST_OF_IT for one in references)


def _recall(answer: str, reference: str) -> float:
    wanted = Counter(normal(reference).split())
    found = Counter(normal(answer).split()) & wanted
    return sum(found.values()) / sum(wanted.values()) if wanted else 0.0


def overlapping(answer: str, references: Sequence[str]) -> bool:
    """The word F1 with a reference is at least one half."""
    return best_f1(answer, references) >= 0.5


RULES: Mapping[str, Callable[[str, Sequence[str]], bool]] = {
    "exact": same,
    "contained": contained,
    "words": words,
    "f1": overlapping,
}
"""Ways to call an answer right without a model. The later ones are wrong more often when they say so."""
