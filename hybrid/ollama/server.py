"""Starts an Ollama server with a minimal environment, waits until it answers, and stops it with its child processes."""

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
from hybrid.machine import guard
from hybrid.machine.files import explain_errors
from hybrid.machine.redaction import SECRET_NAME, redacted
from hybrid.machine.terminal import clean_line
from hybrid.ollama.address import Address, version

READY_SECONDS, GRACE_SECONDS, SETTLED_SECONDS = 120.0, 10.0, 0.3
"""Seconds to wait for the first answer, for an orderly stop, and for a server that finds its port in use."""

PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|SSL_CERT_(?:FILE|DIR)"
    r"|(?:https?|no|all)_proxy|(?:HTTPS?|NO|ALL)_PROXY"
    r"|(?:OLLAMA|GGML|CUDA|NVIDIA|HIP|HSA|ROCR|ROCM|GPU|VK|OMP|GOMP|KMP)_\w+"
)
"""Environment variables that the server gets: paths, language, proxies, certificates, settings of Ollama and GPUs."""

LAST_LINES, LONGEST_LINE = 3, 300


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a server. `parallel`: concurrent requests per model; `context` in tokens, 0 for Ollama's default."""

    address: Address
    store: Path
    log: Path
    parallel: int = 4
    context: int = 0

    def environment(self) -> dict[str, str]:
        """The server's environment. The user's OLLAMA_* variables apply where there is no option; secrets are never
        passed.

        A model stays loaded for half an hour without a request, so that a pause of the worker does not reload it, and
        the GPU's memory is freed in the end. The server deletes no layers at its start, since a model that is being
        restored has no manifest yet.
        """
        given = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
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
    """A running server. `version` is as it reports it."""

    def __init__(self, guarded: subprocess.Popen[bytes], settings: Settings, log_start: int) -> None:
        self.settings, self.version = settings, ""
        self._process, self._log_start = guarded, log_start

    def ended(self) -> HybridError | None:
        """The error, with the last lines of the log, when the server has ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return Temporary(
            f"Ollama ended ({_exit_reason(code)}): {self.log_tail()}", hint=f"its log: {self.settings.log}"
        )

    def log_tail(self) -> str:
        """The last lines of the log since this server's start, joined, with secrets redacted."""
        try:
            with self.settings.log.open("rb") as log:
                log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 10_000))
                text = log.read(10_000).decode(errors="replace")
        except OSError:
            return "its log is gone"
        lines = [clean_line(redacted(line), LONGEST_LINE) for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-LAST_LINES:]) or "it said nothing"

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for the first answer. Raises CannotRun when the server ends or does not answer."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._refuse_ended()
            try:
                found = version(self.settings.address)
            except CannotRun:
                found = None  # it accepts connections before it answers
            if found:
                time.sleep(SETTLED_SECONDS)  # another server may own the port: then ours is about to end
                self._refuse_ended()
                self.version = found
                return
            time.sleep(0.1)
        raise CannotRun(
            f"Ollama did not answer at {self.settings.address} for {seconds:.0f} s: {self.log_tail()}",
            hint=f"its log: {self.settings.log}",
        )

    def stop(self) -> None:
        """Stop the server and its child processes: SIGTERM, then SIGKILL. Does nothing when it has ended."""
        if self._process.stdin:
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # a process in a GPU system call may not be killable
            self._process.wait(3 * GRACE_SECONDS)

    def _refuse_ended(self) -> None:
        if error := self.ended():
            raise CannotRun(error.message, hint=error.hint)


@contextmanager
def started(binary: Path, settings: Settings, *, seconds: float = READY_SECONDS) -> Iterator[Server]:
    """A server that runs for the block. Raises CannotRun, with the end of its log, when it cannot be started."""
    for folder in (settings.store, settings.log.parent):
        with explain_errors(folder, doing="making it"):
            folder.mkdir(parents=True, exist_ok=True)
    with explain_errors(settings.log, doing="opening it"), settings.log.open("ab") as log:
        log_start = log.tell()  # the server appends to it
        server = Server(_start_guarded([str(binary), "serve"], settings, log), settings, log_start)
    try:
        server.wait_until_ready(seconds)
        yield server
    finally:
        server.stop()


def _start_guarded(command: list[str], settings: Settings, log: IO[bytes]) -> subprocess.Popen[bytes]:
    guarded = [sys.executable, "-I", guard.__file__, str(GRACE_SECONDS), *command]
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


def _exit_reason(code: int) -> str:
    return f"exit code {code}" if code < 128 else f"signal {256 - code}"
