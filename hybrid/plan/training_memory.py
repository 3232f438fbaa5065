"""What training takes of a device's memory, from a model's shape alone: the costs of a pass, which an engine measures,
and with them the engine's own plan.

The terms are those of the pass of a gated transformer with packed texts (`hybrid.training`): what is kept of a token
between the forward and the backward pass, and what exists at the peak beside it. They are held against measurements by
`tests/plan/test_training_memory.py` and `benchmarks/plan.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from hybrid.backends.capacity import CPU_CACHE, TrainingOptions, sampler_bytes
from hybrid.backends.options import fraction
from hybrid.errors import CannotRun
from hybrid.plan.gpus import GIB, Gpu
from hybrid.plan.memory import CONTEXT, Line, Needs, itemsize_of
from hybrid.plan.shapes import ModelShape
from hybrid.plan.training_texts import TrainingTexts
from hybrid.training.memory import BYTES_PER_PARAMETER, MemoryPlan, PassCosts, Work, aligned, choose_plan
from hybrid.training.policy_memory import (
    CHUNK_NUMBERS,
    CPU_CHUNK_NUMBERS,
    PassBytes,
    PolicyPlan,
    adapter_bytes,
    describe_adapters,
    describe_full,
    full_bytes,
    plan_passes,
    refuse_held,
    tokens_of_a_pass,
)
from hybrid.training.policy_memory import PassCosts as PolicyCosts
from hybrid.tuning import PolicyTuning

OF_A_LOGIT = 12
"""Bytes of a word of a label: logits, their copy in fp32 and its gradient."""
NORMED = ("qwen3", "qwen3_moe", "gemma3_text")
"""Families that normalise queries and keys."""
INNER = {"gpt2": 6}
"""Vectors of an MLP's width that a family keeps, whose activation is made of many operations; gated ones keep 3."""
LEAST_TOKENS = 64
CLASSIFIER_TOKENS = 16384
"""Tokens of a pass of classifiers on a GPU, where memory allows them."""


