"""What a model that answers takes of a device's memory, line by line, by the engine's own limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid.backends.adapter_memory import NUMBER_BYTES, adapter_bytes, adapters_that_fit
from hybrid.backends.capacity import (
    CACHE_SHARE,
    CPU_CACHE,
    CPU_PREFILL,
    PREFILL,
    VLLM_RESERVED,
    llamacpp_context,
    llamacpp_parallel,
    rows_of,
)
from hybrid.backends.ollama.context_window import FIRST, ContextWindow
from hybrid.backends.options import fraction, one_of, whole_number
from hybrid.backends.ranks import RANKS
from hybrid.machine.terminal import count_of
from hybrid.plan.gpus import GIB, Gpu
from hybrid.plan.shapes import ModelShape, kv_bytes
from hybrid.plan.workload import RoleLoad

CONTEXT = GIB // 2
"""Bytes that a CUDA context and its libraries take."""
FRAGMENTS = 0.1
"""Share of what comes and goes that an allocator loses."""
MICRO_BATCH = 512
"""Tokens that llama.cpp computes at once; it keeps the logits of all of them."""
VLLM_BATCH = 8192
"""Tokens of a step of vLLM, for which it reserves activations."""
TOO_SMALL = "a smaller model, or a larger GPU: its weights alone do not fit (--backend vllm shares them among GPUs)"
TOO_SMALL_CPU = "a smaller model, or a machine with more memory: its weights alone do not fit"
SHORTER = "--backend-option context=4096 shortens requests"
HALVED = "--backend-option dtype=bfloat16 halves the weights, which alone do not fit"
DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Line:
    """Something that takes memory, its bytes, and how they come about."""

    name: str
    bytes: int
    how: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an engine takes of a device's memory. `rows`: requests at once; `stored`: bytes of weights that are read for
    a token. `most` is what may be taken. `hint` says what to change where it does not fit.
    """

    lines: tuple[Line, ...]
    most: int
    rows: int = 1
    stored: int = 0
    hint: str = ""

    @property
    def total(self) -> int:
        return sum(line.bytes for line in self.lines)

    @property
    def fits(self) -> bool:
        return self.total <= self.most


def needs_of(backend: str, shape: ModelShape, options: Mapping[str, str], gpu: Gpu, load: RoleLoad) -> Needs:
    """What the model takes when a backend answers a load with it on a device. Raises UsageError for wrong options."""
    made = {"transformers": _of_transformers, "vllm": _of_vllm, "llamacpp": _of_llamacpp, "ollama": _of_ollama}
    return made[backend](shape, options, gpu, load)


def itemsize_of(options: Mapping[str, str], gpu: Gpu) -> int:
    """Bytes of a number of the weights, by the option `dtype`: with auto 4 on a CPU and 2 on a GPU."""
    name = one_of(options, "dtype", DTYPES)
    return NUMBER_BYTES.get(name, 4 if gpu.is_cpu else 2)


