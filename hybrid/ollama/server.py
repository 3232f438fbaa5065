"""The server's life: started with what it needs and nothing more, waited for, and ended with all that it started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hybrid.errors import CannotRun, HybridError, Temporary
from hybrid.machine.files import speaking
from hybrid.machine.redaction import SECRET_NAME, redacted
from hybrid.machine.terminal import clean_line
from hybrid.ollama import posix
from hybrid.ollama.address import Address, version

READY_S, GRACE_S, SETTLED_S = 120.0, 10.0, 0.3
"""Longest wait for the first answer, for an orderly end, and for a server that finds its port taken after all."""

WANTED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|SSL_CERT_(?:FILE|DIR)"
    r"|(?:https?|no|all)_proxy|(?:HTTPS?|NO|ALL)_PROXY"
    r"|(?:OLLAMA|GGML|CUDA|NVIDIA|HIP|HSA|ROCR|ROCM|GPU|VK|OMP|GOMP|KMP)_\w+"
)
"""The variables that a server is given: where things are, the way out, and what tunes it and its GPU."""

LAST_LINES, LONGEST_LINE = 3, 300


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is run: where, requests at once of one model, tokens of context (0: its own choice)."""

    address: Address
    store: Path
    log: Path
    parallel: int = 4
    context: int = 0

    def environment(self) -> dict[str, str]:
        """What the server is given. The user's own OLLAMA_* variables count where no option does; secrets never go.

        It keeps a model for half an hour without a request, so that a pause of the worker does not load it again, and
        other users of the GPU get the memory in the end. It deletes no layers at its start: of a model that is being
        restored no manifest is there yet.
        """
        given = {name: value for name, value in os.environ.items() if WANTED.fullmatch(name)}
        own = {
            "OLLAMA_HOST": str(self.address),
            "OLLAMA_MODELS": str(self.store),
            "OLLAMA_NUM_PARALLEL": str(self.parallel),
            "OLLAMA_NOPRUNE": "1",
        }
        if self.context:
            own["OLLAMA_CONTEXT_LENGTH"] = str(self.context)
        kept = {name: value for name, value in given.items() if not SECRET_NAME.search(name)}
        return {"OLLAMA_KEEP_ALIVE": "30m", **kept, **own}


class Server:
    """A server that was started and answers. `version` is its own word."""

    def __init__(self, guarded: subprocess.Popen[bytes], settings: Settings, begin: int) -> None:
        self.settings, self.version = settings, ""
        self._guarded, self._begin = guarded, begin

    def ended(self) -> HybridError | None:
        """What is to be said when the server is no more, with the last lines of its log; None while it lives."""
        code = self._guarded.poll()
        if code is None:
            return None
        return Temporary(f"Ollama ended ({_how(code)}): {self.last_words()}", hint=f"its log: {self.settings.log}")

    def last_words(self) -> str:
        """The last lines of the log since this server's start, on one line and without secrets."""
        try:
            with self.settings.log.open("rb") as log:
                log.seek(max(self._begin, log.seek(0, os.SEEK_END) - 10_000))
                text = log.read(10_000).decode(errors="replace")
        except OSError:
            return "its log is gone"
        lines = [clean_line(redacted(line), LONGEST_LINE) for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-LAST_LINES:]) or "it said nothing"

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for the first answer. Raises CannotRun when the server ends or does not come."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._refuse_dead()
            try:
                found = version(self.settings.address)
            except CannotRun:
                found = None  # it listens before it answers
            if found:
                time.sleep(SETTLED_S)  # another server may have taken the port first: then ours is about to end
                self._refuse_dead()
                self.version = found
                return
            time.sleep(0.1)
        raise CannotRun(
            f"Ollama did not answer at {self.settings.address} for {seconds:.0f} s: {self.last_words()}",
            hint=f"its log: {self.settings.log}",
        )

    def stop(self) -> None:
        """End the server and its children: in order first, then at once. Harmless when it has ended."""
        if self._guarded.stdin:
            self._guarded.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # a call to a GPU may hold it in the kernel: nobody can end it then
            self._guarded.wait(3 * GRACE_S)

    def _refuse_dead(self) -> None:
        if error := self.ended():
            raise CannotRun(error.message, hint=error.hint)


@contextmanager
def started(binary: Path, settings: Settings, *, seconds: float = READY_S) -> Iterator[Server]:
    """A server that answers while the block runs. Raises CannotRun when it cannot be started, with its last words."""
    for folder in (settings.store, settings.log.parent):
        with speaking(folder, doing="making it"):
            folder.mkdir(parents=True, exist_ok=True)
    with speaking(settings.log, doing="opening it"), settings.log.open("ab") as log:
        begin = log.tell()  # the server moves it
        server = Server(_guarded([str(binary), "serve"], settings, log), settings, begin)
    try:
        server.wait_until_ready(seconds)
        yield server
    finally:
        server.stop()


def _guarded(command: list[str], settings: Settings, log: IO[bytes]) -> subprocess.Popen[bytes]:
    guarded = [sys.executable, "-I", posix.__file__, str(GRACE_S), *command]
    environment = settings.environment()
    return subprocess.Popen(  # noqa: S603
        guarded,
        env=environment,
        cwd=settings.store,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _how(code: int) -> str:
    return f"exit code {code}" if code < 128 else f"signal {256 - code}"
