"""Why llama.cpp does not load a model: it says so in its log alone, which is read from the error output."""

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
"""For lines that llama.cpp's own thread has not written yet."""


def tried_again(load: Callable[[], Any]) -> tuple[Any, str]:
    """What `load` makes, or None and the first error in llama.cpp's log, "" when there is none."""
    with tempfile.TemporaryFile() as log:
        made = None
        with _errors_into(log):
            try:
                made = load()
            except RuntimeError:
                time.sleep(LATE_SECONDS)
        log.seek(0)
        text = log.read(65536).decode("utf-8", "replace")
    found = ERROR.search(text)
    return made, found["why"].strip()[:300] if found else ""


@contextmanager
def _errors_into(log: IO[bytes]) -> Iterator[None]:
    """What any thread writes to the error output goes into `log`, also what a library writes."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
