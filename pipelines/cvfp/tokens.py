"""Tokens of documents: a byte-pair encoding that is trained on the spot, bytes, or a model's own tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from hybrid.errors import CannotRun, HybridError, UsageError
from hybrid.machine.files import expanded, read_bounded
from hybrid.machine.late_imports import import_object
from hybrid.model_files.location import HUB_NAME, PACKAGED, locate
from pipelines.cvfp.settings import BYTES, TRAINED

NEEDED_FOR = "a byte-pair encoding of the texts (--set tokenizer=bytes does without)"
FILE, MOST_BYTES = "tokenizer.json", 1 << 28


class Tokenizer(Protocol):
    """Text to tokens and back."""

    vocabulary: int
    digest: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Bytes:
    """A token a byte of UTF-8."""

    vocabulary, digest = 256, hashlib.sha256(b"bytes").hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The bytes of each text."""
        return [list(text.encode()) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of bytes; what is no UTF-8 is replaced."""
        return bytes(ids).decode(errors="replace")


class Pairs:
    """Byte-pair encoding (Sennrich and others 2016) by the library `tokenizers`."""

    def __init__(self, made: Any) -> None:
        self._made = made
        self.vocabulary = int(self._made.get_vocab_size())
        self.digest = hashlib.sha256(self._made.to_str().encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without special ones."""
        return [list(one.ids) for one in self._made.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self._made.decode(list(ids)))


def tokenizer_for(name: str, texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """`bytes`, `trained` (pairs of these texts, up to `vocabulary` tokens), or the tokenizer in a model's folder.

    Training is deterministic. Raises CannotRun for a folder that is not there or a library that is missing.
    """
    if name == BYTES:
        return Bytes()
    if name != TRAINED:
        return Pairs(_of_model(name))
    library = import_object("tokenizers:models", needed_for=NEEDED_FOR)
    made = import_object("tokenizers:Tokenizer", needed_for=NEEDED_FOR)(library.BPE())
    level = import_object("tokenizers.pre_tokenizers:ByteLevel", needed_for=NEEDED_FOR)
    made.pre_tokenizer = level(add_prefix_space=False)
    made.decoder = import_object("tokenizers.decoders:ByteLevel", needed_for=NEEDED_FOR)()
    trainer = import_object("tokenizers.trainers:BpeTrainer", needed_for=NEEDED_FOR)
    alphabet = level.alphabet()
    made.train_from_iterator(texts, trainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False))
    return Pairs(made)


def refuse_unknown(setting: str, name: str) -> None:
    """Refuse the name of a model that is on no machine: neither a folder here, nor on the Hub, nor a whole path.

    Before a run is made of it. Raises UsageError.
    """
    path = expanded(name)
    named = name in ("", BYTES, TRAINED, *PACKAGED) or HUB_NAME.fullmatch(name)
    if named or path.is_absolute():  # such a path may be another machine's
        return
    with suppress(OSError):  # such as a longer name than a file can have
        if path.exists():
            return
    own = f"{TRAINED}, {BYTES}, or " if setting == "tokenizer" else ""
    raise UsageError(
        f"{setting}={name:.200}: no such folder", hint=f"{own}the folder of a model, or its name on the Hub: ORG/NAME"
    )


def _of_model(name: str) -> Any:
    """The tokenizer in a model's folder, which need not hold the model. Raises CannotRun."""
    own = expanded(name) / FILE
    try:
        file = own if own.is_file() else locate(name) / FILE
    except CannotRun as error:
        raise CannotRun(
            f"tokenizer={name:.200}: {error.message}", hint=f"{TRAINED}, {BYTES}, or a model's folder with {FILE}"
        ) from error
    if not file.is_file():
        raise CannotRun(f"tokenizer={name}: no {FILE} in it", hint="save the model's fast tokenizer there")
    load = import_object("tokenizers:Tokenizer", needed_for=NEEDED_FOR)
    try:
        return load.from_buffer(read_bounded(file, MOST_BYTES))
    except Exception as error:  # the library raises nothing more special
        if isinstance(error, HybridError):
            raise
        raise CannotRun(f"{file} is no tokenizer: {error!s:.200}", hint="fetch the model again") from error
