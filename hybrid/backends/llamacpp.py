"""The embedded backend: llama.cpp inside this process through `xllamacpp`, no server to start.

The library listens on a free loopback port, protected by an API key made for this process. Requests are streamed, so
that closing the backend stops them at the next token.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import xllamacpp

from hybrid import thoughts
from hybrid.backends.capacity import llamacpp_context, llamacpp_parallel
from hybrid.backends.completions import separate_thought
from hybrid.backends.dates import with_pinned_dates
from hybrid.backends.llamacpp_client import LlamaCppClient
from hybrid.backends.llamacpp_log import load_with_log
from hybrid.backends.load_hints import LLAMACPP, LLAMACPP_ELSE, cannot_load
from hybrid.backends.options import one_of, whole_number
from hybrid.backends.prefix_queue import PrefixQueue
from hybrid.backends.prompts import BadRequest, refused
from hybrid.canonical import digest
from hybrid.errors import CannotRun, Temporary
from hybrid.machine import threads
from hybrid.model_files.gguf_files import read_header
from hybrid.model_files.location import digest_of, locate
from hybrid.protocols import Model
from hybrid.records import Completion, Failure, Request

LOOK_AHEAD = 8
"""Requests per slot that are read from the stream before a slot is free for them."""

WAIT, LOOK = 0.5, 0.05
"""Seconds of a wait for an answer; the same while slots are free and there is nothing to ask."""

SlotQueue = queue.SimpleQueue[Request | None]
SlotResult = tuple[int, Completion | BaseException]
"""What the thread of a slot returns: the slot, and a completion or the error that ended it."""

PLACEHOLDER_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""Replaces a template that llama.cpp cannot use, so that the model loads for raw prompts."""

ANY_SCHEMA = {"type": "boolean"}

CLOSE_TIMEOUT_SECONDS = 120
"""How long `close` waits for a thread that is in the middle of a long prompt."""


