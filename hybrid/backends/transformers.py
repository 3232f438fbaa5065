"""The backend `transformers`: any causal language model of Hugging Face's library, on any GPU or on the CPU.

It has its own continuous batching (`hybrid.backends.batch`). The library's `generate_batch` (5.19) samples all requests
from one global random state, has no stop strings, and is fast only with flash attention: with `sdpa` every request
attends to the cache of all others under a mask. The library's `generate` waits for the slowest row. Greedy texts were
compared with those of both and are the same.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from hybrid.backends.adapter_cache import AdapterCache
from hybrid.backends.batch import Batch
from hybrid.backends.capacity import CACHE_SHARE, CPU_PREFILL, POLICY_ROWS, PREFILL, rows_of
from hybrid.backends.chat_templates import chat_template_of
from hybrid.backends.completions import Detokenizer
from hybrid.backends.decoding import Sequence as InFlight
from hybrid.backends.devices import Device, find_device, free_memory
from hybrid.backends.load_hints import TRANSFORMERS, TRANSFORMERS_ELSE, cannot_load, reason_of, stopped
from hybrid.backends.options import fraction, one_of, whole_number
from hybrid.backends.policies import LanguageModelPolicies, Sampler
from hybrid.backends.policy_cache import bytes_of_token
from hybrid.backends.policy_sampling import Limits, PolicySampler
from hybrid.backends.prompts import BadRequest, refused, token_ids
from hybrid.canonical import digest
from hybrid.errors import BadData, CannotRun, HybridError, UsageError
from hybrid.folder.tensors import MAX_TOTAL
from hybrid.loops import EncodedText, Policies
from hybrid.machine.late_imports import import_object
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import context_of, digest_of, locate
from hybrid.model_files.weight_files import check_files
from hybrid.model_files.weights import quiet_transformers, refuse_incomplete
from hybrid.protocols import Model
from hybrid.records import Adapter, Completion, Request
from hybrid.thoughts import thinking_provenance
from hybrid.training.policies import policy_bank
from hybrid.tuning import PolicyTuning


class TransformersBackend:
    """Continuous batching over a Hugging Face model: a finished request is replaced by the next one at once."""

    options: ClassVar[Mapping[str, str]] = {
        "device": "auto, cpu, cuda, mps or xpu (default auto: the accelerator that torch sees)",
        "dtype": "auto, float32, float16, bfloat16 (auto: bfloat16 from Ampere on, float16 before, float32 on a CPU)",
        "context": "tokens of prompt and completion together (default: what the model was made for)",
        "rows": "requests in flight (default 256 on a GPU, 16 on a CPU, what fits the memory for loops); with 1, no "
        "answer depends on its neighbours",
        "tokens": "cached tokens of all requests in flight (default: from the free memory)",
        "threads": "CPU threads (default: torch's)",
        "loras": "LoRA adapters in one batch (default 16)",
        "sampler": "for loops: transformers, or vllm: it samples, with weights of its own; adapters only (default the "
        "model that is trained)",
        "memory": "with sampler=vllm: part of the GPU's memory for vLLM (default: weights, and 0.4 of the rest)",
        "eager": "with sampler=vllm: auto, true, false: no compiling, no CUDA graphs; starts sooner, runs slower",
        "train_tokens": "for loops: tokens of a training pass (default: from the free memory)",
        "checkpoint": "for loops: least seconds between two states that are kept, 0 for one a round (default 30)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        path = locate(model)
        device = find_device(
            one_of(options, "device", ("auto", "cpu", "cuda", "mps", "xpu")),
            one_of(options, "dtype", ("auto", "float32", "float16", "bfloat16")),
        )
        sampling = _sampling_options(options)
        threads = whole_number(options, "threads", 0, low=1, high=1024)
        context = whole_number(options, "context", 0, low=16, high=1 << 30)
        tokens = whole_number(options, "tokens", 0, low=16, high=1 << 40)
        self._rows = rows_of(options, cpu=device.kind == "cpu")
        self._policy_rows = whole_number(options, "rows", POLICY_ROWS, low=1, high=4096)
        self._train_tokens = whole_number(options, "train_tokens", 0, low=16, high=1 << 24)
        self.checkpoint = whole_number(options, "checkpoint", 30, low=0, high=1 << 24)
        self._prefill = CPU_PREFILL if device.kind == "cpu" else PREFILL
        if threads:
            torch.set_num_threads(threads)
        folder = as_folder(path)
        context = context_of(folder, context)
        self._tokenizer, self.engine = load(str(folder), device)
        self.found_device = device
        self.adapter_cache = AdapterCache(self.engine, whole_number(options, "loras", 16, low=1, high=1024))
        self._chat_template = chat_template_of(self._tokenizer, model)
        self._chat_template.warn()
        self._ends = _end_tokens(self.engine.generation_config, self._tokenizer) | self._chat_template.ends
        self._grammars: Any = None
        self._vllm: Any = None
        if sampling:
            own = {"dtype": device.dtype_name, **sampling}
            self._vllm = _sampler_engine()(folder, own, self.engine.get_memory_footprint(), device.kind)
        self._tokens, self._given_tokens = tokens or _cache_tokens(self.engine.config, device), tokens
        self.model = Model(
            name=model,
            digest=digest_of(path),
            context=context,
            about={
                "engine": "transformers",
                "version": f"transformers {version('transformers')}, torch {version('torch')}",
                "device": device.name,
                "dtype": device.dtype_name,
                "chat_template": digest(str(self._tokenizer.chat_template or "")),
                **thinking_provenance(str(self._tokenizer.chat_template or "")),
                "options": {"context": context, "rows": self._rows},  # they affect results too
                **self._chat_template.about(),
                **({"sampler": self._vllm.name} if self._vllm else {}),
            },
        )

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Completions as they finish; new requests are prefilled when an eighth of the batch is free."""
        room = {"rows": self._rows, "tokens": self._tokens, "prefill": self._prefill}
        batch = Batch(self.engine, Detokenizer(self._tokenizer), self._ends, self.adapter_cache, **room)
        source, full = _RequestSource(self._sequences(requests)), 0
        while not (source.empty and not batch.rows):
            if (
                source.starved or len(batch.rows) <= full * 7 // 8
            ):  # a prefill delays all rows, so requests are collected
                joining, refusals = source.take(batch, self._rows)
                yield from refusals
                with _explained_errors():
                    done = batch.add(joining)
                yield from done
                full = len(batch.rows)
            if batch.rows:
                with _explained_errors():
                    done = batch.step()
                yield from done

    @property
    def device(self) -> str:
        """`hybrid.loops.Lab`."""
        return self.found_device.kind

    def tokenize(self, texts: Sequence[str | tuple[str, str]], longest: int) -> list[EncodedText]:
        """Raises CannotRun."""
        raise _no_classifiers()

    def classifiers(self, slots: int, rank: int, targets: Sequence[str] | None, labels: int) -> Any:
        """Raises CannotRun."""
        raise _no_classifiers()

    def full_classifier(self, labels: int, seed: int) -> Any:
        """Raises CannotRun."""
        raise _no_classifiers()

    def policies(self, slots: int, tuning: PolicyTuning) -> Policies:
        """`hybrid.loops.Lab`."""
        self.adapter_cache.close()  # its layers and those of a bank exclude each other
        if self._vllm:
            self._vllm.start(slots, tuning)  # first: training plans with what it leaves
        bank = policy_bank(self.engine, slots, tuning, self._train_tokens, free_memory(self.device), MAX_TOTAL)
        detokenizer = Detokenizer(self._tokenizer)
        sampler: Sampler
        if self._vllm:
            sampler = self._vllm.sampler(bank, tuning.rank, detokenizer, self._ends)
        else:
            limits = Limits(self._policy_rows, self._policy_memory(), self._prefill)
            sampler = PolicySampler(self.engine, bank, detokenizer, self._ends, limits)
        ends = (self._end_of_turn(), *self._ends)
        return LanguageModelPolicies(self._tokenizer, self._chat_template, bank, sampler, self.model.context, ends)

    def _policy_memory(self) -> int:
        """Bytes for the rows of a decode loop, as a power of two: which rows share a loop affects their rounding."""
        if self._given_tokens:
            return self._given_tokens * bytes_of_token(self.engine.config, self.engine.dtype.itemsize)
        return 1 << int(free_memory(self.device) * CACHE_SHARE).bit_length() - 1

    def _end_of_turn(self) -> int:
        """The token that ends a completion: a turn's, by the chat template, else the text's."""
        listed = [*sorted(self._chat_template.ends), self._tokenizer.eos_token_id, *sorted(self._ends)]
        found = next((one for one in listed if one is not None), None)
        if found is None:
            raise CannotRun(
                f"the model {self.model.name:.100} has no token that ends a text", hint="take another model"
            )
        return int(found)

    def close(self) -> None:
        """Free the memory of the weights."""
        self.adapter_cache.close()
        if self._vllm:
            self._vllm.close()
        del self.engine, self.adapter_cache
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _grammar(self, schema: Mapping[str, Any] | None) -> Any:
        """A grammar for a request's schema; llguidance is imported for the first one."""
        if schema is None:
            return None
        if self._grammars is None:
            try:
                path = "hybrid.backends.grammar:GrammarCompiler"
                made = import_object(path, needed_for="a JSON schema on transformers")
            except CannotRun as error:
                raise BadRequest("unsupported", f"{error.message}: {error.hint}") from error
            width = self.engine.get_output_embeddings().weight.shape[0]
            self._grammars = made(self._tokenizer, width, self._ends)
        return self._grammars.start(schema)

    def _adapter(self, adapter: Adapter | None) -> None:
        """Register a request's adapter. Raises BadRequest (kind `no-adapter`) when it cannot be read."""
        if adapter is None or self.adapter_cache.knows(adapter.digest, adapter.path):
            return
        try:
            self.adapter_cache.read(adapter.digest, Path(adapter.path))
        except (OSError, BadData) as error:
            raise BadRequest("no-adapter", f"the adapter {adapter.digest[:12]} cannot be read: {error}") from error

    def _sequences(self, requests: Iterable[Request | None]) -> Iterator[InFlight | Completion | None]:
        """Each request as a tokenized sequence, or as the completion that refuses it; None while there is none."""
        for request in requests:
            if request is None:
                yield None
                continue
            try:
                fitted = self._chat_template.fit(request)
                ids = token_ids(self._tokenizer, fitted, self.model.context)
                self._adapter(request.adapter)
                yield InFlight(fitted, ids, grammar=self._grammar(request.schema))
            except BadRequest as error:
                yield refused(request, error)


