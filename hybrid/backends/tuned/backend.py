"""A backend whose requests may name an adapter to train first: it trains many at once, then answers their requests.

The trainings of a stage are split into fixed groups, so that the trainings that share a pass are the same after a
restart. A group is trained, its requests are answered, and its adapters are freed (`group.py` says what the run keeps).
With `transformers`, training and inference share one model in memory; with `vllm`, one of them has the GPU at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import torch

from hybrid.backends.capacity import TrainingOptions
from hybrid.backends.devices import free_memory
from hybrid.backends.ranks import rank_too_large
from hybrid.backends.tuned.answering import Answering, InTurns, Together
from hybrid.backends.tuned.group import Group, TrainedAdapter, TrainingRequest
from hybrid.backends.tuned.stage import PreparedStage
from hybrid.backends.tuned.tokenization import TokenizedTexts
from hybrid.canonical import Json, encode
from hybrid.errors import CannotRun
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import locate
from hybrid.protocols import Model, Training
from hybrid.records import Completion, Failure, Request
from hybrid.training.jobs import Job
from hybrid.training.trainer import Trainer

OPTIONS: Mapping[str, str] = {
    "slots": "adapters that train in one pass (default 32 on a GPU, 8 on a CPU; fewer when memory is short)",
    "train_tokens": "tokens of a training pass (default 16384 on a GPU, 6144 on one without bfloat16, 2048 on a CPU)",
    "group": "trainings between two rounds of answers, kept in memory meanwhile (default 16; 32 with vllm)",
    "checkpoint": "seconds between two states of training that are kept in the run (default 300)",
}
UNKNOWN = TrainedAdapter(failure=Failure("bad-request", "its training is none of those of the stage"))
ANSWERING: Mapping[str, type[Together | InTurns]] = {"transformers": Together, "vllm": InTurns}


class TunedBackend:
    """Trains the adapters that requests name, then generates with them by the backend `name`.

    The model is opened once. `prepare` sets the trainings of a stage and frees the adapters of the stage before.
    """

    def __init__(self, name: str, model: str, options: Mapping[str, str]) -> None:
        own = {key: value for key, value in options.items() if key not in OPTIONS}
        self._answering: Answering = ANSWERING[name](model, own)
        device = self._answering.device
        half = device.dtype == torch.float16
        self._options = TrainingOptions.of(options, cpu=device.kind == "cpu", half=half, apart=name == "vllm")
        self._folder = as_folder(locate(model))
        about = self._answering.model.about
        self.model: Model = replace(self._answering.model, about={**about, "training": self._options.to_json()})
        self._stage: PreparedStage | None = None

    def prepare(self, training: Training) -> None:
        """Prepare for a stage. Raises CannotRun when one of its adapters is too large to answer with."""
        self._end_stage()
        self._stage = PreparedStage(training, self._options.group, self._folder)
        if self._stage.largest > self._answering.most_rank:
            raise rank_too_large(self._stage.largest)

    def _end_stage(self) -> None:
        """End the tokenization worker and free all adapters."""
        if self._stage:
            self._stage.close()
            self._stage = None
            self._answering.clear()

    @property
    def _prepared(self) -> PreparedStage:
        if self._stage is None:
            raise CannotRun("`prepare` was not called for this stage", hint="report it, with this message")
        return self._stage

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Completions group by group; a request without a training is answered with the group around it."""
        if not self._prepared.groups:
            yield from self._answered(requests, {}, 0)
            return
        for number, asked in self._gathered(requests):
            made = {} if number is None else self._trained(number)
            ranks = [one.weights.rank for one in made.values() if one.weights]
            # the maximum of the stage: vLLM is not restarted for a later group
            rank = max([self._prepared.largest, *ranks]) if ranks else 0
            left = len(self._prepared.groups) - (number or 0)
            tokens = left * sum(request.sampling.max_tokens for request in asked)
            yield from self._answered(asked, made, rank, tokens)
            self._answering.forget([one.digest for one in made.values() if one.digest])

    def close(self) -> None:
        """Free models and worker processes."""
        if self._stage:
            self._stage.close()
            self._stage = None
        self._answering.close()

    def _gathered(self, requests: Iterable[Request | None]) -> Iterator[tuple[int | None, list[Request]]]:
        """Batches of requests, each with the number of the group of trainings that it needs."""
        number: int | None = None
        group: list[Request] = []
        for request in requests:
            if request is None:  # what waits for the answers is asked after these
                if group:
                    yield number, group
                number, group = None, []
                continue
            its = self._prepared.number_of.get(name_of(request)) if request.tuning else None
            if its is not None and number is not None and its != number:
                yield number, group
                number, group = its, []
            number = number if its is None else its
            group.append(request)
        if group:
            yield number, group

    def _answered(
        self, requests: Iterable[Request | None], made: Mapping[str, TrainedAdapter], rank: int, tokens: int = 0
    ) -> Iterator[Completion]:
        """Completions. A request whose training failed gets an error; others are not affected."""
        metrics: dict[str, Mapping[str, Json]] = {}
        settled: list[Completion] = []
        source, ended = iter(requests), False

        def asked() -> Iterator[Request | None]:
            nonlocal ended
            for request in source:
                if request is None:
                    if settled:  # they are told before more is asked
                        return
                    yield None
                    continue
                ready = self._ready(request, made)
                if isinstance(ready, Completion):
                    settled.append(ready)
                    continue
                if request.tuning:
                    metrics[request.key] = made[name_of(request)].metrics
                yield ready
            ended = True

        while not ended:
            ready = asked()
            if (first := next(ready, None)) is not None:  # do not start vLLM when nothing is asked
                for completion in self._answering.generate(chain([first], ready), rank, tokens):
                    yield replace(completion, trained=metrics.pop(completion.key, {}))
                    yield from _drained(settled)
            yield from _drained(settled)

    def _ready(self, request: Request, made: Mapping[str, TrainedAdapter]) -> Request | Completion:
        """The request with its adapter; or its completion, when the training failed or is all that was requested."""
        if request.tuning is None:
            return self._with_kept(request)
        one = made.get(name_of(request), UNKNOWN)
        if one.failure:
            return Completion(request.key, error=one.failure)
        if not (request.messages or request.prompt):
            return Completion(request.key, text=encode(one.metrics).decode(), finish="stop", trained=one.metrics)
        return replace(request, tuning=None, adapter=self._answering.register(one))

    def _with_kept(self, request: Request) -> Request | Completion:
        """The request with its adapter loaded from the run, if it names one without a path."""
        if request.adapter is None or request.adapter.path:
            return request
        return replace(request, adapter=self._answering.register(self._prepared.kept(request.adapter.digest)))

    def _trained(self, number: int) -> dict[str, TrainedAdapter]:
        """The adapters of a group by name: read from the run, else trained."""
        stage = self._prepared
        wanted = stage.groups[number]
        device, dtype = self._answering.device, self._answering.device.dtype
        kind = dtype if dtype == torch.float32 else torch.bfloat16
        base = self._answering.model.digest
        group = Group(stage.tensors, wanted, model=base, dtype=kind, interval=self._options.checkpoint)
        found = group.found()
        if len(found) == len(wanted):
            return found
        built = stage.texts(wanted)
        jobs = [self._job(one, built[one.tuning.digest]) for one in wanted]
        left_out = {one.name: built[one.tuning.digest].left_out for one in wanted}
        targets = _targets(jobs)
        with self._answering.training() as model:
            free = partial(free_memory, device.kind)
            trainer = Trainer(model, targets, slots=self._options.slots, tokens=self._options.tokens, free=free)
            try:
                return group.train(trainer, jobs, left_out)
            finally:
                trainer.close()

    def _job(self, wanted: TrainingRequest, built: TokenizedTexts) -> Job:
        start = self._prepared.kept(wanted.start).weights if wanted.start else None
        return Job(wanted.name, wanted.tuning, built.texts, start, built.error)


def _targets(jobs: Sequence[Job]) -> list[str]:
    """The layers that jobs adapt, and those of the adapters that they start from, by the ends of their names."""
    started = {layer.rpartition(".")[2] for job in jobs if job.start for layer in job.start.layers}
    return sorted(started.union(*(job.tuning.targets for job in jobs)))


def name_of(request: Request) -> str:
    """The name of the training that a request needs, "" for none."""
    if request.tuning is None:
        return ""
    return TrainingRequest(request.tuning, request.adapter.digest if request.adapter else "").name


def _drained(waiting: list[Completion]) -> Iterator[Completion]:
    while waiting:
        yield waiting.pop(0)
