"""Completions of policies by vLLM's engine, which has weights of its own beside the trainer's and the slots' adapters.

A slot's adapter is written to memory as PEFT's files and given to vLLM as a new one whenever it has changed: vLLM keeps
weights under an adapter's number, and keys and values of prompts under its name, which has the digest: neither is ever
used again for other weights.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from vllm import RequestOutput
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from hybrid.backends.adapter_files import AdapterFiles
from hybrid.backends.capacity import sampler_bytes
from hybrid.backends.completions import Detokenizer
from hybrid.backends.load_hints import VLLM_SAMPLER, VLLM_SAMPLER_ELSE
from hybrid.backends.ranks import supported_rank
from hybrid.backends.vllm_engine import (
    Advice,
    engine_arguments,
    engine_version,
    explained_errors,
    sampling_params,
    start_engine,
    stop_engine,
)
from hybrid.errors import CannotRun
from hybrid.loops import Prompt, Sampled
from hybrid.training.adapters import adapter_digest, from_bytes
from hybrid.tuning import PolicyTuning

LOGPROBS = "processed_logprobs"
"""Those of the distribution that a token is drawn from: at its temperature, and within its nucleus."""

MORE_ROOM = ("--backend-option memory=N, more than before", "VLLM_CPU_KVCACHE_SPACE=N in the environment, in GiB")
"""For keys and values, on a GPU and on a CPU."""
BESIDE = Advice(
    VLLM_SAMPLER,
    VLLM_SAMPLER_ELSE,
    "out of memory beside the trainer: --backend-option memory=N, less than before, or rows=64",
)


class AdaptedBank(Protocol):
    """The adapters of the slots."""

    slots: int

    def digest(self, slot: int) -> str: ...

    def adapter(self, slot: int) -> bytes: ...


class Held(NamedTuple):
    """An adapter that the engine has: the digest of the slot's weights, that of its file, and how requests name it."""

    weights: str
    file: str
    lora: LoRARequest


class SamplerEngine:
    """vLLM's engine for the loops of a backend, one after the other. Started when it is first needed, and again for
    more slots or a larger rank than it was started for.

    `options`: those of the backend `vllm`. `weights`: bytes of the model. `device`: cuda or cpu, where it is trained.
    Raises CannotRun where vLLM computes on another one.
    """

    def __init__(self, folder: Path, options: Mapping[str, str], weights: int, device: str) -> None:
        if current_platform.device_type != device:
            raise CannotRun(
                f"vLLM computes on {current_platform.device_type} here, and the policies are trained on {device}",
                hint="--backend-option device=cuda where vLLM has a GPU; else without sampler=vllm",
            )
        self._folder, self._options, self._weights = folder, dict(options), weights
        self._slots = self._rank = self._numbers = 0
        self._engine: Any = None
        self.starts = 0
        """How often vLLM was started: no engine has the adapters of the one before."""
        self.name = f"vllm {engine_version()}"

    def start(self, slots: int, tuning: PolicyTuning) -> None:
        """Start vLLM for the policies of a loop. Raises CannotRun, also for policies that have no adapters."""
        if not tuning.rank:
            raise CannotRun(
                "sampler=vllm samples with adapters, and with rank=0 all parameters of a policy are trained",
                hint="--set rank=32 trains adapters; without --backend-option sampler=vllm the trainer's model samples",
            )
        self.opened(slots, supported_rank(tuning.rank))

    def sampler(self, bank: AdaptedBank, rank: int, detokenizer: Detokenizer, ends: frozenset[int]) -> VllmSampler:
        """What samples from the policies of a bank."""
        return VllmSampler(self, bank, supported_rank(rank), detokenizer, ends)

    def opened(self, slots: int, rank: int) -> Any:
        """The engine for so many adapters at once. Raises CannotRun."""
        if self._engine is not None and slots <= self._slots and rank <= self._rank:
            return self._engine
        self.close()
        slots, rank = max(slots, self._slots), max(rank, self._rank)
        try:
            arguments = engine_arguments(self._vllm_options(slots, rank), self._folder)
            self._engine = start_engine(self._folder, {**arguments, "logprobs_mode": LOGPROBS}, BESIDE)
        except CannotRun as error:
            hint = "without --backend-option sampler=vllm the trainer's own model samples"
            raise CannotRun(error.message, hint=f"{error.hint}; {hint}" if error.hint else hint) from error
        self._slots, self._rank = slots, rank  # not those of a start that failed: smaller loops go on
        self.starts += 1
        return self._engine

    def _vllm_options(self, slots: int, rank: int) -> dict[str, str]:
        options = {**self._options, "loras": str(slots), "lora_rank": str(rank), "sleep": "false"}
        if not (current_platform.is_cpu() or options.get("memory")):
            gc.collect()
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info()
            options["memory"] = f"{sampler_bytes(free, self._weights) / total:.4f}"
        return options

    def number(self) -> int:
        """A number that was not used before."""
        self._numbers += 1
        return self._numbers

    def forget(self, adapters: Sequence[LoRARequest]) -> None:
        """Remove adapters of a loop that ends from the engine."""
        for one in adapters:
            with suppress(Exception):  # of an engine that has died
                self._engine.remove_lora(one.lora_int_id)

    def close(self) -> None:
        """Free its memory."""
        if self._engine is not None:
            stop_engine(self._engine)
            self._engine = None