@contextmanager
def _explained_errors() -> Iterator[None]:
    """Translate torch's errors, most of them about memory, to Temporary or CannotRun."""
    try:
        yield
    except RuntimeError as error:  # also out of memory (GPU and CPU), and a lost GPU
        otherwise = "--backend-option device=cpu or dtype=float32, or another model"
        again = "out of memory: --backend-option rows=8, tokens=8192 or context=4096, each less than before"
        raise stopped("torch", error, (), otherwise, again=again) from error


class _RequestSource:
    """The requests that are not in the batch yet, in order; one that does not fit is held until rows are free."""

    def __init__(self, sequences: Iterator[InFlight | Completion | None]) -> None:
        self._rest = sequences
        self._held: InFlight | None = None
        self.empty = False
        self.starved = False  # there was nothing to ask when it was looked at last

    def take(self, batch: Batch, most: int) -> tuple[list[InFlight], list[Completion]]:
        """The next sequences that fit into `batch`, and the refusals among them; at most `most` refusals."""
        taken: list[InFlight] = []
        refusals: list[Completion] = []
        self.starved = False
        while len(refusals) < most:
            try:
                one = self._held or next(self._rest)
            except StopIteration:
                self.empty = True
                break
            self._held = None
            if one is None:
                self.starved = True
                break
            if isinstance(one, Completion):
                refusals.append(one)
            elif batch.fits(one, taken):
                taken.append(one)
            else:
                self._held = one
                break
        return taken, refusals


