"""A backend whose requests may ask for a model that is trained first: many adapters at once, then all their answers.

The trainings of a stage are cut into groups, always the same ones, so that what shares a pass does not depend on what
was done before a kill. A group is trained whole, answered, and forgotten (`group.py` says what is kept of it). With
`transformers`, training and answering share one model in memory; with `vllm`, one of the two has the GPU at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch

from hybrid.backends.devices import Device, free_memory
from hybrid.backends.options import whole_number
from hybrid.backends.ranks import too_large
from hybrid.backends.tuned.answering import Answering, InTurns, Together
from hybrid.backends.tuned.group import Group, Made, Wanted
from hybrid.backends.tuned.tokenization import Built, Lessons, TokenizationWorker
from hybrid.canonical import Json, encode
from hybrid.errors import CannotRun, Temporary
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import context_of, locate
from hybrid.protocols import Model, Tensors
from hybrid.records import Completion, Failure, Request
from hybrid.training import adapters
from hybrid.training.jobs import Job
from hybrid.training.trainer import Trainer
from hybrid.tuning import Tuning

OPTIONS: Mapping[str, str] = {
    "slots": "adapters that train in one pass (default 32 on a GPU, 8 on a CPU; fewer when memory is short)",
    "train_tokens": "tokens of a training pass (default 16384 on a GPU, 6144 on one without bfloat16, 2048 on a CPU)",
    "group": "trainings between two rounds of answers, held in memory meanwhile (default 16; 32 with vllm)",
    "checkpoint": "seconds between two states of training that are kept in the run (default 300)",
}
UNKNOWN = Made(failure=Failure("bad-request", "its training is none of those of the stage"))
ANSWERING: Mapping[str, type[Together | InTurns]] = {"transformers": Together, "vllm": InTurns}


class TunedBackend:
    """Trains what requests ask for, then lets the backend `name` answer with it. `trainings`: all of a stage."""

    def __init__(
        self,
        name: str,
        model: str,
        options: Mapping[str, str],
        lessons: Lessons | None,
        tensors: Tensors,
        trainings: Sequence[tuple[Tuning, str]],
    ) -> None:
        wanted = [Wanted(tuning, start) for tuning, start in trainings]
        largest = max([one.tuning.rank for one in wanted], default=0)
        if largest > ANSWERING[name].most_rank:
            raise too_large(largest)
        own = {key: value for key, value in options.items() if key not in OPTIONS}
        self._answering: Answering = ANSWERING[name](model, own)
        self._tensors = tensors
        self._found: dict[str, Made] = {}  # the adapter of the run that was asked for last
        self._pace = _Pace.of(options, self._answering.device, apart=name == "vllm")
        size = self._pace.group
        self._groups = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        self._of = {one.name: number for number, group in enumerate(self._groups) for one in group}
        folder = as_folder(locate(model))
        self._school = TokenizationWorker(folder, lessons, context_of(folder)) if lessons else None
        about = self._answering.model.about
        self.model: Model = replace(self._answering.model, about={**about, "training": self._pace.to_json()})

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions group by group; requests without a training are answered with the group they come with."""
        if not self._groups:
            yield from self._answered(requests, {}, 0)
            return
        for number, asked in self._gathered(requests):
            made = {} if number is None else self._trained(number)
            rank = max([one.weights.rank for one in made.values() if one.weights], default=0)
            yield from self._answered(asked, made, rank)
            self._answering.forget([one.digest for one in made.values() if one.digest])

    def close(self) -> None:
        """Free models and worker processes."""
        if self._school:
            self._school.close()
        self._answering.close()

    def _gathered(self, requests: Iterable[Request]) -> Iterator[tuple[int | None, list[Request]]]:
        """Requests until one asks for a training of another group, with the number of the group."""
        number: int | None = None
        group: list[Request] = []
        for request in requests:
            its = self._of.get(name_of(request)) if request.tuning else None
            if its is not None and number is not None and its != number:
                yield number, group
                number, group = its, []
            number = number if its is None else its
            group.append(request)
        if group:
            yield number, group

    def _answered(self, requests: Iterable[Request], made: Mapping[str, Made], rank: int) -> Iterator[Completion]:
        """Completions; a request whose model cannot be had is an error of its own."""
        told: dict[str, Mapping[str, Json]] = {}
        settled: list[Completion] = []

        def asked() -> Iterator[Request]:
            for request in requests:
                ready = self._ready(request, made)
                if isinstance(ready, Completion):
                    settled.append(ready)
                    continue
                if request.tuning:
                    told[request.key] = made[name_of(request)].told
                yield ready

        ready = asked()
        if (first := next(ready, None)) is not None:  # an engine that is started for it is not started for nothing
            for completion in self._answering.generate(chain([first], ready), rank):
                yield replace(completion, trained=told.pop(completion.key, {}))
                yield from _drained(settled)
        yield from _drained(settled)

    def _ready(self, request: Request, made: Mapping[str, Made]) -> Request | Completion:
        """The request with the adapter that it asks for; or its completion: a failure, or a training alone."""
        if request.tuning is None:
            return self._with_kept(request)
        one = made.get(name_of(request), UNKNOWN)
        if one.failure:
            return Completion(request.key, error=one.failure)
        if not (request.messages or request.prompt):
            return Completion(request.key, text=encode(one.told).decode(), finish="stop", trained=one.told)
        return replace(request, tuning=None, adapter=self._answering.shelved(one))

    def _with_kept(self, request: Request) -> Request | Completion:
        """The request with its adapter from what the run keeps, when it names one without a place."""
        if request.adapter is None or request.adapter.path:
            return request
        return replace(request, adapter=self._answering.shelved(self._kept(request.adapter.digest)))

    def _kept(self, name: str) -> Made:
        """An adapter of the run. Raises Temporary when it is not here, or not yet; BadData for a damaged one."""
        if name not in self._found:
            kept = self._tensors.newest(name)
            if kept is None or adapters.named(kept[1]) != name:
                raise Temporary(
                    f"the adapter {name[:12]} that the run was trained to is not here, or not yet",
                    hint="wait for the sync, then run the same command again",
                )
            self._found = {name: Made(adapters.from_bytes(kept[1], name[:12]), kept[1], name)}
        return self._found[name]

    def _trained(self, number: int) -> dict[str, Made]:
        """Every adapter of a group: from the run when it is kept there, else trained."""
        if self._school is None:
            raise CannotRun("a request asks for training in a stage without lessons", hint="tell the pipeline's author")
        wanted = self._groups[number]
        ahead = [one.tuning for one in self._groups[number + 1]] if number + 1 < len(self._groups) else []
        device, dtype = self._answering.device, self._answering.device.dtype
        kind = dtype if dtype == torch.float32 else torch.bfloat16
        group = Group(
            self._tensors, wanted, model=self._answering.model.digest, dtype=kind, interval=self._pace.checkpoint
        )
        found = group.found()
        if len(found) == len(wanted):
            return found
        built = self._school.built([one.tuning for one in wanted], ahead=ahead)
        jobs = [self._job(one, built[one.tuning.digest]) for one in wanted]
        left_out = {one.name: built[one.tuning.digest].left_out for one in wanted}
        targets = sorted({target for one in wanted for target in one.tuning.targets})
        with self._answering.training() as model:
            free = partial(free_memory, device.kind)
            trainer = Trainer(model, targets, slots=self._pace.slots, tokens=self._pace.tokens, free=free)
            try:
                return group.train(trainer, jobs, left_out)
            finally:
                trainer.close()

    def _job(self, wanted: Wanted, built: Built) -> Job:
        start = self._kept(wanted.start).weights if wanted.start else None
        return Job(wanted.name, wanted.tuning, built.texts, start, built.error)


@dataclass(frozen=True, slots=True)
class _Pace:
    """What is trained at once, and how often its state is kept."""

    slots: int
    tokens: int
    group: int
    checkpoint: int

    @classmethod
    def of(cls, options: Mapping[str, str], device: Device, *, apart: bool) -> _Pace:
        cpu, half = device.kind == "cpu", device.dtype == torch.float16
        tokens = 2048 if cpu else 6144 if half else 16384
        return cls(
            whole_number(options, "slots", 8 if cpu else 32, low=1, high=1000),
            whole_number(options, "train_tokens", tokens, low=16, high=1 << 24),
            whole_number(options, "group", 32 if apart else 16, low=1, high=1 << 20),
            whole_number(options, "checkpoint", 300, low=0, high=1 << 24),
        )

    def to_json(self) -> dict[str, Json]:
        """What shapes a result, by its rounding."""
        return {"slots": self.slots, "tokens": self.tokens, "group": self.group}


def name_of(request: Request) -> str:
    """What names the training that a request asks for."""
    if request.tuning is None:
        return ""
    return Wanted(request.tuning, request.adapter.digest if request.adapter else "").name


def _drained(waiting: list[Completion]) -> Iterator[Completion]:
    while waiting:
        yield waiting.pop(0)
