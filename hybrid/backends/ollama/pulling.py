"""Have an Ollama server pull a model from a registry, with progress and explained errors.

The server writes the files. It keeps what it has fetched of a layer when the client disconnects, and resumes there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hybrid.backends.ollama.api import digest_among
from hybrid.backends.ollama.server import Server
from hybrid.backends.servers.replies import ErrorReply
from hybrid.errors import CannotRun, HybridError, Temporary, UsageError
from hybrid.machine.terminal import clean_line

STALLED = 600.0
"""Seconds without progress after which the pull is given up: the server itself retries for ever."""

AGAIN = "run the same command again: what has come is kept"
INSECURE = "--insecure, if it is a registry of yours that speaks HTTP without TLS"

REASONS: tuple[tuple[str, type[HybridError], str, str], ...] = (
    ("no space left|disk quota", Temporary, "the disk of Ollama's store is full", f"free some space, then {AGAIN}"),
    ("permission denied|read-only", CannotRun, "Ollama may not write to its store", "whose is its folder `models`?"),
    ("manifest: file does not exist", CannotRun, "its registry has no such model", "look at the name and the tag"),
    ("file does not exist", Temporary, "its registry lacks a part of it", f"is it still being put there? {AGAIN}"),
    ("invalid model name", UsageError, "that is no name of a model", "NAME:TAG, USER/NAME:TAG or HOST/USER/NAME:TAG"),
    ("look like a TLS handshake|HTTP response to HTTPS", UsageError, "its registry does not speak TLS", INSECURE),
    ("x509|certificate|tls:", CannotRun, "its registry has no certificate that Ollama trusts", INSECURE),
    ("newer version|: 412:", CannotRun, "this Ollama is too old for it", "install a newer Ollama, and restart it"),
    ("unauthorized|denied|realm|: 40[13]:", CannotRun, "its registry refuses it", "is it private? ollama signin"),
    ("digest mismatch", Temporary, "what came was damaged, and is thrown away", "run the same command again"),
    (": (429|5..):", Temporary, "its registry is overloaded or broken", f"later, {AGAIN}"),
    ("dial|lookup|network|time.?out|deadline|EOF|reset|max retries", Temporary, "no way to its registry", AGAIN),
)
"""A pattern searched in the server's error, the error class to raise, its meaning, and the hint."""


@dataclass(frozen=True, slots=True)
class PullStatus:
    """The progress of a pull: for a layer its digest, and its completed and total bytes."""

    status: str
    digest: str = ""
    completed: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A pulled model: its name on the server, the sha256 of its manifest, and the bytes of its layers."""

    name: str
    digest: str
    size: int


def pull(name: str, on_status: Callable[[PullStatus], None], *, insecure: bool = False) -> PulledModel:
    """Have the server that OLLAMA_HOST names pull a model; `on_status` is called with each change.

    Raises Temporary (no server, no way to the registry, the disk is full), CannotRun, UsageError, BadData.
    """
    server = Server()
    try:
        server.version()  # an unavailable server is reported as such first
        for status in _statuses(server, name, insecure=insecure):
            on_status(status)
        found = {one.model or "": (one.digest or "", one.size or 0) for one in server.models()}
        digest = digest_among(((one, said) for one, (said, _) in found.items()), name)
        if not digest:
            raise Temporary(f"Ollama says that it has fetched '{name}', and does not list it", hint=AGAIN)
        return PulledModel(name, digest, next(size for said, size in found.values() if said.endswith(digest)))
    except ErrorReply as error:
        raise _reason(error, name) from error
    finally:
        server.close()


def _statuses(server: Server, name: str, *, insecure: bool) -> Iterator[PullStatus]:
    last, since = PullStatus(""), time.monotonic()
    for one in server.pull(name, insecure=insecure):
        status = PullStatus(
            clean_line(one.status or "")[:80],
            (one.digest or "")[:80],
            max(0, one.completed or 0),
            max(0, one.total or 0),
        )
        if status != last:
            last, since = status, time.monotonic()
            yield status
        elif time.monotonic() - since > STALLED:
            raise Temporary(f"nothing more of '{name}' has come for {STALLED:g} seconds", hint=f"later, {AGAIN}")
    if last.status != "success":
        raise Temporary(f"Ollama stopped fetching '{name}' in the middle: {last.status}", hint=AGAIN)


def _reason(error: ErrorReply, name: str) -> HybridError:
    for pattern, kind, meaning, hint in REASONS:
        if re.search(pattern, error.message, re.IGNORECASE):
            return kind(f"Ollama cannot fetch '{name}': {meaning}: {error.message}", hint=hint)
    return Temporary(f"Ollama cannot fetch '{name}': {error.message}", hint=f"its log says why; then {AGAIN}")
