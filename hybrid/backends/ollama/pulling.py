"""A model fetched from a registry by an Ollama server: how far it is, what came of it, and what stands in the way.

The server writes the files and goes on where it was: what it has of a layer it keeps, whoever stops listening.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hybrid.backends.ollama.client import Refused, digest_among
from hybrid.backends.ollama.server import Server
from hybrid.errors import CannotRun, HybridError, Temporary, UsageError
from hybrid.machine.terminal import clean_line

STALLED = 600.0
"""Seconds without a byte more: the server itself asks a silent registry again and again, for ever."""

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
"""What is found in the server's words, the error that it is, what that means, and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the server is at: a layer that it fetches, by its digest, with bytes of it; or something else."""

    status: str
    digest: str = ""
    completed: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that the server has: its name there, the sha256 of its manifest, bytes of its layers."""

    name: str
    digest: str
    size: int


def pull(name: str, tell: Callable[[Step], None], *, insecure: bool = False) -> Pulled:
    """Have the server that OLLAMA_HOST names fetch a model; `tell` hears of its steps as they change.

    Raises Temporary (no server, no way to the registry, the disk is full), CannotRun, UsageError, BadData.
    """
    server = Server()
    try:
        server.version()  # a server that is away is told as such before anything else
        for step in _steps(server, name, insecure=insecure):
            tell(step)
        found = {one.model or "": (one.digest or "", one.size or 0) for one in server.models()}
        digest = digest_among(((one, said) for one, (said, _) in found.items()), name)
        if not digest:
            raise Temporary(f"Ollama says that it has fetched '{name}', and does not list it", hint=AGAIN)
        return Pulled(name, digest, next(size for said, size in found.values() if said.endswith(digest)))
    except Refused as error:
        raise _reason(error, name) from error
    finally:
        server.close()


def _steps(server: Server, name: str, *, insecure: bool) -> Iterator[Step]:
    last, since = Step(""), time.monotonic()
    for one in server.pull(name, insecure=insecure):
        step = Step(
            clean_line(one.status or "")[:80],
            (one.digest or "")[:80],
            max(0, one.completed or 0),
            max(0, one.total or 0),
        )
        if step != last:
            last, since = step, time.monotonic()
            yield step
        elif time.monotonic() - since > STALLED:
            raise Temporary(f"nothing more of '{name}' has come for {STALLED:g} seconds", hint=f"later, {AGAIN}")
    if last.status != "success":
        raise Temporary(f"Ollama stopped fetching '{name}' in the middle: {last.status}", hint=AGAIN)


def _reason(error: Refused, name: str) -> HybridError:
    for words, kind, means, do in REASONS:
        if re.search(words, error.message, re.IGNORECASE):
            return kind(f"Ollama cannot fetch '{name}': {means}: {error.message}", hint=do)
    return Temporary(f"Ollama cannot fetch '{name}': {error.message}", hint=f"its log says why; then {AGAIN}")
