"""What each engine takes of a device unless told otherwise: requests at once, tokens, memory. No engine is imported.

The engines read these numbers when they start, and the plan of a run reads them before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid.backends.options import whole_number
from hybrid.canonical import Json
from hybrid.machine import threads

CPU_CACHE = 2 * 1024**3
"""Bytes for keys and values on a CPU, whose memory is shared with everything else on the machine."""

BFLOAT16_FROM = (8, 0)
"""The compute capability from which on a GPU has units for bfloat16: a T4 (7.5) has none, and torch emulates it slowly,
whatever is_bf16_supported says."""

CACHE_SHARE = 0.4
"""`transformers`: fraction of the free memory for keys and values: rows are copied when they join, and each step needs
memory too."""

ROWS, CPU_ROWS = 256, 16
"""Requests in flight of `transformers` and `vllm`, on a GPU and on a CPU."""

PREFILL, CPU_PREFILL = 16384, 2048
"""`transformers`: padded prompt tokens in one prefill: more is no faster on a CPU and needs memory."""

POLICY_ROWS = 4096
"""Most rows of a decode loop of policies: they wait for nobody, so the memory is the limit."""

VLLM_RESERVED = 0.04
"""Fraction of the GPU's memory that vLLM must not use: it is for CUDA graphs and other libraries' buffers."""

LLAMACPP_CONTEXT, LLAMACPP_PARALLEL, LLAMACPP_MOST_PARALLEL = 8192, 4, 64
"""Tokens of a request and requests in flight of `llamacpp`."""


def sampler_bytes(free: int, weights: int) -> int:
    """What vLLM takes of `free` bytes as the sampler of loops: its own copy of the `weights`, and of the rest a share
    for keys and values; training plans with what is left.
    """
    return weights + int(max(0, free - weights) * CACHE_SHARE)


def cached_bytes(layers: int, kv_heads: int, head: int, itemsize: int) -> int:
    """The keys and values of a token: 2 x layers x key-value heads x head width x bytes of a number."""
    return 2 * layers * kv_heads * head * itemsize


def rows_of(options: Mapping[str, str], *, cpu: bool) -> int:
    """Requests in flight of `transformers` and `vllm`. Raises UsageError."""
    return whole_number(options, "rows", 0, low=1, high=4096) or (CPU_ROWS if cpu else ROWS)


def llamacpp_parallel(options: Mapping[str, str]) -> int:
    """Requests in flight of `llamacpp` on this machine. Raises UsageError."""
    most = min(LLAMACPP_PARALLEL, threads.available_cores())
    return whole_number(options, "parallel", most, low=1, high=LLAMACPP_MOST_PARALLEL)


def llamacpp_context(options: Mapping[str, str]) -> int:
    """Tokens of a request of `llamacpp`, prompt and completion together. Raises UsageError."""
    return whole_number(options, "context", LLAMACPP_CONTEXT, low=64, high=1 << 20)


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How many trainings share a pass and a group, and seconds between checkpoints."""

    slots: int
    tokens: int
    group: int
    checkpoint: int

    @classmethod
    def of(cls, options: Mapping[str, str], *, cpu: bool, half: bool, apart: bool) -> TrainingOptions:
        """`half`: the device computes in float16. `apart`: another engine answers. Raises UsageError."""
        tokens = 2048 if cpu else 6144 if half else 16384
        return cls(
            whole_number(options, "slots", 8 if cpu else 32, low=1, high=1000),
            whole_number(options, "train_tokens", tokens, low=16, high=1 << 24),
            whole_number(options, "group", 32 if apart else 16, low=1, high=1 << 20),
            whole_number(options, "checkpoint", 300, low=0, high=1 << 24),
        )

    def to_json(self) -> dict[str, Json]:
        """The options that affect results, through rounding."""
        return {"slots": self.slots, "tokens": self.tokens, "group": self.group}
