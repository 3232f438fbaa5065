"""The embedder `hashed`: character n-grams counted in 384 places, for machines and tests without a model.

Texts are near each other when they are spelt alike; of meaning it knows nothing. A vector holds whole numbers that are
divided by their length once, so every machine and every version of Python gives the same floats: letters A to Z alone
become small, and spaces of ASCII alone are spaces, since what else is one depends on the tables of Unicode.

Each n-gram of a word adds 1 or -1 to one place, by its hash (Weinberger and others 2009, Feature hashing for large
scale multitask learning): so n-grams that fall into one place do not make two texts alike on average. A word is read
with a space before and after it, so that its beginning and its end are told from its middle.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import ClassVar

from hybrid.canonical import Json, digest
from hybrid.errors import CannotRun, nearest
from hybrid.protocols import Model, Vector
from hybrid.records import Failure

NAME = "ngrams"
DIMENSIONS = 384
SIZES = (3, 4, 5)
"""Characters of an n-gram."""

LONGEST = 1 << 20
"""Characters of a text that are embedded; a longer one is a failure."""

RECIPE: Mapping[str, Json] = {"name": NAME, "version": 1, "dimensions": DIMENSIONS, "sizes": SIZES, "hash": "blake2b"}
"""All that shapes a vector; its digest is the model's."""


class HashedEmbedder:
    """One model, `ngrams`, that is always there."""

    options: ClassVar[Mapping[str, str]] = {}

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self.model = Model(
            NAME, self.digest_of(model), LONGEST, {"engine": "hashed", "version": "1", "dimensions": DIMENSIONS}
        )

    @staticmethod
    def digest_of(model: str) -> str:
        """The digest of a model. Raises CannotRun for one that there is not."""
        if model not in ("", NAME):
            raise CannotRun(f"the embedder 'hashed' has no model '{model}'", hint=nearest(model, [NAME]))
        return digest(RECIPE)

    def embed(self, texts: Iterable[str]) -> Iterator[Vector | Failure]:
        """One at a time, in order."""
        for text in texts:
            if len(text) > LONGEST:
                yield Failure("too-long", f"a text has {len(text):,} characters, at most {LONGEST:,} are embedded")
            else:
                yield _vector(text)

    def close(self) -> None:
        """There is nothing to free."""


def _vector(text: str) -> Vector:
    places = [0] * DIMENSIONS
    for word, count in Counter(_words(text)).items():
        for place, sign in _places(word):
            places[place] += sign * count
    if not any(places):  # there is no word, or all fell on each other: the whole text is the n-gram
        place, sign = _place(text)
        places[place] = sign
    length = math.sqrt(sum(count * count for count in places))
    return tuple(count / length for count in places)


def _words(text: str) -> list[str]:
    small = text.encode("utf-8", "replace").lower()  # of bytes: A to Z alone
    return [word.decode() for word in small.split()]


@lru_cache(maxsize=4096)
def _places(word: str) -> tuple[tuple[int, int], ...]:
    padded = f" {word} "
    starts = [(start, size) for size in SIZES for start in range(max(1, len(padded) - size + 1))]
    return tuple(_place(padded[start : start + size]) for start, size in starts)


def _place(gram: str) -> tuple[int, int]:
    """The place of an n-gram, and 1 or -1."""
    number = int.from_bytes(hashlib.blake2b(gram.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return (number >> 1) % DIMENSIONS, 1 - 2 * (number & 1)
