"""The check, between answers, that a name still names the model that was opened."""

from __future__ import annotations

from hybrid.backends.openai.refusals import cannot_use, is_busy, no_such_model
from hybrid.backends.openai.served_model import ServedModel, entry_of, told_of
from hybrid.backends.servers.connection import Connection
from hybrid.backends.servers.replies import ErrorReply, ReplyError
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line


async def refuse_changed(connection: Connection, model: ServedModel) -> None:
    """Raise CannotRun when the server's list has another model under this name; ServerUnavailable, ReplyError."""
    try:
        listed = (await connection.get("/models")).get("data")
    except ErrorReply as error:
        if is_busy(error):
            raise ReplyError("engine", error.message) from error
        raise cannot_use(error, connection.endpoint, model.name) from error
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    row = entry_of(rows, model.name)
    if row is None:
        raise no_such_model(connection.endpoint, model.name, [str(one.get("id", "")) for one in rows])
    if any(model.identity.get(name) != value for name, value in told_of(row).items()):
        raise CannotRun(
            f"the model '{clean_line(model.name)}' of {connection.endpoint.name} is another one now",
            hint="what it answered before is kept, nothing after",
        )
