"""Whether a server enforces JSON schemas: some pass over them in silence, so each way of asking is tried once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from hybrid.backends.llama_schemas import refusal
from hybrid.backends.openai.address import root_of
from hybrid.backends.openai.body import BodyBuilder
from hybrid.backends.openai.refusals import is_about_all, is_about_schema, is_busy
from hybrid.backends.openai.reply import ReplyReader
from hybrid.backends.servers.connection import Connection
from hybrid.backends.servers.replies import ErrorReply
from hybrid.canonical import digest
from hybrid.records import Failure, Message, Request, Sampling

WORD = "kelvormis"
ONE_WORD = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": [WORD]}},
    "required": ["word"],
    "additionalProperties": False,
}
"""A schema with one answer, which no model gives by itself."""

QUESTION = (Message("user", "Hello"),)
IGNORED = "the server passes over JSON schemas: an answer would not be held to it"


class SchemaSupport:
    """What is `known` of one server, asked once for each way of asking. Belongs to one event loop."""

    def __init__(self, builder: BodyBuilder, known: dict[str, Failure | None]) -> None:
        self._builder, self._known = builder, known
        self._turn = asyncio.Lock()

    async def failure(self, connection: Connection, request: Request) -> Failure | None:
        """Why the schema of a request would not be enforced; None when it is, and for a request without one.

        Raises ErrorReply, ReplyError, ServerUnavailable.
        """
        if request.schema is None:
            return None
        kind, raw = self._builder.model.kind, not request.messages
        if raw and not kind:
            return Failure("unsupported", "OpenAI's interface has no JSON schema for a raw prompt: ask it as a chat")
        if kind == "llama.cpp" and (failure := refusal(request.schema, "llama.cpp")):
            return failure
        each = raw and kind == "llama.cpp"
        name = digest(request.schema) if each else "raw" if raw else "chat"
        async with self._turn:  # the first of many requests asks for all
            if name not in self._known:
                asked = self._of_llama_cpp(connection, request.schema) if each else self._of_one_word(connection, raw)
                self._known[name] = await asked
        return self._known[name]

    async def _of_one_word(self, connection: Connection, raw: bool) -> Failure | None:
        """Ask with the schema that has one answer."""
        asked: dict[str, Any] = {"prompt": "Hello"} if raw else {"messages": QUESTION}
        request = Request(Sampling(64), schema=ONE_WORD, **asked)
        reader = ReplyReader(request.sampling.max_tokens)
        try:
            await connection.stream(*self._builder.path_and_body(request), reader.take)
        except ErrorReply as error:
            if is_about_all(error) or is_busy(error) or not (is_about_schema(error) or error.status in (400, 422)):
                raise
            return Failure("unsupported", f"the server takes no JSON schema: {error.message}")
        try:
            held = json.loads(reader.reply().text) == {"word": WORD}
        except ValueError:
            held = False
        return None if held else Failure("unsupported", IGNORED)

    async def _of_llama_cpp(self, connection: Connection, schema: Mapping[str, Any]) -> Failure | None:
        """Of a raw prompt llama.cpp passes over a schema that it cannot read, so every schema is tried.

        The request forces a token that no JSON text begins with; a schema that is enforced forbids it.
        """
        root = root_of(connection.endpoint.url)
        tokens = (await connection.post(f"{root}/tokenize", {"content": "x"})).get("tokens")
        forced = {"n_predict": 1, "temperature": 0, "logit_bias": [[tokens[-1], 1000.0]]}
        body = {"prompt": "a", **forced, "json_schema": dict(schema)}
        try:
            said = (await connection.post(f"{root}/completion", body)).get("content")
        except ErrorReply as error:
            if is_busy(error) or is_about_all(error):
                raise
            said = "x"
        return Failure("bad-schema", "llama.cpp cannot enforce this schema") if said == "x" else None
