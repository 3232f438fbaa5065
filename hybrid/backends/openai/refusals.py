"""Error replies of a server, as what they mean: for every request to the model, or for one of them."""

from __future__ import annotations

from hybrid.backends.openai.address import error_object, key_advice
from hybrid.backends.servers.connection import Endpoint
from hybrid.backends.servers.replies import ErrorReply
from hybrid.errors import CannotRun, HybridError, Temporary, listed
from hybrid.machine.terminal import clean_line

BUSY = (408, 409, 425, 429, 503, 529)
"""Statuses after which the same request is sent again."""

NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
TOO_LONG = ("context length", "context size", "context window", "context_length", "maximum context", "too many tokens")
ABOUT_SCHEMA = ("schema", "grammar", "response_format", "structured", "json")


def is_about_all(error: ErrorReply) -> bool:
    """Whether no other request would be answered either."""
    return error.status in (401, 402, 403, 404, 405) or 300 <= error.status < 400 or _code(error) in NO_MONEY


def is_too_long(error: ErrorReply) -> bool:
    """Whether prompt and answer do not fit into the context."""
    said = f"{error.message} {_code(error)} {error_object(error.body).get('type', '')}".lower()
    return error.status in (0, 400, 413, 422) and any(words in said for words in (*TOO_LONG, "exceed_context"))


def is_about_schema(error: ErrorReply) -> bool:
    """Whether the server cannot enforce the schema of the request."""
    return any(word in error.message.lower() for word in ABOUT_SCHEMA)


def is_busy(error: ErrorReply) -> bool:
    """Whether the server asks to be asked again later."""
    return error.status in BUSY and _code(error) not in NO_MONEY


def cannot_use(error: ErrorReply, endpoint: Endpoint, name: str) -> HybridError:
    """The error for an error reply that concerns every request to this model."""
    name, said = clean_line(name)[:200], f"{endpoint.name} says: {error.message}"
    if error.status in (401, 403):
        return CannotRun(f"{said} (status {error.status})", hint=key_advice(endpoint))
    if error.status == 402 or _code(error) in NO_MONEY:
        return CannotRun(said, hint="there is no credit left for this key; what was answered before is kept")
    if 300 <= error.status < 400:
        return CannotRun(f"{endpoint.name} sends to another place, which is not followed", hint="name that place: url=")
    if error.status in (404, 405):
        return CannotRun(
            f"{said}; asked for '{name}'", hint="is the model still there, and does the address end in /v1?"
        )
    if is_busy(error):
        return Temporary(said, hint="run the same command again later")
    return Temporary(said, hint="its log may say why; then run the same command again")


def no_such_model(endpoint: Endpoint, name: str, here: list[str]) -> CannotRun:
    """The error for a model that the server does not list; `here` are the names of those it has."""
    known = listed(clean_line(one) for one in here if one)
    return CannotRun(
        f"{endpoint.name} has no model '{clean_line(name)[:200]}'",
        hint=f"--model NAME, one of: {known}" if known else "it lists no model: load one in it first",
    )


def _code(error: ErrorReply) -> str:
    return str(error_object(error.body).get("code", ""))
