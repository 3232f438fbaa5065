"""Documents as pieces of tokens of one length, to train on and held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hybrid.errors import BadData, CannotRun, UsageError
from pipelines.cvfp.documents import Documents, pieces, refuse_short
from pipelines.cvfp.settings import BYTES, TRAINED, CvfpSettings
from pipelines.cvfp.tokens import Tokenizer, refuse_unknown, tokenizer_for

PLENTY = 8
"""Bytes of text for a token with which nothing is counted: byte pairs have about four, of long words more."""
MOST_COUNTED = 1 << 20
"""Bytes of text whose tokens are counted before a run is made: about three seconds for byte pairs."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pieces of `length` tokens. `leaky`: the last fifth of those that are trained on, which the guide tests with.

    `held_out_bytes`: of the text of the held-out tokens after the first of each piece. `short`: documents, on both
    sides, that are shorter than a piece and left out.
    """

    train: Sequence[Sequence[int]]
    held_out: Sequence[Sequence[int]]
    leaky: Sequence[Sequence[int]]
    held_out_bytes: int
    vocabulary: int
    tokenizer: Tokenizer
    short: int = 0


def refuse_unfit(settings: CvfpSettings, documents: Documents) -> None:
    """Refuse documents without a piece or with too few, and models that are on no machine, before a run is made.

    Tokens are counted only where there may be too few of them and the text is short, and not of a model's tokenizer,
    which the machine that trains may have alone: what is not found here, that machine refuses. Raises UsageError.
    """
    for name in ("tokenizer", "embedding"):
        refuse_unknown(name, getattr(settings, name))
    if settings.tokenizer not in (TRAINED, BYTES):
        return
    refuse_short(documents, settings.length)
    sides = {"train": documents.train, "held_out": documents.held_out}
    sizes = {name: [len(text.encode()) for text in texts] for name, texts in sides.items()}
    most = max(settings.pieces)
    plenty = all(max(each) >= PLENTY * settings.length for each in sizes.values())
    plenty &= sum(sizes["train"]) >= PLENTY * settings.length * most
    if not plenty and sum(map(sum, sizes.values())) <= MOST_COUNTED:
        with suppress(CannotRun):  # the library may be on the machine that trains alone
            corpus_of(settings, sides, most)


def corpus_of(settings: CvfpSettings, data: Mapping[str, Any], most: int) -> Corpus:
    """The pieces of a run's documents, `most` of them to train on, 0 for all. Raises UsageError when there are too few,
    BadData for a tokenizer that is not whole.
    """
    tokenizer = tokenizer_for(settings.tokenizer, data["train"], settings.vocabulary)
    sides = tokenizer.encode(data["train"]), tokenizer.encode(data["held_out"])
    train, held_out = (pieces(side, settings.length) for side in sides)
    short = sum(len(document) < settings.length for side in sides for document in side)
    if max((token for side in sides for document in side for token in document), default=0) >= tokenizer.vocabulary:
        raise BadData(f"{settings.tokenizer}: a token beyond its {tokenizer.vocabulary:,}", hint="another tokenizer")
    for name, found, side in (("to train on", train, sides[0]), ("held out", held_out, sides[1])):
        if not found:
            longest = max(map(len, side), default=0)
            raise UsageError(
                f"{settings.data or 'the built-in text'}: no document {name} has length={settings.length:,} tokens, "
                f"the longest has {longest:,}",
                hint="a shorter length, or longer documents",
            )
    if most > len(train):
        raise UsageError(f"pieces={most}: there are {len(train)}", hint=f"--set pieces={len(train)}, or more documents")
    train = train[: most or None]
    written = sum(len(tokenizer.decode(piece[1:]).encode()) for piece in held_out)
    leaky = train[-max(1, len(train) // 5) :]
    return Corpus(train, held_out, leaky, written, tokenizer.vocabulary, tokenizer, short)
