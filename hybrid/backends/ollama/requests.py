"""From a request to a body for Ollama's API, and what its replies and its errors mean."""

from __future__ import annotations

import time
from typing import Any

from hybrid.backends.llama_schemas import refusal
from hybrid.backends.ollama.api import CRASHED, cannot_use
from hybrid.backends.ollama.concurrency import ConcurrencyLimit
from hybrid.backends.ollama.context_window import ContextWindow
from hybrid.backends.ollama.loading import LoadSettings
from hybrid.backends.ollama.model_info import ModelInfo
from hybrid.backends.ollama.rendering import HINT
from hybrid.backends.ollama.reply import REPEATS, ReplyReader, TimedReply
from hybrid.backends.prompts import BadRequest, refused
from hybrid.backends.servers.answers import completion_of
from hybrid.backends.servers.connection import Connection
from hybrid.backends.servers.replies import ErrorReply, ReplyError, ServerUnavailable, TruncatedReply
from hybrid.backends.servers.retries import RetriedRequest
from hybrid.errors import CannotRun, Temporary
from hybrid.records import Completion, Failure, Request
from hybrid.thoughts import opened_by

TOO_LONG = ("exceeds the context length", "exceeds maximum context length", "exceed_context_size")


class RequestBuilder:
    """Builds the requests to one model. `window` is shared by all of them, since another size reloads the model."""

    def __init__(self, info: ModelInfo, window: ContextWindow, load_settings: LoadSettings) -> None:
        self.info, self.window = info, window
        self._load_settings = load_settings
        self._thinks = "thinking" in info.capabilities

    async def answer(self, connection: Connection, request: Request, *, concurrency: ConcurrencyLimit) -> Completion:
        """The completion of a request, perhaps an error completion.

        Raises HybridError for an error that concerns all.
        """
        try:
            request = self.info.chat_template.fit(request)
        except BadRequest as error:
            return refused(request, error)
        except CannotRun as error:
            raise CannotRun(error.message, hint=HINT) from error
        failure = unsupported(request) or self._schema_failure(request)
        if failure:
            return Completion(request.key, error=failure)
        return await AskedRequest(self, connection, request, concurrency).completion()

    def body(self, request: Request, size: int) -> tuple[str, dict[str, Any]]:
        """Path and body. Sampling parameters of the Modelfile are overridden; nothing is truncated silently."""
        body = self._load_settings.body(self.info.name, size)
        body["options"] |= self._sampling(request)
        body["stream"] = True
        body["truncate"] = False  # a prompt that does not fit is an error
        body["shift"] = False  # a full context ends the reply
        if self._thinks:
            body["think"] = False
        if request.schema is not None:
            body["format"] = dict(request.schema)
        if request.logprobs:
            body["logprobs"] = True
        if not request.messages:
            return "/api/generate", {**body, "raw": True, "prompt": request.prompt}
        if self._needs_generate(request):
            *system, user = [message.content for message in request.messages]
            return "/api/generate", {**body, "prompt": user, **({"system": system[0]} if system else {})}
        chat = [{"role": message.role, "content": message.content} for message in request.messages]
        return "/api/chat", {**body, "messages": chat}

    def _needs_generate(self, request: Request) -> bool:
        """Whether only /api/generate enforces the schema. For one question it renders the same prompt as /api/chat.

        The one difference: messages in the Modelfile come after a system text, not before it.
        """
        return request.schema is not None and self.info.drops_schema and bool(request.messages)

    def _schema_failure(self, request: Request) -> Failure | None:
        """The failure of a request whose schema Ollama would silently ignore; None when it is enforced."""
        if request.schema is not None and (failure := refusal(request.schema, "Ollama")):
            return failure
        roles = [message.role for message in request.messages]
        plain = roles in (["user"], ["system", "user"]) and all(message.content for message in request.messages)
        if plain or not self._needs_generate(request):
            return None
        return Failure(
            "unsupported", "Ollama enforces a schema with this model only for one question, with a system prompt"
        )

    def probe(self) -> tuple[str, dict[str, Any]]:
        """Path and body of the smallest possible request."""
        body = self._load_settings.body(self.info.name, self.window.size)
        body["options"]["num_predict"] = 1
        return "/api/generate", {**body, "raw": True, "prompt": "a", "stream": True}

    def _sampling(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        options: dict[str, Any] = {
            "num_predict": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "typical_p": 1.0,
            "repeat_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": sampling.seed % ((1 << 32) - 1),  # 2**32 - 1 means a random seed
        }
        if sampling.stop:  # they replace the model's own, which are therefore repeated
            options["stop"] = [*sampling.stop, *self.info.stops]
        return options


class AskedRequest(RetriedRequest):
    """One request to Ollama."""

    def __init__(
        self, calls: RequestBuilder, connection: Connection, request: Request, concurrency: ConcurrencyLimit
    ) -> None:
        super().__init__(connection, request)
        self._builder, self._window, self._concurrency = calls, calls.window, concurrency
        self._reader = self._new_reader()
        self._size = 0

    async def _sent(self) -> Completion | Failure | None:
        self._size = self._window.size_for(self._request)
        self._reader = self._new_reader()
        await self._connection.stream(*self._builder.body(self._request, self._size), self._reader.take)
        return self._checked(self._reader.reply())

    def _new_reader(self) -> ReplyReader:
        return ReplyReader(self._request.sampling.max_tokens)

    async def _broken(self, error: ReplyError) -> Failure | None:
        if self._reader.repeats and isinstance(error, TruncatedReply):
            return Failure("repetition", f"Ollama broke off a reply: one token came over {REPEATS} times in a row")
        return await self._retry(error.kind, error.message)

    def _checked(self, reply: TimedReply) -> Completion | Failure | None:
        """The completion, unless the context was full. The thought is separated, by the server or here."""
        self._window.loaded_with(self._size)
        self._concurrency.finished(waited=reply.waited, served=reply.served)
        most = self._request.sampling.max_tokens
        cut = reply.finish == "length" and reply.completion_tokens < most
        if cut or reply.prompt_tokens + reply.completion_tokens > self._size + 1:
            return self._too_long(f"the context of {self._size} tokens was full after {reply.completion_tokens} new")
        seconds = time.monotonic() - self._started
        return completion_of(self._request, reply, opened=self._opened(), seconds=seconds)

    def _opened(self) -> str:
        """The mark of the thought that the prompt has opened; "" when the server's PARSER separates thoughts."""
        if not self._request.messages:
            return opened_by(self._request.prompt)
        return "" if self._builder.info.parsed else self._builder.info.chat_template.opens

    def _too_long(self, message: str) -> Failure | None:
        """The failure; None when the request can be retried with a larger context."""
        if self._window.can_grow_beyond(self._size):
            return None
        return Failure("too-long", f"{message}; prompt and {self._request.sampling.max_tokens} new tokens must fit")

    async def _refused(self, error: ErrorReply) -> Failure | None:
        text = error.message
        if any(words in text for words in TOO_LONG):
            return self._too_long(f"the prompt does not fit into the context of {self._size} tokens")
        if error.status == 503:
            self._concurrency.refused()
            await self._connection.wait_while_busy(error)
            return None
        if "more system memory" in text:
            if self._window.refused(self._size):
                return None
            raise cannot_use(error, self._builder.info.name)
        if "not found" in text or "model is required" in text or error.status in (401, 403):
            raise cannot_use(error, self._builder.info.name)
        if any(words in text for words in CRASHED) or (error.status in (0, 500) and not self._is_about_format(text)):
            return await self._retry("engine", text)
        about_schema = self._request.schema is not None and self._is_about_format(text)
        return Failure("bad-schema" if about_schema else "bad-request", text)

    def _is_about_format(self, text: str) -> bool:
        words = ("schema", "format", "grammar", "template")
        return any(word in text.lower() for word in words)

    async def _check_server(self, message: str) -> None:
        if not await self._server_works():
            raise Temporary(
                f"Ollama does not answer any more: {message}",
                hint="restart it, its log says why; then run the same command again: nothing is lost",
            )

    async def _server_works(self) -> bool:
        """Whether the server answers the smallest request, so that only this one fails."""
        reader = ReplyReader(1)
        try:
            await self._connection.stream(*self._builder.probe(), reader.take)
        except ServerUnavailable as error:
            await self._connection.wait_for_server(error)
            return False
        except (ErrorReply, ReplyError):
            return False
        return True


def unsupported(request: Request) -> Failure | None:
    """The failure of a request that Ollama does not support; None for others."""
    if request.adapter:
        return Failure("unsupported", "Ollama takes no adapter a request: use vllm or transformers")
    return None
