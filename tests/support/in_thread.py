"""Training texts that are made in a thread instead of a process, which takes seconds to start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid.backends.tuned import tokenization


class InThread(ThreadPoolExecutor):
    """Takes the place of the process that makes texts, where the process itself is not looked at: it takes seconds."""

    def __init__(self, workers: int, context: object, enter: Callable[..., None], given: Iterable[object]) -> None:
        super().__init__(workers, "texts", enter, tuple(given))


@pytest.fixture
def in_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are made in a thread."""
    monkeypatch.setattr(tokenization, "ProcessPoolExecutor", InThread)
