"""Render and tokenize training examples: few in this process, many in a worker process, a group ahead of the training.

Tokenization takes CPU time, so the texts of the next group are tokenized while the device trains this one. The worker
process needs seconds to import its libraries, so it is only started when the texts of a group have taken about as long.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
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
SHORT = 2.0
"""Seconds of tokenization for a group, above which a worker process tokenizes the rest."""


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

    def __init__(self, folder: Path, examples: Examples, context: int, short: float = SHORT) -> None:
        self._folder, self._examples, self._context = folder, examples, context
        self._left = self._short = short
        self._here: Tokenization | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._processes = _Processes()
        self._submitted: dict[str, Future[TokenizedTexts]] = {}

    def tokenized(self, tunings: Sequence[Tuning], *, ahead: Sequence[Tuning]) -> dict[str, TokenizedTexts]:
        """Tuning digest -> texts of `tunings`. A worker process starts to tokenize those of `ahead`; drops all others.

        Raises Temporary when the worker process was killed.
        """
        self._left = self._short
        try:
            for tuning in tunings:
                self._submit(tuning)
            if self._pool or self._left <= 0:
                for tuning in ahead:
                    self._submit(tuning)
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
        if self._pool is None and self._left > 0:
            self._submitted[name] = self._tokenized_here(tuning)
            return
        if self._pool is None:
            arguments = str(self._folder), self._examples, self._context
            self._pool = ProcessPoolExecutor(1, self._processes, _start, arguments)
        self._submitted[name] = self._pool.submit(_tokenize, tuning)

    def _tokenized_here(self, tuning: Tuning) -> Future[TokenizedTexts]:
        if self._here is None:
            self._here = Tokenization(str(self._folder), self._examples, self._context)
        done: Future[TokenizedTexts] = Future()
        started = time.monotonic()
        done.set_result(self._here.texts(tuning))
        self._left -= time.monotonic() - started
        return done

    def close(self) -> None:
        """Free the tokenizer and end the process, also in the middle of a text."""
        self._here = None
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        while self._processes.started:
            self._processes.started.pop().kill()


def text_digest(tuning: Tuning) -> str:
    """A digest of the settings that determine the texts of a training."""
    return digest([tuning.examples, tuning.learned, tuning.padding, tuning.texts])


class Tokenization:
    """A tokenizer, the examples of tunings, and the model's context in tokens."""

    def __init__(self, folder: str, examples: Examples, context: int) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._examples, self._context = examples, context

    def texts(self, tuning: Tuning) -> TokenizedTexts:
        """The texts of a training. A bad example is an error of the training; what `examples` raises is raised."""
        try:
            return TokenizedTexts(*texts_of(self._examples(tuning.examples), tuning, self._tokenizer, self._context))
        except BadRequest as error:
            return TokenizedTexts(error=error.failure.message)


_worker: list[Tokenization] = []
"""That of the worker process."""


def _start(folder: str, examples: Examples, context: int) -> None:
    """Initialize the worker process: it ignores Ctrl-C and ends when the parent process ends."""
    if (parent := multiprocessing.parent_process()) is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    _worker[:] = [Tokenization(folder, examples, context)]


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _tokenize(tuning: Tuning) -> TokenizedTexts:
    return _worker[0].texts(tuning)
