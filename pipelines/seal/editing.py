"""A trial of self-edits: its settings, the requests for self-edits, and the requests to each trained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from hybrid.bounds import SHARE, Bounds, help_of, refuse_outside
from hybrid.protocols import Inputs
from hybrid.records import Adapter, Item, Output, Request, Sampling
from hybrid.sampling import item_seed
from hybrid.tasks.arc.data import demonstrations
from hybrid.tasks.arc.views import Pair
from hybrid.tuning import Tuning
from pipelines.seal.configurations import PAPER, SCHEMA, Edit, drawn, parse, prompt
from pipelines.seal.edit_results import MOST_STEPS
from pipelines.seal.examples import AugmentationSettings, of_demonstrations
from pipelines.seal.training_settings import TrainingSettings

BASE = "base"
"""The arm without training."""


@dataclass(frozen=True, slots=True)
class EditPlan:
    """The training of a configuration, or why there is none: `untrained` when refused, `failed` when no reply came."""

    edit: Edit | None = None
    tuning: Tuning | None = None
    untrained: str = ""
    failed: str = ""

    @property
    def arm(self) -> str:
        """The name of the arm that answers. Equal trainings have one name: they are trained and asked once."""
        return f"edit-{self.tuning.digest[:12]}" if self.tuning else BASE


@dataclass(frozen=True, slots=True)
class Policy:
    """The model that writes self-edits and is tuned: the base model (""), or with the adapter of that SHA-256."""

    adapter: str = ""
    round: int | None = None

    @property
    def prefix(self) -> str:
        """The prefix of the names of its self-edits."""
        return "" if self.round is None else f"round-{self.round}-"


@dataclass(frozen=True)
class Editing(TrainingSettings):
    """The settings of a trial of self-edits, and its items."""

    edits: int = field(default=15, metadata=help_of("self-edits that are asked for, a task"))
    edit_temperature: float = field(default=0.8, metadata=help_of("of the self-edits"))
    edit_top_p: float = field(default=1.0, metadata=help_of("nucleus of their sampling, over 0 to 1"))
    edit_tokens: int = field(default=128, metadata=help_of("bound of a self-edit"))
    schema: bool = field(
        default=False, metadata=help_of("hold the reply to the form by a JSON schema; that is not what SEAL measured")
    )
    randoms: int = field(
        default=-1, metadata=help_of("random configurations a task, the control; -1: as many as self-edits")
    )
    voting: Literal["flat", "seal"] = field(
        default="flat", metadata=help_of("how the views vote, as in the grader arc")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_outside(self, edits=Bounds(1, 1000), randoms=Bounds(-1, 1000), edit_tokens=Bounds(1, 8192))
        refuse_outside(self, edit_temperature=Bounds(0, 100), edit_top_p=SHARE)
        if self.edits > 1 and self.edit_temperature == 0:
            raise ValueError("self-edits are all the same at edit_temperature 0; set a temperature, or edits=1")
        if self.samples > 1:
            raise ValueError("samples is 1: every trained model gives one answer to each view")

    def inputs(self) -> Inputs:
        """As for the questions, with the truths of each whole task under the task's id."""
        given = super().inputs()
        return Inputs(given.tasks, with_whole_tasks(given), {**given.about, "grader": "self-edit"})

    def requested(self, tasks: Mapping[str, Any], count: int, policy: Policy) -> Iterator[Item]:
        """`count` requests for a self-edit of each task; its number is its sample and ends its question."""
        for id in sorted(tasks):
            messages = prompt(demonstrations(tasks[id], id))
            for number in range(count):
                request = Request(
                    messages=messages,
                    sampling=Sampling(
                        max_tokens=self.edit_tokens,
                        temperature=self.edit_temperature,
                        top_p=self.edit_top_p,
                        seed=item_seed(self.seed, policy.prefix, id, number),
                    ),
                    template={"date_string": self.date},
                    schema=SCHEMA if self.schema else None,
                    adapter=adapter_of(policy),
                )
                yield Item(id, f"{id}@{policy.prefix}edit-{number:02d}", request, {}, number)

    def answered(self, tasks: Mapping[str, Any], replies: Iterable[Output], policy: Policy) -> Iterator[Item]:
        """Every view of every test input, once for each arm of its task; each distinct training is one arm."""
        for id, outputs in by_task(replies).items():
            asked = list(self.task_items(id, tasks[id]))
            for arm, tuning in self.arms(id, tasks[id], outputs).items():
                for item in asked:
                    request = dataclasses.replace(item.request, adapter=adapter_of(policy), tuning=tuning)
                    yield dataclasses.replace(item, question=f"{item.question}@{arm}", request=request)

    def arms(self, id: str, task: Mapping[str, Any], replies: Sequence[Output]) -> dict[str, Tuning | None]:
        """Arm -> training: the untrained model, then the distinct trainings: fixed, of the self-edits, random."""
        plans = [self.fixed(id, task), *(self.plan(id, task, reply) for reply in replies)]
        plans += self.random(id, task, len(replies))
        return {BASE: None, **{plan.arm: plan.tuning for plan in plans}}

    def fixed(self, id: str, task: Mapping[str, Any]) -> EditPlan:
        """The configuration chosen by hand."""
        return self._planned(id, task, PAPER)

    def random(self, id: str, task: Mapping[str, Any], replies: int) -> list[EditPlan]:
        """Random configurations, by default as many as there are replies."""
        count = replies if self.randoms < 0 else self.randoms
        return [self._planned(id, task, drawn(self.seed, id, number)) for number in range(count)]

    def plan(self, id: str, task: Mapping[str, Any], reply: Output) -> EditPlan:
        """The plan of a model's reply."""
        if reply.text is None:
            return EditPlan(failed=f"no reply: {reply.error.kind if reply.error else 'no text'}")
        edit = parse(reply.text)
        return EditPlan(untrained=edit) if isinstance(edit, str) else self._planned(id, task, edit)

    def _planned(self, id: str, task: Mapping[str, Any], edit: Edit) -> EditPlan:
        augmentation = self.augmentation_settings(edit.augmentations)
        if edit.epochs * self.most // self.batch > MOST_STEPS:  # an upper bound; counting is slow
            count = _examples(tuple(demonstrations(task, id)), augmentation)
            if edit.epochs * count // self.batch > MOST_STEPS:
                return EditPlan(edit, untrained=f"more than {MOST_STEPS} steps")
        examples = augmentation.of(id, task)
        rate, epochs, learned = edit.learning_rate, edit.epochs, edit.learned
        return EditPlan(edit, self.tuning(examples, learning_rate=rate, epochs=epochs, learned=learned))


def by_task(outputs: Iterable[Output]) -> dict[str, list[Output]]:
    """Task -> its outputs in the order of their sample numbers; tasks in order of their ids."""
    found: dict[str, list[Output]] = {}
    for output in outputs:
        found.setdefault(output.task, []).append(output)
    return {id: sorted(found[id], key=lambda output: output.sample) for id in sorted(found)}


def adapter_of(policy: Policy) -> Adapter | None:
    """The adapter of a policy; its file is found by its digest."""
    return Adapter(policy.adapter, "") if policy.adapter else None


def with_whole_tasks(inputs: Inputs) -> dict[str, Any]:
    """The references, and for each task whose test inputs all have a truth the list of these under its id."""
    truths = inputs.references
    whole = {}
    for id, task in inputs.tasks.items():
        questions = [f"{id}/{i}" for i in range(len(task["test"]))]
        if all(question in truths for question in questions):
            whole[id] = [truths[question] for question in questions]
    return {**truths, **whole}


@lru_cache(maxsize=4096)
def _examples(pairs: tuple[Pair, ...], augmentation: AugmentationSettings) -> int:
    """How many training examples there are."""
    return len(of_demonstrations(pairs, augmentation))