def _no_classifiers() -> CannotRun:
    return CannotRun(
        "the backend 'transformers' offers loops language models, no classifiers",
        hint="--backend classifier --model tiny",
    )


ITS_OWN = ("memory", "eager")
"""Options of vLLM that this backend has for it alone."""


def _sampler_engine() -> Any:
    """The class of vLLM's engine for loops. Raises CannotRun where vLLM is not installed."""
    return import_object("hybrid.backends.vllm_sampling:SamplerEngine", needed_for="sampler=vllm")


def _sampling_options(options: Mapping[str, str]) -> dict[str, str]:
    """The options of vLLM where it samples for loops, {} where it does not. Raises UsageError."""
    if one_of(options, "sampler", ("transformers", "vllm")) == "vllm":
        fraction(options, "memory", 0.5)
        _sampler_engine()  # before a model is loaded
        return {"eager": "auto", **{name: options[name] for name in ("context", "rows", *ITS_OWN) if name in options}}
    if wrong := [name for name in ITS_OWN if options.get(name)]:
        raise UsageError(f"the backend option {wrong[0]} is for sampler=vllm", hint="tokens=N limits the rows here")
    return {}


ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def _refuse_recurrent(config: Any, folder: str) -> None:
    """Raise CannotRun for a model with recurrent state: its rows cannot be padded and joined as keys and values can."""
    kinds = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    if kinds - ATTENTION:
        raise CannotRun(
            f"{folder} has layers that the transformers backend cannot batch: {', '.join(sorted(kinds - ATTENTION))}",
            hint="--backend vllm knows such models; llamacpp does if there is a GGUF",
        )


def load(folder: str, device: Device) -> tuple[Any, Any]:
    """Load the tokenizer, and the model onto the device. Code that comes with a model is never run.

    Raises CannotRun, also when weights are missing or do not belong to the model.
    """
    check_files(Path(folder))
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _refuse_recurrent(config, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        with quiet_transformers(bar=True):
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=device.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                ignore_mismatched_sizes=True,  # `refuse_incomplete` names them in its error
                output_loading_info=True,
            )
        refuse_incomplete(report, folder)
        return tokenizer, model.to(device.kind).eval()
    except torch.OutOfMemoryError as error:
        raise CannotRun(f"{folder} does not fit {device.name}", hint="take a smaller model, or device=cpu") from error
    except HybridError:
        raise
    except Exception as error:  # for a damaged file the library may raise anything
        raise cannot_load("transformers", folder, reason_of(error), TRANSFORMERS, TRANSFORMERS_ELSE) from error


def _end_tokens(generation: GenerationConfig, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: those of the generation config, and the tokenizer's end-of-text token."""
    ids = generation.eos_token_id
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(one for one in [*listed, tokenizer.eos_token_id] if one is not None)


def _cache_tokens(config: Any, device: Device) -> int:
    """Tokens whose keys and values fit the device."""
    return max(1024, int(device.memory * CACHE_SHARE) // bytes_of_token(config, device.dtype.itemsize))