def linear_widths(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of the linear layers of a block."""
    width, queries, keys = shape.width, shape.heads * shape.head, shape.kv_heads * shape.head
    if shape.family == "gpt2":
        return {"c_attn": (width, 3 * width), "c_proj": (width + shape.inner, 2 * width), "c_fc": (width, shape.inner)}
    found = {"q_proj": (width, queries), "k_proj": (width, keys), "v_proj": (width, keys), "o_proj": (queries, width)}
    if shape.gated:
        found["gate_proj"] = (width, shape.inner)
    return {**found, "up_proj": (width, shape.inner), "down_proj": (shape.inner, width)}


def trained_layers(shape: ModelShape, targets: Collection[str]) -> dict[str, tuple[int, int]]:
    """The linear layers that adapters change: those that `targets` name, all for none."""
    every = linear_widths(shape)
    named = {name: widths for name, widths in every.items() if any(name.endswith(one) for one in targets)}
    return named or every


def adapter_parameters(shape: ModelShape, rank: int, targets: Collection[str]) -> int:
    """The numbers of an adapter in a bank."""
    return shape.layers * aligned(rank) * sum(map(sum, trained_layers(shape, targets).values()))


def kept_bytes(shape: ModelShape, rank: int, targets: Collection[str], itemsize: int, *, expanded: bool) -> int:
    """Bytes of a token that a block keeps for its backward pass.

    `expanded`: keys and values are copied for the heads that share them, as before Ampere.
    """
    width, inner, queries = shape.width, shape.inner, shape.heads * shape.head
    keys = queries if expanded else shape.kv_heads * shape.head
    named = trained_layers(shape, targets)

    def trained(*names: str) -> bool:
        return any(name in named for name in names)

    numbers = width * trained("q_proj", "k_proj", "v_proj") + width * trained("gate_proj", "up_proj")
    numbers += (
        INNER.get(shape.family, 3 if shape.gated else 2) * inner
        + inner * trained("down_proj")
        + 2 * queries
        + 2 * keys
        + queries * trained("o_proj")
    )
    numbers += aligned(rank) * len(named) if rank else 0
    norms = 4 * (2 * width + 2)
    if shape.family in NORMED:
        norms += 4 * (queries + shape.kv_heads * shape.head + shape.heads + shape.kv_heads)
    return itemsize * numbers + norms + 4 * shape.heads


def pass_costs(
    shape: ModelShape, rank: int, targets: Collection[str], itemsize: int, *, expanded: bool, checkpointed: bool
) -> PassCosts:
    """The costs of a pass of adapters, as `hybrid.training.measure` measures them."""
    kept = kept_bytes(shape, rank, targets, itemsize, expanded=expanded)
    turned = 2 * itemsize * shape.head  # the cosines and sines of positions
    mlp = itemsize * (2 * shape.inner + 2 * aligned(rank))
    slot = 0 if itemsize == 4 else itemsize * adapter_parameters(shape, rank, targets)
    label = OF_A_LOGIT * shape.vocabulary
    if not checkpointed:
        return PassCosts(slot, shape.layers * kept + turned + max(mlp, 20 * shape.width), 0.0, label)
    norms = 7 * itemsize * shape.width if itemsize < 4 else 0  # which compute in fp32
    passing = kept + max(mlp, norms) - itemsize * shape.width
    held = shape.layers * itemsize * shape.width + turned + 4 * shape.width
    return PassCosts(slot, held + passing, 0.0, label, True, passing)


class On(NamedTuple):
    """A model with weights of `itemsize` bytes a number on a device."""

    shape: ModelShape
    itemsize: int
    gpu: Gpu

    @property
    def expanded(self) -> bool:
        """Whether attention copies keys and values for the heads that share them."""
        return self.gpu.half and self.shape.heads != self.shape.kv_heads

    @property
    def free(self) -> int:
        """Bytes that training may plan with, beside the frozen weights."""
        if self.gpu.is_cpu:
            return max(CPU_CACHE, self.gpu.memory // 2)
        return self.gpu.memory - CONTEXT - self.shape.weight_bytes(self.itemsize)

    def beside(self, sampler: int) -> On:
        """The device without the bytes that another sampler takes of it."""
        return self._replace(gpu=replace(self.gpu, memory=self.gpu.memory - sampler)) if sampler else self

    @property
    def most(self) -> int:
        """Bytes that may be taken in all."""
        return self.gpu.memory if self.gpu.is_cpu else self.gpu.memory - CONTEXT

    @property
    def weights(self) -> Line:
        how = f"{self.shape.parameters:,} parameters x {self.itemsize} bytes"
        return Line("weights", self.shape.weight_bytes(self.itemsize), how)


def training_plan(
    on: On, texts: TrainingTexts, rank: int, targets: Collection[str], options: TrainingOptions
) -> MemoryPlan:
    """The plan of a stage's trainings, by the engine's own arithmetic. Raises CannotRun with it where nothing fits."""
    work = Work(texts.largest, texts.tokens / max(1, texts.steps), adapter_parameters(on.shape, rank, targets))

    def costs(checkpointed: bool) -> PassCosts:
        return pass_costs(on.shape, rank, targets, on.itemsize, expanded=on.expanded, checkpointed=checkpointed)

    group = max(1, min(options.slots, options.group, texts.trainings))
    return choose_plan(costs, lambda _: work, slots=group, tokens=options.tokens, free=on.free, cpu=on.gpu.is_cpu)


def training_needs(
    shape: ModelShape,
    texts: TrainingTexts,
    tuned: tuple[int, Sequence[str]],
    options: Mapping[str, str],
    gpu: Gpu,
    backend: str,
) -> tuple[Needs, MemoryPlan | None]:
    """What a stage's trainings take, `tuned` being rank and targets, and the plan; None where it does not fit."""
    rank, targets = tuned
    on = On(shape, itemsize_of(options, gpu), gpu)
    own = TrainingOptions.of(options, cpu=gpu.is_cpu, half=gpu.half, apart=backend == "vllm")
    try:
        plan = training_plan(on, texts, rank, targets, own)
    except CannotRun as error:
        each = BYTES_PER_PARAMETER * adapter_parameters(shape, rank, targets)
        return Needs(
            (on.weights, Line("one adapter", max(each, on.most), error.message)), on.most, hint=error.hint
        ), None
    lines = (
        on.weights,
        Line("adapters in training", plan.slots * plan.per_slot, f"{plan.slots} at once, values, gradients, moments"),
        Line("activations", plan.activations, _activations(plan)),
    )
    return Needs(lines, on.most, plan.slots, on.weights.bytes), plan


def _activations(plan: MemoryPlan) -> str:
    twice = "; each layer computed again" if plan.checkpointed else ""
    return f"up to {plan.tokens:,} tokens x {plan.per_token:,} bytes, {plan.per_label:,} a label{twice}"


def policy_costs(on: On, tuning: PolicyTuning, *, checkpointed: bool) -> PolicyCosts:
    """The costs of a pass of policies, as `hybrid.training.policy_measure` measures them."""
    shape, itemsize = on.shape, on.itemsize
    kept = kept_bytes(shape, tuning.rank, tuning.targets, itemsize, expanded=on.expanded)
    beside = 2 * itemsize * shape.head + max(2 * itemsize * shape.inner, 20 * shape.width)
    held = shape.layers * (itemsize * shape.width if checkpointed else kept) + 4 * shape.width
    peak = held + (kept if checkpointed else 0) + beside
    numbers = CPU_CHUNK_NUMBERS if on.gpu.is_cpu else CHUNK_NUMBERS
    return PolicyCosts(
        PassBytes(0.0, held, 0.0),
        PassBytes(0.0, peak, 0.0),
        0 if tuning.rank else 4 * shape.output_head,
        per_label=4 * shape.width * itemsize,
        per_logits=shape.vocabulary * (4 if itemsize == 4 else 4 + itemsize),
        chunk=max(16, numbers // shape.vocabulary),
        checkpointed=checkpointed,
    )


def policy_needs(
    shape: ModelShape, models: int, tuning: PolicyTuning, longest: int, options: Mapping[str, str], gpu: Gpu
) -> Needs:
    """What so many policies take while they train, by the engine's own plan. `longest`: tokens of a text."""
    whole = On(shape, itemsize_of(options, gpu), gpu)
    sampler = vllm_beside(whole, tuning, options)
    if (beside := sum(line.bytes for line in sampler)) > whole.most - whole.weights.bytes:
        hint = "--set rank=32 with sampler=vllm, a smaller model or a larger GPU; or without that sampler"
        return Needs((whole.weights, *sampler), whole.most, hint=hint)
    on = whole.beside(beside)
    parameters = adapter_parameters(shape, tuning.rank, tuning.targets) if tuning.rank else shape.parameters
    held = (adapter_bytes if tuning.rank else full_bytes)(parameters, models)
    arithmetic = (describe_adapters if tuning.rank else describe_full)(parameters, models)
    lines = [on.weights, *sampler, Line("policies", held, arithmetic)]
    try:
        refuse_held(held, on.free, arithmetic)
        plan = _policy_plan(on, tuning, held, arithmetic, longest)
    except CannotRun as error:
        lines.append(Line("a pass", max(0, on.most - on.weights.bytes - held) + 1, error.message))
        return Needs(tuple(lines), whole.most, hint=error.hint)
    costs, tokens = plan.costs, plan.tokens
    chunk = min(costs.chunk, tokens) * costs.per_logits
    twice = "; each layer computed again" if costs.checkpointed else ""
    passing = max(0, min(plan.room, costs.of(tokens, tokens, tokens)) - chunk)
    lines.append(Line("activations", passing, f"passes of up to {tokens:,} tokens{twice}"))
    lines.append(Line("logits", chunk, f"a chunk of {costs.chunk:,} labels"))
    return Needs(tuple(lines), whole.most, models, on.weights.bytes)


def vllm_beside(on: On, tuning: PolicyTuning, options: Mapping[str, str]) -> tuple[Line, ...]:
    """What vLLM takes where it samples for the policies, by the engine's own division of the memory."""
    if options.get("sampler", "").strip() != "vllm":
        return ()
    if not tuning.rank:
        return (Line("vLLM, which samples", on.most + 1, "it samples with adapters alone: not with rank=0"),)
    weights = on.weights.bytes
    if on.gpu.is_cpu:
        return (Line("vLLM, which samples", weights + GIB, "its weights, and 1 GiB of keys and values"),)
    free = max(0, on.gpu.memory - CONTEXT - weights)
    taken = int(fraction(options, "memory", sampler_bytes(free, weights) / on.gpu.memory) * on.gpu.memory)
    return (Line("vLLM, which samples", taken, "its weights, adapters, keys and values"),)


def _policy_plan(on: On, tuning: PolicyTuning, held: int, arithmetic: str, longest: int) -> PolicyPlan:
    """With layers that are computed again if only so a pass fits, or a full one."""
    tokens, least = tokens_of_a_pass(on.shape.width, cpu=on.gpu.is_cpu), max(LEAST_TOKENS, longest)
    refused: CannotRun | None = None
    found: PolicyPlan | None = None
    for checkpointed in (False, True):
        costs = policy_costs(on, tuning, checkpointed=checkpointed)
        try:
            found = plan_passes(held, on.free, arithmetic, costs, tokens=tokens, least=least)
        except CannotRun as error:
            refused = error
            continue
        if found.allows(tokens, tokens, tokens):
            break
    if found is None:
        raise refused or ValueError("there was nothing to plan")
    return found


def classifier_needs(
    shape: ModelShape, models: int, tuning: PolicyTuning, longest: int, options: Mapping[str, str], gpu: Gpu
) -> Needs:
    """What so many classifiers over one encoder take while they train; an estimate, by the terms of the other banks.

    `longest`: tokens of a text. With rank 0 every model has all parameters of its own.
    """
    on = On(shape, 4 if gpu.is_cpu else itemsize_of(options, gpu), gpu)
    parameters = adapter_parameters(shape, tuning.rank, tuning.targets) if tuning.rank else shape.parameters
    held = (adapter_bytes if tuning.rank else full_bytes)(parameters, models)
    arithmetic = (describe_adapters if tuning.rank else describe_full)(parameters, models)
    kept = shape.layers * kept_bytes(shape, tuning.rank, tuning.targets, on.itemsize, expanded=False)
    room = max(0, on.free - held)
    tokens = max(longest, min(CLASSIFIER_TOKENS, models * longest, room // (2 * kept)))
    lines = (
        on.weights,
        Line("classifiers", held, arithmetic),
        Line("activations", tokens * kept, f"a pass of {tokens:,} tokens x {kept:,} bytes"),
    )
    hint = "fewer clients, a smaller rank (--set rank=4), shorter texts (--set longest=64)"
    return Needs(lines, on.most, models, on.weights.bytes, hint)
