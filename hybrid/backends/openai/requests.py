"""Requests to a server with OpenAI's interface: what its replies and its errors mean."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from hybrid.backends.openai.body import BodyBuilder
from hybrid.backends.openai.limit import RequestLimit
from hybrid.backends.openai.refusals import cannot_use, is_about_all, is_about_schema, is_busy, is_too_long
from hybrid.backends.openai.reply import NamedReply, ReplyReader
from hybrid.backends.openai.schemas import SchemaSupport
from hybrid.backends.prompts import BadRequest, refused
from hybrid.backends.servers.answers import completion_of
from hybrid.backends.servers.connection import Connection
from hybrid.backends.servers.replies import ErrorReply, ReplyError, ServerUnavailable
from hybrid.backends.servers.retries import RetriedRequest
from hybrid.errors import Temporary
from hybrid.machine.terminal import clean_line
from hybrid.records import Completion, Failure, Request
from hybrid.thoughts import opened_by

LOG = logging.getLogger("hybrid")

LONGEST_BACKOFF = 30.0
"""Seconds between two attempts at a busy server that does not say when to come again."""


@dataclass(slots=True)
class Asking:
    """What the requests to one model share. `context`: tokens of prompt and completion, 0 when unknown."""

    builder: BodyBuilder
    context: int
    schemas: dict[str, Failure | None] = field(default_factory=dict)  # what is known of schemas (SchemaSupport)
    _answered_as: set[str] = field(default_factory=set)

    async def answer(
        self, connection: Connection, request: Request, *, schemas: SchemaSupport, limit: RequestLimit
    ) -> Completion:
        """The completion of a request, perhaps an error completion. Raises HybridError for what concerns all."""
        try:
            request = self.builder.model.chat_template.fit(request)
        except BadRequest as error:
            return refused(request, error)
        if request.adapter:
            return Completion(request.key, error=Failure("unsupported", "the server takes no adapter a request"))
        return await AskedRequest(self, connection, request, schemas, limit).completion()

    def note_model(self, model: str) -> None:
        """Say once when the server answers with a model that it calls otherwise: an alias, or another model."""
        if model and model not in (self.builder.model.name, *self._answered_as):
            self._answered_as.add(model)
            LOG.warning(
                "asked for '%s', the server says that '%s' has answered",
                clean_line(self.builder.model.name)[:200],
                clean_line(model)[:200],
            )


class AskedRequest(RetriedRequest):
    """One request to a server with OpenAI's interface."""

    def __init__(
        self, asking: Asking, connection: Connection, request: Request, schemas: SchemaSupport, limit: RequestLimit
    ) -> None:
        super().__init__(connection, request)
        self._asking, self._schemas, self._limit = asking, schemas, limit
        self._refusals = 0

    async def _sent(self) -> Completion | Failure | None:
        if (failure := await self._schemas.failure(self._connection, self._request)) is not None:
            return failure
        reader = ReplyReader(self._request.sampling.max_tokens)
        await self._connection.stream(*self._asking.builder.path_and_body(self._request), reader.take)
        return self._checked(reader.reply())

    def _checked(self, reply: NamedReply) -> Completion | Failure:
        """The completion, unless the context was full, or the server withheld the answer."""
        self._limit.answered()
        self._asking.note_model(reply.model)
        sampling, used = self._request.sampling, reply.prompt_tokens + reply.completion_tokens
        if reply.finish == "content_filter":
            return Failure("filtered", "the server has withheld the answer: its filter for contents")
        if reply.finish not in ("stop", "length"):
            raise ReplyError("engine", f"the server ended a reply because of '{reply.finish}'")
        cut = reply.finish == "length" and 0 < reply.completion_tokens < sampling.max_tokens
        if cut or 0 < self._asking.context < used - 1:
            told = f" of {self._asking.context}" if self._asking.context else ""
            return Failure("too-long", f"the context{told} was full after {reply.completion_tokens} new tokens")
        seconds = time.monotonic() - self._started
        return completion_of(self._request, reply, opened=self._opened(reply), seconds=seconds)

    def _opened(self, reply: NamedReply) -> str:
        """The mark of the thought that the prompt has opened, where the text may still be within it.

        The server may have cut an empty thought out: then a chat that came to its end is an answer.
        """
        if not self._request.messages:
            return opened_by(self._request.prompt)
        return self._asking.builder.model.chat_template.opens if reply.finish == "length" else ""

    async def _refused(self, error: ErrorReply) -> Failure | None:
        if is_too_long(error):
            told = f" of {self._asking.context} tokens" if self._asking.context else ""
            return Failure("too-long", f"the request does not fit into the context{told}: {error.message}")
        if is_busy(error):
            self._limit.refused()
            self._refusals += 1
            error.retry_after = error.retry_after or min(LONGEST_BACKOFF, 0.25 * 2**self._refusals)
            await self._connection.wait_while_busy(error)
            return None
        if is_about_all(error):
            raise cannot_use(error, self._connection.endpoint, self._asking.builder.model.name)
        about_schema = self._request.schema is not None and is_about_schema(error)
        if error.status in (0, *range(500, 600)) and not about_schema:
            return await self._retry("engine", error.message)
        return Failure("bad-schema" if about_schema else "bad-request", error.message)

    async def _check_server(self, message: str) -> None:
        endpoint = self._connection.endpoint
        try:
            await self._connection.get("/models")
        except (ErrorReply, ReplyError, ServerUnavailable) as error:
            raise Temporary(
                f"{endpoint.name} does not answer any more: {message}",
                hint=f"{endpoint.restart}; then run the same command again: nothing is lost",
            ) from error
