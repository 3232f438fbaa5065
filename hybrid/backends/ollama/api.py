"""Ollama's API: the server's address, model names and digests, and the error messages for its failures.

Replies are untrusted input: their size is bounded and their types are checked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from hybrid.backends.servers.connection import Endpoint
from hybrid.backends.servers.replies import MAX_REPLY, ErrorReply
from hybrid.canonical import Json, decode
from hybrid.errors import BadData, CannotRun, HybridError, Temporary
from hybrid.machine.terminal import clean_line

OLDEST_VERSION = (0, 13, 0)
"""The first version with `truncate`, `shift` and `logprobs`: an older one truncates prompts silently."""

PORT = 11434
CRASHED = (
    "has terminated",
    "unexpectedly stopped",
    "no longer running",
    "encountered while running",
    "unexpected server status",
    "failed to load",
    "error starting",
    "error reading llm response",
)
"""Parts of error messages that say that the runner process has ended. Ollama starts another one at the next request."""


def address(host: str = "") -> str:
    """The URL of the server: from `host`, else from OLLAMA_HOST, parsed as Ollama parses it; else loopback."""
    text = (host or os.environ.get("OLLAMA_HOST", "")).strip().strip("\"'")
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    where, _, path = rest.partition("/")
    name, port = _name_and_port(where)
    default = {"http": 80, "https": 443}.get(scheme, PORT) if found else PORT
    number = int(port) if port.isascii() and port.isdigit() and int(port) <= 65535 else default
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # noqa: S104 - an address to call
    shown = f"[{name}]" if ":" in name else name
    return f"{scheme}://{shown}:{number}{'/' + path.strip('/') if path.strip('/') else ''}"


def _name_and_port(where: str) -> tuple[str, str]:
    if where.startswith("["):
        name, _, port = where[1:].partition("]")
        return name, port.removeprefix(":")
    if where.count(":") > 1:  # an IPv6 address without brackets
        return where, ""
    name, _, port = where.partition(":")
    return name, port


def model_name(name: str) -> str:
    """A model's name as the server lists it: with its tag, without the default registry's prefix."""
    short = name.strip().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"


def digest_in(tags: Json, name: str) -> str:
    """The digest of the model `name` in a reply of /api/tags; "" when it is not listed. Raises BadData."""
    return digest_among(((str(one.get("name", "")), str(one.get("digest", ""))) for one in rows(tags, "models")), name)


def digest_among(models: Iterable[tuple[str, str]], name: str) -> str:
    """The digest of the model `name` among pairs of name and digest; "" when it is missing. Raises BadData."""
    wanted = model_name(name).casefold()
    for one, said in models:
        if model_name(one).casefold() == wanted:
            digest = said.removeprefix("sha256:")
            if len(digest) == 64 and not set(digest) - set("0123456789abcdef"):
                return digest
            raise BadData(f"Ollama names the model '{clean_line(name)}' by no digest: {clean_line(digest)[:80]!r}")
    return ""


def rows(value: Json, name: str) -> list[dict[str, Any]]:
    """The objects in the list `name` of a reply; none when there is no such list."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def error_in(data: bytes) -> str:
    """The message of an error reply: Ollama's member `error`, else the beginning of the reply."""
    try:
        value = decode(data, what="error", limit=MAX_REPLY)
    except BadData:
        value = None
    said = value.get("error") if isinstance(value, dict) else None
    if isinstance(said, str):
        return said
    return data[:300].decode(errors="replace") or "no reason given"


def is_recent(version: str) -> bool:
    """Whether a server of this version is supported; one that was built from source has version 0.0.0."""
    parts = version.partition("-")[0].partition("+")[0].split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return False
    numbers = tuple(map(int, parts))
    return numbers == (0, 0, 0) or numbers >= OLDEST_VERSION


def too_old(version: str) -> CannotRun:
    """The error for a server of an unsupported version."""
    oldest = ".".join(map(str, OLDEST_VERSION))
    return CannotRun(
        f"Ollama {version or 'of an unknown version'} is an old version: it may cut a prompt without saying so",
        hint=f"install Ollama {oldest} or newer, and restart it",
    )


def not_reachable(url: str, error: Exception) -> Temporary:
    """The error for a server that is unavailable; its hint depends on whether the program `ollama` is installed."""
    reason = clean_line(str(error))[:200]
    if shutil.which("ollama") is None:
        return Temporary(
            f"no Ollama server answers at {url} ({reason}), and the program `ollama` is not installed here",
            hint="install Ollama and start it: ollama serve; a server elsewhere is named by OLLAMA_HOST",
        )
    return Temporary(
        f"Ollama is not running: no server answers at {url} ({reason})",
        hint="start it: ollama serve; a server elsewhere is named by OLLAMA_HOST",
    )


def no_model(name: str, here: list[str]) -> CannotRun:
    """The error for a model that the server does not have; `here` are the names of those it has."""
    others = ", ".join(clean_line(one) for one in here[:5]) or "none"
    return CannotRun(
        f"Ollama has no model '{clean_line(name)}'",
        hint=f"hybrid models pull {clean_line(name)}, or make it: ollama create {clean_line(name)} -f Modelfile; "
        f"here are: {others}",
    )


def cannot_use(error: ErrorReply, name: str) -> HybridError:
    """The error for an error reply that concerns every request to this model."""
    text, name = error.message, clean_line(name)
    if "more system memory" in text or "memory" in text.lower():
        return CannotRun(
            f"Ollama has too little memory for '{name}': {text}",
            hint="a smaller context (--backend-option context=2048), OLLAMA_NUM_PARALLEL=1, or a smaller quantisation",
        )
    if error.status == 404 or "not found" in text:
        return no_model(name, [])
    if error.status in (401, 403) or "unauthorized" in text:
        return CannotRun(f"Ollama refuses '{name}': {text}", hint="ollama signin, or a model that runs on this machine")
    if "does not support" in text or error.status == 400:
        return CannotRun(f"Ollama cannot use '{name}' for this: {text}", hint=f"ollama show {name} tells what it can")
    if error.status == 503:
        return Temporary(f"Ollama is busy: {text}", hint="run the same command again, or raise OLLAMA_MAX_QUEUE")
    return Temporary(
        f"Ollama cannot run '{name}': {text}", hint="Ollama's log says why; then run the same command again"
    )


def endpoint(url: str) -> Endpoint:
    """The Ollama server at `url`."""
    return Endpoint(
        url=url,
        name="Ollama",
        unreachable=not_reachable,
        error_in=error_in,
        restart="restart it (`ollama serve`)",
        when_busy=", or raise OLLAMA_MAX_QUEUE",
    )
