"""Render and tokenize training examples in a worker process, one group ahead of the training.

Tokenization takes CPU time, so the texts of the next group are tokenized while the device trains this one.
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
from multiprocessing.context import SpawnContext, SpawnProcess
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
class TokenizedTexts:
    """The tokenized texts of a training, and how many examples were too long for the model; or why there are none."""

    texts: tuple[Tokens, ...] = ()
    left_out: int = 0
    error: str = ""


class _Processes(SpawnContext):
    """Starts processes for a pool and keeps them, to end them: Python waits at its end for what a pool has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **settings: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        self.started.append(process := SpawnProcess(*args, **settings))
        return process


class TokenizationWorker:
    """Tokenizes the texts of trainings. Trainings with equal examples and equal rendering share their texts."""

    def __init__(self, folder: Path, examples: Examples, context: int) -> None:
        self._folder, self._examples, self._context = folder, examples, context
        self._pool: ProcessPoolExecutor | None = None
        self._processes = _Processes()
        self._submitted: dict[str, Future[TokenizedTexts]] = {}

    def tokenized(self, tunings: Sequence[Tuning], *, ahead: Sequence[Tuning]) -> dict[str, TokenizedTexts]:
        """Tuning digest -> texts of `tunings`. Starts to tokenize those of `ahead`; drops all others.

        Raises Temporary when the worker process was killed.
        """
        for tuning in (*tunings, *ahead):
            self._submit(tuning)
        try:
            found = {tuning.digest: self._submitted[text_digest(tuning)].result() for tuning in tunings}
        except BrokenProcessPool as error:
            raise Temporary(
                "the process that tokenizes training examples was killed: was memory short?", hint="run it again"
            ) from error
        wanted = {text_digest(tuning) for tuning in ahead}
        self._submitted = {name: future for name, future in self._submitted.items() if name in wanted}
        return found

    def _submit(self, tuning: Tuning) -> None:
        name = text_digest(tuning)
        if name in self._submitted:
            return
        if self._pool is None:
            arguments = str(self._folder), self._examples, self._context
            self._pool = ProcessPoolExecutor(1, self._processes, _start, arguments)
        self._submitted[name] = self._pool.submit(_tokenize, tuning)

    def close(self) -> None:
        """End the process, also in the middle of a text."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        while self._processes.started:
            self._processes.started.pop().kill()


def text_digest(tuning: Tuning) -> str:
    """A digest of the settings that determine the texts of a training."""
    return digest([tuning.examples, tuning.learned, tuning.padding, tuning.texts])


_state: dict[str, Any] = {}
"""The worker process's arguments: tokenizer, examples, context."""


def _start(folder: str, examples: Examples, context: int) -> None:
    """Initialize the worker process: it ignores Ctrl-C and ends when the parent process ends."""
    if (parent := multiprocessing.parent_process()) is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    _state.update(tokenizer=tokenizer, examples=examples, context=context)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _tokenize(tuning: Tuning) -> TokenizedTexts:
    try:
        texts, left_out = texts_of(_state["examples"](tuning.examples), tuning, _state["tokenizer"], _state["context"])
    except BadRequest as error:
        return TokenizedTexts(error=error.failure.message)
    return TokenizedTexts(texts, left_out)
