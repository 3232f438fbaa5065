"""The reason why llama.cpp does not load a model: only its log says so, which is captured from stderr."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

ERROR = re.compile(r" E \S[^:]*: (?:.*error loading model: |failed to initialize the context: )?(?P<why>.*)")
LATE_SECONDS = 0.2
"""Time for llama.cpp's logging thread to write its last lines."""


def load_with_log(load: Callable[[], Any]) -> tuple[Any, str]:
    """The result of `load` and ""; or None and the first error in llama.cpp's log, "" when there is none."""
    with tempfile.TemporaryFile() as log:
        loaded = None
        with _stderr_into(log):
            try:
                loaded = load()
            except RuntimeError:
                time.sleep(LATE_SECONDS)
        log.seek(0)
        text = log.read(65536).decode("utf-8", "replace")
    found = ERROR.search(text)
    return loaded, found["why"].strip()[:300] if found else ""


@contextmanager
def _stderr_into(log: IO[bytes]) -> Iterator[None]:
    """Redirect file descriptor 2 (stderr) of the whole process, libraries included, into `log`."""
    sys.stderr.flush()
    saved = os.dup(2)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
