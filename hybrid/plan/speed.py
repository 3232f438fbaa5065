"""How long a device computes: a model of it by its operations and bandwidth a second, from bad to good.

Prompts are bound by operations, answers by the bytes of the weights and of the keys and values that every step reads
(Pope et al. 2022, arXiv 2211.05102), and small models by the time in which a program starts the kernels of a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid.loads import RoundsLoad
from hybrid.plan.gpus import Gpu
from hybrid.plan.memory import Needs
from hybrid.plan.shapes import ModelShape, kv_bytes
from hybrid.plan.training_texts import TrainingTexts
from hybrid.plan.workload import RoleLoad
from hybrid.training.memory import MemoryPlan
from hybrid.training.memory import Work as MemoryWork
from hybrid.training.policy_memory import PASS_TOKENS

BANDWIDTH_REACHED = (0.5, 0.8)
"""Share of the memory's bandwidth that a step of decoding reaches, from bad to good."""
ANSWERED = 0.25
"""Share of the tokens that answers may have which they are taken to have in the best case: most end before."""
STEP_OF_A_LAYER = {"transformers": (0.9e-3, 0.3e-3)}
"""Seconds in which a program starts the kernels of a layer in a step on a GPU, from bad to good."""
STEP = {"vllm": (6e-3, 2e-3), "llamacpp": (3e-3, 0.5e-3), "ollama": (5e-3, 1e-3), "transformers": (2e-3, 0.5e-3)}
"""The same of the whole step, in addition."""
START = {"vllm": (180.0, 40.0), "llamacpp": (10.0, 0.3), "ollama": (60.0, 1.0), "transformers": (40.0, 6.0)}
"""Seconds until an engine is ready, without reading the weights."""
DISK = (0.2e9, 2e9)
"""Bytes of weights that are read a second."""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds at least and at most."""

    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def times(self, low: float, high: float) -> Span:
        """Each end multiplied by its own factor."""
        return Span(self.low * low, self.high * high)


NO_TIME = Span()


@dataclass(frozen=True, slots=True)
class Work:
    """What a device computes for answers: tokens of prompts and of completions, requests, their mean length."""

    prompt_tokens: float
    new_tokens: float
    requests: int
    mean: float


def work_of(load: RoleLoad, share: float = 1.0) -> Work:
    """The work of a load whose answers have `share` of the tokens that they may have."""
    new = load.new * share
    return Work(load.prompts.total, new, load.count, (load.prompts.total + new) / max(1, load.count))


def answering(backend: str, shape: ModelShape, needs: Needs, gpu: Gpu, load: RoleLoad) -> Span:
    """Seconds of the answers to a load, without starting the engine."""
    low = seconds_of(backend, shape, needs, gpu, work_of(load, ANSWERED), good=True)
    return Span(low, seconds_of(backend, shape, needs, gpu, work_of(load), good=False))


def seconds_of(backend: str, shape: ModelShape, needs: Needs, gpu: Gpu, work: Work, *, good: bool) -> float:
    """Seconds of some work on a device that does well or badly."""
    side = int(good)
    flops, bandwidth = gpu.flops * gpu.reached[side], gpu.bandwidth * BANDWIDTH_REACHED[side]
    rows = max(1, min(needs.rows, work.requests))
    reading = 2 * shape.matrices * work.prompt_tokens + 2 * shape.output_head * work.requests
    reading += 2 * shape.layers * shape.heads * shape.head * work.mean * work.prompt_tokens
    read = needs.stored + rows * work.mean * kv_bytes(shape, 2)
    step = max(read / bandwidth, 2 * rows * (shape.matrices + shape.output_head) / flops)
    started = STEP.get(backend, (0.0, 0.0))[side]
    if not gpu.is_cpu:
        started += STEP_OF_A_LAYER.get(backend, (0.0, 0.0))[side] * shape.layers
    return reading / flops + work.new_tokens / rows * (step + started)


OVERHEAD_OF_A_PASS = (2.5e-3, 1.2e-3)
"""Seconds in which a GPU's program starts the kernels of a layer's forward and backward pass, from bad to good."""


SINGLE = 10
"""Times that operations at 16 bit are faster than at 32, on a GPU."""
OVERHEAD_OF_A_ROUND = (1.0, 0.05)
"""Seconds of a round beside its operations: measuring, starting kernels, keeping the state."""


def training(shape: ModelShape, texts: TrainingTexts, parameters: int, plan: MemoryPlan | None, gpu: Gpu) -> Span:
    """Seconds of training adapters with so many `parameters` each.

    Operations of a token: 4 a frozen parameter (forward, and the gradient through it), 6 one of the adapter, and 4 of
    the output head for a label; half as many again of the frozen ones where layers are computed twice.
    """
    twice = 1.5 if plan and plan.checkpointed else 1.0
    flops = texts.tokens * (4 * twice * shape.matrices + 6 * parameters) + 4 * shape.output_head * texts.labels
    mean = texts.tokens / max(1, texts.steps)
    flops += 7 * shape.layers * shape.heads * shape.head * mean / 2 * texts.tokens
    together = max(1.0, plan.tokens_in_flight(_steps_of(texts)) / max(1.0, mean)) if plan else 1.0
    return _trained(flops, texts.steps / together * (0 if gpu.is_cpu else shape.layers), gpu)


def rounds(shape: ModelShape, load: RoundsLoad, parameters: int, gpu: Gpu) -> Span:
    """Seconds of the training in rounds, all tokens being labels of models with so many trained `parameters` each."""
    flops = load.trained_tokens * (4 * shape.matrices + 6 * parameters + 4 * shape.output_head)
    passes = max(load.rounds, load.trained_tokens // PASS_TOKENS)
    return _trained(flops, passes * (0 if gpu.is_cpu else shape.layers), gpu) + _between(load.rounds)


def computing(load: RoundsLoad, gpu: Gpu) -> Span:
    """Seconds of rounds of a model of its own that computes in fp32."""
    return _trained(load.operations * (1 if gpu.is_cpu else SINGLE), 0.0, gpu) + _between(load.rounds)


def _between(count: int) -> Span:
    return Span(count * OVERHEAD_OF_A_ROUND[1], count * OVERHEAD_OF_A_ROUND[0])


def _trained(flops: float, layers: float, gpu: Gpu) -> Span:
    bad, good = (flops / (gpu.flops * gpu.reached[side]) + layers * OVERHEAD_OF_A_PASS[side] for side in (0, 1))
    return Span(good, bad)


def _steps_of(texts: TrainingTexts) -> MemoryWork:
    return MemoryWork(texts.largest, texts.tokens / max(1, texts.steps), 0)


def starting(backend: str, needs: Needs) -> Span:
    """Seconds until an engine is ready, with its weights."""
    high, low = START.get(backend, (0.0, 0.0))
    return Span(low + needs.stored / DISK[1], high + needs.stored / DISK[0])


def scaled(span: Span, factors: Mapping[str, tuple[float, float]], name: str) -> Span:
    """A span with the factors that are known for a name, if any."""
    low, high = factors.get(name, (1.0, 1.0))
    return span.times(low, high)
