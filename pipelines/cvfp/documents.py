"""The texts that are trained on, as documents that are held out whole: a part of a document is never on both sides.

The built-in text is of plays by Shakespeare (public domain; the beginning of the collection "tiny Shakespeare").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.canonical import decode
from hybrid.errors import BadData, CannotRun, UsageError
from hybrid.machine.files import expanded, read_bounded
from hybrid.machine.late_imports import import_object
from hybrid.machine.terminal import count_of
from hybrid.machine.text_files import utf8

BUILT_IN = Path(__file__).with_name("shakespeare.txt")
MOST_BYTES = 1 << 30
"""Of a file."""
GAP = "\n\n\n"
"""What separates documents in a text file."""
ULTRACHAT = "ultrachat"
"""The data set of the guide: HuggingFaceH4/ultrachat_200k."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Texts to train on and held-out ones. `duplicates`, `empty`: texts that stood twice, and those without a word,
    which were left out.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    source: str
    duplicates: int
    empty: int

    @property
    def digest(self) -> str:
        """The sha256 of all texts and sides."""
        sides = ("\0".join(side) for side in (self.train, self.held_out))
        return hashlib.sha256("\1".join(sides).encode()).hexdigest()


def read_documents(data: str, share: float, most: int = 0) -> Documents:
    """The documents of `data`: "" for the built-in text, a file, a folder of files, or `ultrachat`.

    `share` of them is held out, chosen by a hash of the text; `most`: documents that are read, 0 for all. Raises
    UsageError for a file that is not there, BadData for one that holds fewer than two documents.
    """
    texts, duplicates, empty = dict[str, None](), 0, 0
    for text in _texts(data):
        if not text.strip():
            empty += 1
            continue
        duplicates += text in texts
        texts[text] = None
        if len(texts) == most:
            break
    limit = share * 2**64
    held = [text for text in texts if _place(text) < limit]
    train = [text for text in texts if _place(text) >= limit]
    if texts and not held:  # of few documents perhaps none has such a hash
        held = [min(texts, key=_place)]
        train = [text for text in texts if text != held[0]]
    if not train or not held:
        what = data or "the built-in text"
        left = f" and {count_of(empty, 'empty one')}" if empty else ""
        raise BadData(
            f"{what}: {count_of(len(texts), 'different document')}{left}, and two are the least",
            hint=f"separate them by two empty lines in a .txt ({GAP!r}), or one a line in a .jsonl",
        )
    return Documents(tuple(train), tuple(held), data or "built-in", duplicates, empty)


def refuse_short(documents: Documents, length: int) -> None:
    """Refuse texts whose longest document has fewer bytes than a piece has tokens, which are of a byte or more.

    Before a run is made of them. Raises UsageError.
    """
    for name, side in (("to train on", documents.train), ("held out", documents.held_out)):
        longest = max(len(text.encode()) for text in side)
        if longest < length:
            raise UsageError(
                f"{documents.source}: the longest document {name} has {longest:,} bytes, and length={length:,} tokens",
                hint="a shorter length, or longer documents",
            )


def _place(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _texts(data: str) -> Iterator[str]:
    if data == ULTRACHAT:
        yield from _chats_of_hub()
        return
    path = expanded(data) if data else BUILT_IN
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix in (".txt", ".jsonl"))
        if not files:
            raise CannotRun(f"{path}: no .txt or .jsonl in it", hint="name a file, or a folder with such files")
        for one in files:
            yield from _of_file(one)
        return
    if not path.is_file():
        raise UsageError(f"{path}: no such file", hint="a .txt or .jsonl file, a folder of them, or ultrachat")
    yield from _of_file(path)


def _of_file(path: Path) -> Iterable[str]:
    text = utf8(read_bounded(path, MOST_BYTES), str(path)).decode()
    if path.suffix == ".txt":
        return (one.strip("\n") for one in text.replace("\r\n", "\n").split(GAP))
    if path.suffix == ".jsonl":
        lines = enumerate(text.split("\n"), 1)  # a text may hold other separators of Unicode
        named = ((f"{path}: line {at}", line) for at, line in lines if line.strip())
        return (_of_line(decode(line.encode(), what=what), what) for what, line in named)
    raise UsageError(
        f"{path}: neither .txt nor .jsonl", hint="documents of text, or lines of JSON with text or messages"
    )


def _of_line(value: Any, what: str) -> str:
    """A line with `text`, or a chat: the contents of its messages, a line each, as the guide joins them."""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return str(value["text"])
    messages = value.get("messages") if isinstance(value, dict) else value
    if isinstance(messages, list) and all(
        isinstance(one, dict) and isinstance(one.get("content"), str) for one in messages
    ):
        return "\n".join(one["content"] for one in messages)
    raise BadData(f"{what}: no text and no messages", hint='{"text": "..."} or {"messages": [{"content": "..."}]}')


def _chats_of_hub() -> Iterator[str]:
    """The guide's data set, read from its first shard as a stream: nothing else of it is fetched."""
    load = import_object("datasets:load_dataset", needed_for="the data set ultrachat")
    rows = load("HuggingFaceH4/ultrachat_200k", split="train_sft", streaming=True)
    for number, row in enumerate(rows):
        yield _of_line(row, f"ultrachat row {number}")


def pieces(documents: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """The documents' tokens in pieces of exactly `length`; what is left of a document is left out."""
    return [
        list(document[at : at + length])
        for document in documents
        for at in range(0, len(document) - length + 1, length)
    ]
