"""Examples made into tokens ahead of the training that wants them, in a process of its own.

Making and splitting the texts of a task takes a core for a while; while the device trains one group, the texts of the
next are made.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from hybrid.backends.prompts import BadRequest
from hybrid.backends.tuned.examples import texts_of
from hybrid.canonical import Json, digest
from hybrid.errors import Temporary
from hybrid.records import Example
from hybrid.training.jobs import Tokens
from hybrid.tuning import Tuning

Examples = Callable[[Mapping[str, Json]], Sequence[Example]]


@dataclass(frozen=True, slots=True)
class Built:
    """The texts of a training, how many examples were too long for the model, or why there are none."""

    texts: tuple[Tokens, ...] = ()
    left_out: int = 0
    error: str = ""


class TokenizationWorker:
    """Makes the texts of trainings. Trainings with the same examples and the same way of writing them share theirs."""

    def __init__(self, folder: Path, examples: Examples, context: int) -> None:
        self._folder, self._examples, self._context = folder, examples, context
        self._pool: ProcessPoolExecutor | None = None
        self._asked: dict[str, Future[Built]] = {}

    def built(self, tunings: Sequence[Tuning], *, ahead: Sequence[Tuning]) -> dict[str, Built]:
        """The texts of `tunings` by digest, waited for; those of `ahead` are begun. Raises Temporary.

        Texts that neither of the two needs are forgotten.
        """
        for tuning in (*tunings, *ahead):
            self._ask(tuning)
        try:
            found = {tuning.digest: self._asked[writing(tuning)].result() for tuning in tunings}
        except BrokenProcessPool as error:
            raise Temporary(
                "the process that makes the texts of training was killed: was memory short?", hint="run it again"
            ) from error
        wanted = {writing(tuning) for tuning in ahead}
        self._asked = {name: future for name, future in self._asked.items() if name in wanted}
        return found

    def _ask(self, tuning: Tuning) -> None:
        name = writing(tuning)
        if name in self._asked:
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), _enter, (str(self._folder), self._examples, self._context)
            )
        self._asked[name] = self._pool.submit(_build, tuning)

    def close(self) -> None:
        """End the process."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def writing(tuning: Tuning) -> str:
    """What names the texts of a training: trainings that differ in the rest alone have the same."""
    return digest([tuning.examples, tuning.learned, tuning.padding, tuning.texts])


_desk: dict[str, Any] = {}
"""What the process was given when it began."""


def _enter(folder: str, examples: Examples, context: int) -> None:
    """Ctrl-C is for the process that asks; this one ends when that one does, however that was."""
    if (parent := multiprocessing.parent_process()) is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    _desk.update(tokenizer=tokenizer, examples=examples, context=context)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _build(tuning: Tuning) -> Built:
    try:
        texts, left_out = texts_of(_desk["examples"](tuning.examples), tuning, _desk["tokenizer"], _desk["context"])
    except BadRequest as error:
        return Built(error=error.failure.message)
    return Built(texts, left_out)
