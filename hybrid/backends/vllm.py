"""The backend `vllm`: vLLM's engine inside this process, stepped by this module one iteration at a time.

New requests are added as others finish, so the batch stays full and completions are yielded at once. Prompts are passed
as tokens (`hybrid.backends.prompts`), so the model sees the same prompt as with `transformers`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from safetensors import SafetensorError
from vllm import CompletionOutput, RequestOutput
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from hybrid.backends.adapter_kinds import check_adapter
from hybrid.backends.chat_templates import chat_template_of
from hybrid.backends.completions import Detokenizer, separate_thought
from hybrid.backends.devices import refuse_unusable_gpu, try_kernel
from hybrid.backends.load_hints import reason_of
from hybrid.backends.prompts import BadRequest, refused, token_ids
from hybrid.backends.vllm_engine import (
    REFUSALS,
    engine_arguments,
    engine_version,
    explained_errors,
    sampling_params,
    start_engine,
    stop_engine,
)
from hybrid.canonical import digest
from hybrid.errors import BadData, HybridError
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import digest_of, locate
from hybrid.protocols import Model
from hybrid.records import Adapter, Completion, Failure, Request
from hybrid.thoughts import thinking_provenance

BAD_ADAPTER = (VLLMClientError, ValueError, OSError, SafetensorError)
"""What vLLM raises for an adapter that it cannot read, or that is larger than those that it was started for."""


@dataclass(slots=True)
class RunningRequest:
    """A request in the engine."""

    request: Request
    started: float = field(default_factory=time.monotonic)


class VllmBackend:
    """vLLM on a CUDA GPU (or, slowly, a CPU): schemas, logprobs, many LoRA adapters at once, shared prefixes cached."""

    options: ClassVar[Mapping[str, str]] = {
        "context": "tokens of prompt and completion together (default: the most that model and memory allow)",
        "rows": "requests in flight (default 256 on a GPU, 16 on a CPU)",
        "memory": "part of the GPU's memory to use (default: what is free, less 4 %)",
        "dtype": "auto, float32, float16, bfloat16 (auto: bfloat16 from Ampere on, float16 before, float32 on a CPU)",
        "eager": "auto, true, false: no compiling, no CUDA graphs; starts sooner, runs slower (auto: true on a CPU)",
        "gpus": "GPUs that share one model (default 1)",
        "eager_below": "with training: eager=auto is true for fewer steps of the engine than this (default 4000)",
        "loras": "LoRA adapters in one batch, or auto: by the memory, 1 to 32 (default 0: none; with training auto)",
        "lora_rank": "largest rank of an adapter, rounded up to one that vLLM knows (default 16)",
        "sleep": "false, auto, true: it sleeps while adapters are trained (default false; with training auto)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        path = locate(model)
        if current_platform.is_cpu():
            refuse_unusable_gpu("vLLM")
        else:
            try_kernel()
        folder = as_folder(path)
        arguments = engine_arguments(options, folder)
        self._rows = int(arguments["max_num_seqs"])
        self._max_loras = int(arguments.get("max_loras", 0))
        self.can_sleep, self._asleep = "enable_sleep_mode" in arguments, False
        self._engine = start_engine(folder, arguments)
        self._tokenizer: Any = self._engine.get_tokenizer()
        self._chat_template = chat_template_of(self._tokenizer, model)
        self._chat_template.warn()
        self._detokenizer = Detokenizer(self._tokenizer)
        self._adapters: dict[str, int] = {}
        self._numbers = 0  # of adapters that vLLM was given, good ones and bad ones
        self._count = 0
        self.model = Model(
            name=model,
            digest=digest_of(path),
            context=int(self._engine.model_config.max_model_len),
            about={
                "engine": "vllm",
                "version": f"vllm {engine_version()}, torch {version('torch')}",
                "device": current_platform.get_device_name(),
                "dtype": str(arguments["dtype"]),
                "chat_template": digest(str(self._tokenizer.chat_template or "")),
                **self._chat_template.about(),
                **thinking_provenance(str(self._tokenizer.chat_template or "")),
            },
        )

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Completions as they finish; the engine holds an eighth more requests than `rows`, so that no row is idle."""
        source = iter(requests)
        running: dict[str, RunningRequest] = {}
        waiting: deque[Request] = deque(maxlen=1)
        room = self._rows + max(1, self._rows // 8)
        try:
            while True:
                while len(running) < room and (request := waiting.pop() if waiting else next(source, None)):
                    if self._must_wait(request, running):
                        waiting.append(request)
                        break
                    if refusal := self._add(request, running):
                        yield refusal
                if not running:
                    return
                yield from self._step(running)
        finally:
            if running:
                with suppress(Exception):  # an engine that has died has ended them; why it died is what is raised
                    self._engine.abort_request(list(running))

    def sleep(self) -> None:
        """Move the weights to the host's memory and drop keys and values, so that the GPU is free for something else.

        Only with `can_sleep`. Raises CannotRun, Temporary.
        """
        with explained_errors(()):
            self._engine.sleep(level=1)
        self._asleep = True

    def wake(self) -> None:
        """Move them back. Raises Temporary where the memory is not free, and CannotRun."""
        with explained_errors(()):
            self._engine.wake_up()
        self._asleep = False

    def close(self) -> None:
        """Stop the engine and free its memory."""
        if self._asleep:
            with suppress(HybridError):  # vLLM's allocator frees memory twice that sleeps
                self.wake()
        stop_engine(self._engine)
        del self._engine

    def _must_wait(self, request: Request, running: Mapping[str, RunningRequest]) -> bool:
        """Whether `request` cannot share a batch with the running requests.

        vLLM 0.32 on a CPU applies the last adapter to a request without one when another request of the batch has an
        adapter (its index -1 wraps around), so there requests with and without adapters are not mixed.
        """
        if not (self._max_loras and current_platform.is_cpu()):
            return False
        return any((other.request.adapter is None) != (request.adapter is None) for other in running.values())

    def _add(self, request: Request, running: dict[str, RunningRequest]) -> Completion | None:
        """Add `request` to the engine. Returns an error completion when it is refused."""
        try:
            request = self._chat_template.fit(request)
            ids = token_ids(self._tokenizer, request, self.model.context)
            adapter = self._adapter(request.adapter)
        except BadRequest as error:
            return refused(request, error)
        self._count += 1
        name = str(self._count)
        try:
            with explained_errors():
                (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": ids}])
                sampling = sampling_params(
                    request.sampling, self._chat_template.ends, logprobs=request.logprobs, schema=request.schema
                )
                self._engine.add_request(name, prompt, sampling, lora_request=adapter)
        except REFUSALS as error:
            kind = "bad-request" if request.schema is None else "bad-schema"
            return refused(request, BadRequest(kind, f"vLLM refuses it: {reason_of(error)}"))
        running[name] = RunningRequest(request)
        return None

    def _step(self, running: dict[str, RunningRequest]) -> list[Completion]:
        """The completions that one iteration of the engine finished. Raises CannotRun, Temporary."""
        with explained_errors(()):
            outputs = self._engine.step()
        done = [output for output in outputs if output.finished and output.request_id in running]
        return [_completion(running.pop(output.request_id), output, self._detokenizer) for output in done]

    def _adapter(self, adapter: Adapter | None) -> LoRARequest | None:
        """The adapter for vLLM. A number is never reused: vLLM caches weights and prefixes under it."""
        if adapter is None:
            return None
        if not self._max_loras:
            raise BadRequest("unsupported", "vLLM was started without adapters: --backend-option loras=N")
        if adapter.digest in self._adapters:
            return LoRARequest(adapter.digest, self._adapters[adapter.digest], adapter.path)
        self._numbers += 1
        wanted = LoRARequest(adapter.digest, self._numbers, adapter.path)
        try:
            check_adapter(Path(adapter.path))
            with explained_errors(BAD_ADAPTER):
                self._engine.add_lora(wanted)  # a bad adapter that is first read in a step ends all requests in flight
        except (BadData, *BAD_ADAPTER) as error:
            said = f"the adapter {adapter.digest[:12]} cannot be used: {reason_of(error)}"
            raise BadRequest("no-adapter", said) from error
        self._adapters[adapter.digest] = self._numbers
        return wanted


def _completion(running: RunningRequest, output: RequestOutput, detokenizer: Detokenizer) -> Completion:
    request, answer = running.request, output.outputs[0]
    if answer.finish_reason not in ("stop", "length"):
        return Completion(request.key, error=Failure("engine", f"vLLM gave up on it: {answer.finish_reason}"))
    written = Completion(
        request.key,
        text=_text(answer, detokenizer),
        finish=answer.finish_reason,
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens or 0,
        completion_tokens=len(answer.token_ids),
        logprob=_logprob(answer) if request.logprobs else None,
        seconds=time.monotonic() - running.started,
    )
    return separate_thought(request, written, detokenizer.open_thought(list(output.prompt_token_ids or ())))


def _text(answer: CompletionOutput, detokenizer: Detokenizer) -> str:
    """The text with the marks of a thought, which vLLM removes when they are special tokens."""
    if not detokenizer.has_thought_mark(answer.token_ids):
        return str(answer.text)
    if isinstance(answer.stop_reason, str):
        return detokenizer.text(list(answer.token_ids)).partition(answer.stop_reason)[0]
    return detokenizer.text(list(answer.token_ids)[:-1] if _ended(answer) else list(answer.token_ids))


def _logprob(answer: CompletionOutput) -> float | None:
    """The sum over the text's tokens, without the end token."""
    if answer.cumulative_logprob is None:
        return None
    end = answer.logprobs[-1][answer.token_ids[-1]].logprob if answer.logprobs and _ended(answer) else 0.0
    return float(answer.cumulative_logprob - end)


def _ended(answer: CompletionOutput) -> bool:
    """Whether it ended with an end token, which is not part of the text."""
    return answer.finish_reason == "stop" and not isinstance(answer.stop_reason, str)
