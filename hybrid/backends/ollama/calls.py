"""What a request becomes on Ollama's side, and what is done when its reply is not as it should be."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from hybrid.backends.completing import completed
from hybrid.backends.ollama.client import CRASHED, Refused, cannot_use
from hybrid.backends.ollama.link import CutShort, Gone, Link, Trouble
from hybrid.backends.ollama.opening import Loading
from hybrid.backends.ollama.pace import Pace
from hybrid.backends.ollama.rendering import HINT
from hybrid.backends.ollama.reply import REPEATS, Reader, Reply
from hybrid.backends.ollama.tag import Tag
from hybrid.backends.ollama.window import Window
from hybrid.backends.prompts import BadRequest, refused
from hybrid.errors import CannotRun, Temporary
from hybrid.records import Completion, Failure, Request, unanswered
from hybrid.thoughts import opened_by

ATTEMPTS = 3

TOO_LONG = ("exceeds the context length", "exceeds maximum context length", "exceed_context_size")


class Calls:
    """How one model is asked. `window` is shared by all requests: another size would load the model anew."""

    def __init__(self, tag: Tag, window: Window, loading: Loading) -> None:
        self.tag, self.window = tag, window
        self._loading = loading
        self._thinks = "thinking" in tag.capabilities

    async def answer(self, link: Link, request: Request, *, pace: Pace) -> Completion:
        """The completion of a request, an error among them. Raises HybridError when there is no going on."""
        try:
            request = self.tag.form.fit(request)
        except BadRequest as error:
            return refused(request, error)
        except CannotRun as error:
            raise CannotRun(error.message, hint=HINT) from error
        failure = unusable(request) or self._cannot_hold(request)
        call = Call(self, link, request, pace)
        while failure is None:
            outcome = await call.once()
            if isinstance(outcome, Completion):
                return outcome
            failure = outcome
        return Completion(request.key, error=failure)

    def body(self, request: Request, size: int) -> tuple[str, dict[str, Any]]:
        """Path and body. What the model's file would add to the sampling is off; nothing is cut in silence."""
        body = self._loading.body(self.tag.name, size)
        body["options"] |= self._sampling(request)
        body["stream"] = True
        body["truncate"] = False  # a prompt that does not fit is refused
        body["shift"] = False  # and a context that is full ends the reply
        if self._thinks:
            body["think"] = False
        if request.schema is not None:
            body["format"] = dict(request.schema)
        if request.logprobs:
            body["logprobs"] = True
        if not request.messages:
            return "/api/generate", {**body, "raw": True, "prompt": request.prompt}
        if self._must_generate(request):
            *system, user = [message.content for message in request.messages]
            return "/api/generate", {**body, "prompt": user, **({"system": system[0]} if system else {})}
        said = [{"role": message.role, "content": message.content} for message in request.messages]
        return "/api/chat", {**body, "messages": said}

    def _must_generate(self, request: Request) -> bool:
        """Whether only /api/generate holds to the schema. It writes one question as /api/chat does, to the letter.

        Only messages in the model's file then come behind a system text, not before it.
        """
        return request.schema is not None and self.tag.drops_schema and bool(request.messages)

    def _cannot_hold(self, request: Request) -> Failure | None:
        """Why the answer would not be held to the request's schema, in silence."""
        roles = [message.role for message in request.messages]
        plain = roles in (["user"], ["system", "user"]) and all(message.content for message in request.messages)
        if plain or not self._must_generate(request):
            return None
        return Failure("unsupported", "Ollama holds this model to a schema only for one question, with a system prompt")

    def probe(self) -> tuple[str, dict[str, Any]]:
        """The least that can be asked."""
        body = self._loading.body(self.tag.name, self.window.size)
        body["options"]["num_predict"] = 1
        return "/api/generate", {**body, "raw": True, "prompt": "a", "stream": True}

    def _sampling(self, request: Request) -> dict[str, Any]:
        how = request.sampling
        options: dict[str, Any] = {
            "num_predict": how.max_tokens,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "typical_p": 1.0,
            "repeat_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": how.seed % ((1 << 32) - 1),  # the last one means: a random seed
        }
        if how.stop:  # they would replace the model's own
            options["stop"] = [*how.stop, *self.tag.stops]
        return options