class LlamaCppBackend:
    """GGUF models. Several requests share each decoding step; a shared prefix of prompts is computed once per slot."""

    options: ClassVar[Mapping[str, str]] = {
        "parallel": "requests in flight (default 4, and not more than CPU cores)",
        "context": "tokens of prompt and completion together, a request (default 8192, or what the model was made for)",
        "threads": "CPU threads (default: OMP_NUM_THREADS, or as many as this process has cores)",
        "reuse": "true or false: keep computed beginnings of prompts (default true); false with parallel=1: same bits",
        "gpu_layers": "layers on the GPU (default: all that fit)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        path = locate(model)
        if not path.is_file():
            raise CannotRun(f"llamacpp reads GGUF files; {path} is not one", hint="--backend transformers, or a GGUF")
        self._parallel = llamacpp_parallel(options)
        self._reuse = one_of(options, "reuse", ("true", "false")) == "true"
        self._closed = False
        self._threads: list[threading.Thread] = []
        key = secrets.token_hex(16)
        template = read_header(path).template  # llama.cpp silently uses ChatML when there is none
        self._server, template_error = _load(path, self._parallel, options, key, template)
        self._client = LlamaCppClient(self._server.listening_address, key, template, template_error)
        self._chat_template = self._client.chat_template(model)
        self._chat_template.warn()
        self._must_render = bool(self._client.hidden_turn_end) or thoughts.has_thoughts(template)
        self._schema_support: dict[str, bool] = {}
        self._schema_tokens = SchemaTokens(path, template)
        props = self._client.properties
        self.model = Model(
            name=model,
            digest=digest_of(path),
            context=int(props["default_generation_settings"]["n_ctx"]),
            about={
                "engine": "llamacpp",
                "version": f"xllamacpp {version('xllamacpp')}",
                "file": path.name,
                "device": _device(options),
                "type": str(props.get("model_ftype", "")),
                "chat_template": digest(template),
                **thoughts.thinking_provenance(template),
                "options": {"parallel": self._parallel, "reuse": self._reuse},
                **self._chat_template.about(),
            },
        )

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Keep `parallel` requests in flight, one thread per slot: the library decodes them in one batch."""
        finished: queue.Queue[SlotResult] = queue.Queue()
        inboxes: list[SlotQueue] = [queue.SimpleQueue() for _ in range(self._parallel)]
        for slot, inbox in enumerate(inboxes):
            thread = threading.Thread(target=self._serve, args=(slot, inbox, finished), daemon=True)
            self._threads.append(thread)
            thread.start()
        waiting, free = PrefixQueue(iter(requests), LOOK_AHEAD * self._parallel), list(range(self._parallel))
        try:
            while True:
                while free and (request := waiting.next_for(free[0])) is not None:
                    inboxes[free.pop(0)].put(request)
                if len(free) == self._parallel:
                    return
                result = _next_of(finished, LOOK if free else WAIT)
                if result is None:  # perhaps there is something to ask by now
                    continue
                slot, done = result
                if isinstance(done, BaseException):
                    raise done
                free.append(slot)
                yield done
        finally:
            for inbox in inboxes:
                inbox.put(None)

    def close(self) -> None:
        """Stop requests in flight at their next token, and wait: otherwise the library aborts the process."""
        self._closed = True
        self._schema_tokens.forget()
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_SECONDS)

    def _serve(self, slot: int, inbox: SlotQueue, finished: queue.Queue[SlotResult]) -> None:
        while (request := inbox.get()) is not None and not self._closed:
            try:
                finished.put((slot, self._complete(request, slot)))
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that reads the queue
                finished.put((slot, error))

    def _complete(self, request: Request, slot: int) -> Completion:
        try:
            request = self._prepared(self._chat_template.fit(request))
        except BadRequest as error:
            return refused(request, error)
        start = time.perf_counter()
        chunks: list[dict[str, Any]] = []

        def keep(chunk: dict[str, Any]) -> bool:
            begun.close()
            chunks.append(chunk)
            return self._closed

        call = self._server.handle_chat_completions if request.messages else self._server.handle_completions
        body = _body(request, self._client, reuse=self._reuse)
        begun = ExitStack()
        try:
            if request.schema is not None:
                begun.enter_context(SchemaTokens.turn())
            call({**body, "id_slot": slot}, keep)
        except ValueError as error:  # the library raises it for a schema or a message it cannot use
            about_schema = request.schema is not None and "schema" in str(error).lower()
            return _failed(request, "bad-schema" if about_schema else "bad-request", str(error))
        except RuntimeError as error:  # and this for every internal error
            raise Temporary(
                f"llama.cpp stopped: {error}", hint="run the same command again; is there memory?"
            ) from error
        finally:
            begun.close()
        written = _completion(request, chunks, time.perf_counter() - start)
        return separate_thought(request, written, thoughts.opened_by(request.prompt))

    def _prepared(self, request: Request) -> Request:
        """The request in a form that llama.cpp answers correctly. Raises BadRequest when there is none.

        Chats are sent as rendered prompts where the end of a turn is a token that llama.cpp hides, or where thoughts
        are marked: from the answers to chats the library removes such marks, and it parses those of some models. With
        a schema, too: only that of a prompt goes to llguidance; that of a chat goes to a converter that passes over
        what it does not know (`uniqueItems`).
        """
        if request.adapter:
            raise BadRequest("unsupported", "llamacpp takes no adapter a request: use vllm or transformers")
        if request.messages and (self._must_render or request.schema is not None):
            prompt = self._client.rendered(request.messages, request.template)
            request = replace(request, messages=(), prompt=prompt)
        if request.schema is not None:
            self._schema_tokens.renew(self._client)
            name = digest(request.schema)
            if name not in self._schema_support:
                self._schema_support[name] = self._client.enforces(request.schema)
            if not self._schema_support[name]:
                raise BadRequest("bad-schema", "llama.cpp cannot enforce this schema")
        return request


class SchemaTokens:
    """Makes llama.cpp enforce schemas with the tokens of the model that is asked.

    llama.cpp keeps the tokens of the last model that was asked with a schema, and recognizes the model by its address
    in memory. A model that is loaded where an earlier one was freed would be constrained with the tokens of that one.
    Before its first schema, the model is therefore loaded a second time, small: this copy has another address, and so
    has, for llama.cpp, the last model that was asked.

    Nothing in llama.cpp guards these tokens, and two models that are open at once, as in a search, have a thread each.
    So while several models are open, only one request with a schema is begun at a time.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _open: ClassVar[set[object]] = set()  # the models that are open
    _used: ClassVar[bool] = False  # whether a model of this process was asked with a schema

    def __init__(self, path: Path, template: str) -> None:
        self._path, self._template, self._own = path, template, False
        SchemaTokens._open.add(self)

    def renew(self, client: LlamaCppClient) -> None:
        """Before a request with a schema: make the model of `client` the last one that was asked with a schema."""
        with SchemaTokens._lock:
            if self._own:
                return
            if SchemaTokens._used:
                key = secrets.token_hex(16)
                copy, error = _load(self._path, 1, {"context": "64", "gpu_layers": "0"}, key, self._template, copy=True)
                LlamaCppClient(copy.listening_address, key, self._template, error).enforces(ANY_SCHEMA)
            client.enforces(ANY_SCHEMA)
            self._own = SchemaTokens._used = True

    def forget(self) -> None:
        """The model is closed."""
        SchemaTokens._open.discard(self)

    @classmethod
    @contextmanager
    def turn(cls) -> Iterator[None]:
        """Until a request with a schema has its first token: no other model takes its tokens meanwhile."""
        if len(cls._open) < 2:
            yield
            return
        with cls._lock:
            yield


def _device(options: Mapping[str, str]) -> str:
    """The device that holds the layers: the first GPU that the library sees, unless `gpu_layers` is 0, else cpu."""
    found = [one for one in xllamacpp.get_device_info() if "GPU" in getattr(one.get("type"), "name", "")]
    use = found and whole_number(options, "gpu_layers", -1, low=-1, high=10_000) != 0
    return str(found[0].get("description") or found[0].get("name")) if use else "cpu"


def _load(
    path: Path, parallel: int, options: Mapping[str, str], key: str, template: str, *, copy: bool = False
) -> tuple[Any, str]:
    """The server, and why it cannot use the model's template, which is then replaced; "" when it can.

    A `copy` of a model that is loaded already shares the memory of its weights.
    """
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = parallel
    params.n_ctx = llamacpp_context(options) * parallel
    params.n_gpu_layers = whole_number(options, "gpu_layers", -1, low=-1, high=10_000)
    params.cpuparams.n_threads = whole_number(options, "threads", threads.thread_count(), low=1, high=1024)
    params.verbosity = 0
    params.api_keys = [key]
    params.warmup = False
    params.no_extra_bufts = copy
    params.ctx_shift = False  # a prompt that does not fit is an error, never truncated silently
    params.prefill_assistant = False  # the answer is a new turn, also after a message of the assistant
    if with_pinned_dates(template):
        params.chat_template = with_pinned_dates(template)
    try:
        return xllamacpp.Server(params), ""
    except RuntimeError as error:  # it never says why
        params.verbosity = 1
        server, why = load_with_log(lambda: xllamacpp.Server(params))
        if server is not None:
            return server, ""
        failure = cannot_load("llama.cpp", path, why or str(error), LLAMACPP, LLAMACPP_ELSE)
        if template and failure.hint == LLAMACPP_ELSE:  # perhaps only the template is unusable: raw prompts need none
            params.chat_template, params.verbosity = PLACEHOLDER_TEMPLATE, 0
            with suppress(RuntimeError):
                return xllamacpp.Server(params), why or str(error)
        raise failure from error


def _next_of(finished: queue.Queue[SlotResult], seconds: float) -> SlotResult | None:
    """Wait with a short time-out: on Windows Ctrl-C cannot interrupt a wait without one. None after it."""
    try:
        return finished.get(timeout=seconds)
    except queue.Empty:
        return None


def _body(request: Request, client: LlamaCppClient, *, reuse: bool) -> dict[str, Any]:
    """The request body of the library. llama.cpp's own defaults (top_k 40, min_p 0.05) are switched off."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "seed": sampling.seed % ((1 << 32) - 1),  # 2**32 - 1 means a random seed
        "stop": list(sampling.stop),
        "cache_prompt": reuse,
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_format": "none",
    }
    if request.logprobs:
        body["logprobs"] = True if request.messages else 1
    if request.messages:
        body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
        body["chat_template_kwargs"] = client.template_settings(request.template)
        return body
    body["prompt"] = request.prompt
    if request.schema is not None:
        body["json_schema"] = dict(request.schema)
    body["preserved_tokens"] = client.thought_marks
    if end := client.hidden_turn_end:
        body |= {"preserved_tokens": [*client.thought_marks, end], "stop": [*sampling.stop, end]}
    return body


def _completion(request: Request, chunks: list[dict[str, Any]], seconds: float) -> Completion:
    if not chunks or "error" in chunks[-1]:
        error = chunks[-1]["error"] if chunks else {"message": "llama.cpp gave no answer"}
        too_long = error.get("type") == "exceed_context_size_error"
        return _failed(request, "too-long" if too_long else "engine", str(error.get("message", error)))
    choices = [chunk["choices"][0] for chunk in chunks if chunk.get("choices")]
    text = "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)
    finish = next((choice["finish_reason"] for choice in reversed(choices) if choice["finish_reason"]), None)
    usage: dict[str, Any] = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), {})
    if finish is None:
        return _failed(request, "stopped", "the backend was closed before the answer was complete")
    tokens = int(usage.get("completion_tokens", 0))
    if finish == "length" and tokens < request.sampling.max_tokens:
        return _failed(request, "too-long", f"the context was full after {tokens} new tokens")
    return Completion(
        request.key,
        text=text,
        finish="stop" if finish == "stop" else "length",
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        cached_tokens=int(usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)),
        completion_tokens=tokens,
        logprob=_logprob(choices) if request.logprobs else None,
        seconds=seconds,
    )


def _logprob(choices: list[dict[str, Any]]) -> float:
    """The sum of the natural logarithms over the answer's tokens."""
    return float(sum(token["logprob"] for c in choices if c.get("logprobs") for token in c["logprobs"]["content"]))


def _failed(request: Request, kind: str, message: str) -> Completion:
    return Completion(request.key, error=Failure(kind, message))