class VllmSampler:
    """Samples from the policies of a bank of adapters of up to `rank`.

    `decode_steps`, `prefilled` and `passes` count the steps of the engine, the prompt tokens that it computed, and the
    calls. What a row draws depends on its own seed, up to the rounding of sums: vLLM computes a row with others in an
    order of its own.
    """

    def __init__(
        self, engine: SamplerEngine, bank: AdaptedBank, rank: int, detokenizer: Detokenizer, ends: frozenset[int]
    ) -> None:
        self._engine, self._bank, self._rank = engine, bank, rank
        self._detokenizer, self._ends = detokenizer, ends
        self.name = engine.name
        self.decode_steps = self.prefilled = self.passes = 0
        self._files = AdapterFiles("policies of a smaller rank, or fewer of them, need less")
        self._held: dict[int, Held] = {}
        self._start = 0
        """Of `SamplerEngine.starts`: the engine that has these adapters."""

    def sample(self, prompts: Sequence[Prompt]) -> list[Sampled]:
        """`hybrid.loops.Policies.sample`, for prompts that fit the context. Raises CannotRun, Temporary."""
        if not prompts:
            return []
        engine = self._engine.opened(self._bank.slots, self._rank)
        if self._engine.starts != self._start:
            self._files.forget([held.file for held in self._held.values()])
            self._held, self._start = {}, self._engine.starts
        self._refuse_long(prompts, int(engine.model_config.max_model_len))
        loras = {slot: self._adapter(engine, slot) for slot in sorted({one.slot for one in prompts})}
        self.passes += 1
        running: dict[str, int] = {}
        found: dict[int, Sampled] = {}
        try:
            for number, one in enumerate(prompts):
                running[self._asked(engine, one, loras[one.slot])] = number
            while running:
                with explained_errors((), BESIDE):
                    outputs = engine.step()
                self.decode_steps += 1
                for output in outputs:
                    if output.finished and output.request_id in running:
                        number = running.pop(output.request_id)
                        found[number] = self._sampled(prompts[number], output)
        finally:
            if running:
                with suppress(Exception):  # an engine that has died has ended them; why it died is what is raised
                    engine.abort_request(list(running))
        return [found[number] for number in range(len(prompts))]

    def close(self) -> None:
        """Free the adapters; the engine goes on for the next loop."""
        if self._engine.starts == self._start:
            self._engine.forget([held.lora for held in self._held.values()])
        self._held = {}
        self._files.close()

    @staticmethod
    def _refuse_long(prompts: Sequence[Prompt], room: int) -> None:
        """Raise CannotRun for a prompt that is longer, with its completion, than what vLLM has memory for."""
        longest = max(len(one.ids) + one.sampling.max_tokens for one in prompts)
        if longest > room:
            raise CannotRun(
                f"vLLM takes {room:,} tokens of prompt and completion here, and {longest:,} are asked for",
                hint=f"{MORE_ROOM[current_platform.is_cpu()]}, a larger context=N if it was set, or fewer max_tokens",
            )

    def _adapter(self, engine: Any, slot: int) -> LoRARequest:
        """The present adapter of a slot, which takes the place of an earlier one."""
        weights, held = self._bank.digest(slot), self._held.get(slot)
        if held and held.weights == weights:
            return held.lora
        if held:
            with explained_errors((), BESIDE):
                engine.remove_lora(held.lora.lora_int_id)
            self._files.forget([held.file])
            del self._held[slot]
        data = self._bank.adapter(slot)
        file = f"{slot}-{adapter_digest(data)}"  # two slots may begin with the same one
        path = self._files.put(file, from_bytes(data, f"the adapter of slot {slot}"), data)
        lora = LoRARequest(file, self._engine.number(), str(path))
        with explained_errors((), BESIDE):
            engine.add_lora(lora)
        self._held[slot] = Held(weights, file, lora)
        return lora

    def _asked(self, engine: Any, prompt: Prompt, lora: LoRARequest) -> str:
        """Give a prompt to the engine. Returns the request's id."""
        name = str(self._engine.number())
        with explained_errors((), BESIDE):
            (rendered,) = engine.renderer.render_cmpl([{"prompt_token_ids": list(prompt.ids)}])
            stops = bool(prompt.sampling.stop)
            sampling = sampling_params(prompt.sampling, self._ends, logprobs=True, detokenize=stops)
            engine.add_request(name, rendered, sampling, lora_request=lora)
        return name

    def _sampled(self, prompt: Prompt, output: RequestOutput) -> Sampled:
        answer = output.outputs[0]
        if answer.finish_reason not in ("stop", "length"):
            raise CannotRun(f"vLLM gave up on a completion: {answer.finish_reason}", hint="fewer rows: rows=64")
        self.prefilled += len(output.prompt_token_ids or ()) - (output.num_cached_tokens or 0)
        ids = tuple(answer.token_ids)
        text = self._detokenizer.completion(list(ids), self._ends, prompt.sampling.stop)
        told = zip(answer.logprobs or (), ids, strict=True)
        return Sampled(ids, text, answer.finish_reason == "stop", tuple(one[token].logprob for one, token in told))
