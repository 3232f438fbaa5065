"""The check, between answers, that a tag still names the model that was opened."""

from __future__ import annotations

from hybrid.backends.ollama.api import cannot_use, digest_in
from hybrid.backends.servers.connection import Connection
from hybrid.backends.servers.replies import ErrorReply
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line


async def refuse_changed(connection: Connection, name: str, digest: str) -> None:
    """Raise CannotRun when the server's model `name` is not that of this digest; ServerUnavailable, ReplyError."""
    try:
        _refuse_changed(name, digest, digest_in(await connection.get("/api/tags"), name))
    except ErrorReply as error:
        raise cannot_use(error, name) from error


def _refuse_changed(name: str, digest: str, found: str) -> None:
    """Raise CannotRun when the digest `found` is not that of the model that was opened."""
    name = clean_line(name)
    if not found:
        raise CannotRun(
            f"Ollama has no model '{name}' any more: it was removed while it was used",
            hint=f"hybrid models pull {name}; what was answered before is kept",
        )
    if found != digest:
        raise CannotRun(
            f"the model '{name}' is another one now: its digest was {digest[:12]} and is {found[:12]}",
            hint="what it answered before is kept, nothing after; `ollama cp` keeps a model under a name of its own",
        )