def _of_transformers(shape: ModelShape, options: Mapping[str, str], gpu: Gpu, load: RoleLoad) -> Needs:
    """Weights, and what the batch takes: keys and values of rows x columns, logits, a prefill."""
    itemsize = itemsize_of(options, gpu)
    each, longest = kv_bytes(shape, itemsize), _longest(shape, options, load)
    free = CPU_CACHE if gpu.is_cpu else gpu.memory - CONTEXT
    cached = whole_number(options, "tokens", 0, low=16, high=1 << 40) or max(1024, int(free * CACHE_SHARE) // each)
    rows = max(1, min(rows_of(options, cpu=gpu.is_cpu), load.count, cached // max(1, longest)))
    tokens = min(CPU_PREFILL if gpu.is_cpu else PREFILL, max(longest, load.prompts.total))
    values, logits = rows * longest * each, rows * shape.vocabulary * _of_logit(itemsize, load)
    passing = tokens * itemsize * (4 * shape.width + 3 * shape.inner + 2 * shape.heads * shape.head)
    copied = 2 * values // shape.layers
    lines = (
        Line("weights", shape.weight_bytes(itemsize), f"{shape.parameters:,} parameters x {itemsize} bytes"),
        Line("keys and values", values, f"{count_of(rows, 'row')} x {longest:,} tokens x {each:,} bytes"),
        Line("logits", logits, f"{count_of(rows, 'row')} x {shape.vocabulary:,} words"),
        Line("activations", passing, f"a prefill of {tokens:,} tokens"),
        Line(
            "slack", int(FRAGMENTS * (logits + passing)) + copied, "fragments, and a layer's rows while they are copied"
        ),
    )
    return _needs(lines, gpu, rows, "fewer rows (--backend-option rows=16)", halves=itemsize == 4)


def _of_vllm(shape: ModelShape, options: Mapping[str, str], gpu: Gpu, load: RoleLoad) -> Needs:
    """vLLM takes its share of the memory whole: what weights and activations leave is for keys and values."""
    itemsize = itemsize_of(options, gpu)
    gpus = whole_number(options, "gpus", 1, low=1, high=64)
    share = fraction(options, "memory", 1 - CONTEXT / gpu.memory - VLLM_RESERVED)
    weights, each = shape.weight_bytes(itemsize) // gpus, kv_bytes(shape, itemsize) // gpus
    longest = _longest(shape, options, load)
    adapters = _adapter_bytes(shape, options, gpu, weights)
    passing = _vllm_step(shape, itemsize, gpus, rows_of(options, cpu=gpu.is_cpu))
    room = int(gpu.memory * share) - weights - adapters - passing
    rows = max(1, min(rows_of(options, cpu=gpu.is_cpu), load.count, int(room // max(1, each * load.mean))))
    values = max(longest * each, min(room, rows * longest * each))
    parts = f" / {gpus} GPUs" if gpus > 1 else ""
    lines = [
        Line("weights", weights, f"{shape.parameters:,} parameters x {itemsize} bytes{parts}"),
        Line("keys and values", values, f"{values // each:,} tokens x {each:,} bytes; {count_of(rows, 'row')} at once"),
        Line("activations", passing, f"a step of {VLLM_BATCH:,} tokens, and logits"),
    ]
    if adapters:
        lines.insert(1, Line("adapters", adapters, "room that vLLM reserves for LoRA adapters"))
    most = int(gpu.memory * share)
    hint = _vllm_hint(shape, itemsize, gpus, most, (rows, longest))
    if gpu.is_cpu:
        hint = SHORTER if weights <= most else TOO_SMALL_CPU
    return Needs(tuple(lines), most, rows, weights, hint)


def _vllm_step(shape: ModelShape, itemsize: int, gpus: int, rows: int) -> int:
    """Bytes of the activations of a step, with the logits of all rows."""
    return VLLM_BATCH * itemsize * (4 * shape.width + 2 * shape.inner // gpus) + rows * shape.vocabulary * 4 * 2


def _vllm_hint(shape: ModelShape, itemsize: int, gpus: int, most: int, asked: tuple[int, int]) -> str:
    """How many of these GPUs hold the model, with one of the longest of the `asked` requests (rows, longest)."""
    rows, longest = asked
    held = shape.weight_bytes(itemsize) + longest * kv_bytes(shape, itemsize)
    for more in (one for one in (2, 4, 8) if one > gpus and not (shape.heads or one) % one):
        if held // more + _vllm_step(shape, itemsize, more, rows) <= most:
            return f"--backend-option gpus={more} shares a model among GPUs, context=4096 shortens requests"
    return "a smaller model, or larger GPUs: no eight of these hold it"


def _of_llamacpp(shape: ModelShape, options: Mapping[str, str], gpu: Gpu, load: RoleLoad) -> Needs:  # noqa: ARG001
    """The file, and a cache of whole contexts for all requests in flight, however long these are."""
    parallel, context = llamacpp_parallel(options), llamacpp_context(options)
    return _of_ggml(shape, parallel, min(context, shape.context or context), gpu)


def _of_ollama(shape: ModelShape, options: Mapping[str, str], gpu: Gpu, load: RoleLoad) -> Needs:
    """As llama.cpp; the context is what the backend asks the server for."""
    own = shape.context or 1 << 17
    given = whole_number(options, "context", 0, low=64, high=1 << 24)
    window = ContextWindow(most=min(given or own, own), first=FIRST, fixed=False)
    context = window.size_for(load.widest) if load.widest else window.size
    return _of_ggml(shape, whole_number(options, "parallel", 1, low=1, high=64), context, gpu)


def _of_ggml(shape: ModelShape, parallel: int, context: int, gpu: Gpu) -> Needs:
    each, stored = kv_bytes(shape, 2), shape.stored_bytes()
    passing = MICRO_BATCH * 4 * (shape.vocabulary + 4 * shape.width + 2 * shape.inner)
    how = (
        f"the file {shape.source}" if shape.quantized else f"{shape.parameters:,} parameters at about 4.9 bits (Q4_K_M)"
    )
    lines = (
        Line("weights", stored, how),
        Line(
            "keys and values", parallel * context * each, f"{parallel} requests x {context:,} tokens x {each:,} bytes"
        ),
        Line("activations", passing, f"a step of {MICRO_BATCH} tokens with its logits"),
    )
    hint = "a shorter context (--backend-option context=4096), fewer requests at once (--backend-option parallel=1)"
    return _needs(lines, gpu, parallel, hint)


def _needs(lines: tuple[Line, ...], gpu: Gpu, rows: int, hint: str, *, halves: bool = False) -> Needs:
    """What an engine takes that has its weights, the first of the lines, whole on the device. `halves`: whether another
    dtype makes half of them. `hint`: what to change where they fit and the rest does not.
    """
    most = gpu.memory - (0 if gpu.is_cpu else CONTEXT)
    weights = lines[0].bytes
    if weights > most:
        hint = TOO_SMALL if not gpu.is_cpu else HALVED if halves and weights <= 2 * most else TOO_SMALL_CPU
    return Needs(lines, most, rows, weights, hint)


def _longest(shape: ModelShape, options: Mapping[str, str], load: RoleLoad) -> int:
    """Tokens of the longest request that is not refused for its length."""
    context = whole_number(options, "context", 0, low=16, high=1 << 30) or shape.context
    return min(load.prompts.longest, context) if context else load.prompts.longest


def _of_logit(itemsize: int, load: RoleLoad) -> int:
    """Bytes of a logit while a token is chosen: itself, in fp32, its logarithm; sampled, also sorted and summed up."""
    return itemsize + 8 + (24 if load.sampled else 0)


def _adapter_bytes(shape: ModelShape, options: Mapping[str, str], gpu: Gpu, weights: int) -> int:
    asked = options.get("loras", "").strip()
    if asked in ("", "0"):
        return 0
    config = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "vocab_size": shape.vocabulary,
        "intermediate_size": shape.inner,
        "num_experts": shape.experts,
    }
    rank = whole_number(options, "lora_rank", 16, low=1, high=RANKS[-1])
    dtype = {2: "float16", 4: "float32"}[itemsize_of(options, gpu)]
    each = adapter_bytes(config, rank, dtype)
    count = whole_number(options, "loras", 0, low=0, high=1024) if asked != "auto" else 0
    return each * (count or adapters_that_fit(each, gpu.memory, weights))