class Call:
    """One request, and how often it has failed."""

    def __init__(self, calls: Calls, link: Link, request: Request, pace: Pace) -> None:
        self._calls, self._link, self._request, self._pace = calls, link, request, pace
        self._window = calls.window
        self._failed = 0
        self._size = 0
        self._began = 0.0

    async def once(self) -> Completion | Failure | None:
        """Ask once. None: to be asked again."""
        self._size, self._began = self._window.size_for(self._request), time.monotonic()
        reader = Reader(self._request.sampling.max_tokens)
        try:
            await self._link.stream(*self._calls.body(self._request, self._size), reader.take)
            return self._checked(reader.reply())
        except Gone as error:
            await self._link.wait_for_server(error)
            return None
        except Refused as error:
            return await self._refused(error)
        except Trouble as error:
            if reader.repeats and isinstance(error, CutShort):
                return Failure("repetition", f"Ollama broke off a reply: one token came over {REPEATS} times in a row")
            return await self._again(error.kind, error.message)

    def _checked(self, reply: Reply) -> Completion | Failure | None:
        """The completion, unless the context was full. A thought is apart, by the server or by us."""
        self._window.worked(self._size)
        self._pace.finished(waited=reply.waited, served=reply.served)
        most = self._request.sampling.max_tokens
        cut = reply.finish == "length" and reply.completion_tokens < most
        if cut or reply.prompt_tokens + reply.completion_tokens > self._size + 1:
            return self._too_long(f"the context of {self._size} tokens was full after {reply.completion_tokens} new")
        only_thought = bool(reply.thought) and not reply.text.strip()
        written = Completion(
            self._request.key,
            text=None if only_thought else reply.text,
            error=unanswered(reply.thought) if only_thought else None,
            thought=reply.thought,
            finish="stop" if reply.finish == "stop" else "length",
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            logprob=reply.logprob if self._request.logprobs else None,
            seconds=time.monotonic() - self._began,
        )
        return completed(self._request, written, self._opened())

    def _opened(self) -> str:
        """The mark of the thought that the prompt has opened. A server that takes replies to pieces has seen to it."""
        if not self._request.messages:
            return opened_by(self._request.prompt)
        return "" if self._calls.tag.parsed else self._calls.tag.form.opens

    def _too_long(self, message: str) -> Failure | None:
        """None when there is a larger context to try."""
        if self._window.larger_than(self._size):
            return None
        return Failure("too-long", f"{message}; prompt and {self._request.sampling.max_tokens} new tokens must fit")

    async def _refused(self, error: Refused) -> Failure | None:
        """What an error of the server means for this request; raises when it means the end for all."""
        text = error.message
        if any(words in text for words in TOO_LONG):
            return self._too_long(f"the prompt does not fit into the context of {self._size} tokens")
        if error.status == 503:
            self._pace.refused()
            await self._link.wait_for_room(error)
            return None
        if "more system memory" in text:
            if self._window.refused(self._size):
                return None
            raise cannot_use(error, self._calls.tag.name)
        if "not found" in text or "model is required" in text or error.status in (401, 403):
            raise cannot_use(error, self._calls.tag.name)
        if any(words in text for words in CRASHED) or (error.status in (0, 500) and not self._is_about_format(text)):
            return await self._again("engine", text)
        about_schema = self._request.schema is not None and self._is_about_format(text)
        return Failure("bad-schema" if about_schema else "bad-request", text)

    def _is_about_format(self, text: str) -> bool:
        words = ("schema", "format", "grammar", "template")
        return any(word in text.lower() for word in words)

    async def _again(self, kind: str, message: str) -> Failure | None:
        """None when the request is to be repeated, which changes nothing on the server."""
        self._failed += 1
        if self._failed < ATTEMPTS:
            await asyncio.sleep(random.uniform(0.1, 0.5) * self._failed)
            return None
        if not await self._others_work():
            raise Temporary(
                f"Ollama does not answer any more: {message}",
                hint="restart it, its log says why; then run the same command again: nothing is lost",
            )
        return Failure(kind, f"{message} ({self._failed} attempts)")

    async def _others_work(self) -> bool:
        """Whether it is this request that fails: the smallest one is answered."""
        reader = Reader(1)
        try:
            await self._link.stream(*self._calls.probe(), reader.take)
        except Gone as error:
            await self._link.wait_for_server(error)
            return False
        except (Refused, Trouble):
            return False
        return True


def unusable(request: Request) -> Failure | None:
    """Why Ollama cannot be asked this."""
    if request.adapter:
        return Failure("unsupported", "Ollama takes no adapter a request: use vllm or transformers")
    return None
