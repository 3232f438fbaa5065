"""People's own prompts, asked any number of times by any number of arms; docs/prompts.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

from hybrid.bounds import help_of
from hybrid.canonical import Json
from hybrid.errors import UsageError
from hybrid.grading.judging import stages as judging
from hybrid.protocols import Inputs, Role, Stage
from hybrid.records import Item, Output
from hybrid.work import Ask, Derive, Derived, answer_of
from pipelines.prompts.arms import Arm, arms_of
from pipelines.prompts.asking import Asking, question_in
from pipelines.prompts.row import Prompt
from pipelines.prompts.source import Source, about
from pipelines.prompts.template import Template


@dataclass(frozen=True)
class Prompts(Asking, Source):
    """Ask your own prompts: a table (JSONL, JSON, CSV, TSV, Parquet, OpenAI batch input) or a folder of text files.

    Arms compare models, prompts or settings on the same prompts: `--arm NAME:setting=value,...`, several times; an arm
    has a model of its own with `--model NAME=MODEL`.
    """

    arms: tuple[str, ...] = field(
        default=(), metadata=help_of("the arms, as --arm writes them; the first is the usual")
    )
    own_models: tuple[str, ...] = field(
        default=(), metadata=help_of("arms with a model of their own, as --model ARM=NAME writes them")
    )

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"demo": {"samples": 3, "max_tokens": 24}}

    roles: ClassVar[Mapping[str, Role]] = judging.ROLES

    def __post_init__(self) -> None:
        Source.__post_init__(self)
        Asking.__post_init__(self)
        names = [arm.name for arm in self.compared]
        if unknown := [name for name in self.own_models if name not in names[1:]]:
            raise UsageError(
                f"'{unknown[0]}' is no arm that can have a model of its own",
                hint="the first arm asks the first model, --model NAME; of a further one, --model ARM=NAME",
            )
        models = {name: Role(f"answers in the arm '{name}'") for name in self.own_models}
        object.__setattr__(self, "roles", {**judging.ROLES, **models})  # those of this run

    @cached_property
    def compared(self) -> tuple[Arm, ...]:
        """The arms; one without a name where there are none."""
        return arms_of(self.arms, self)

    def inputs(self) -> Inputs:
        """The chosen prompts by task, and separately the references. Raises HybridError for a file that cannot be read,
        UsageError for a wrong column, BadData for a bad row.
        """
        columns = dict.fromkeys(name for arm in self.compared for name in Template(arm.asking.template).columns)
        table = self.table(
            tuple(columns), self._check, needs_prompt=not all(arm.asking.template for arm in self.compared)
        )
        tasks: dict[str, dict[str, Json]] = {}
        references: dict[str, Json] = {}
        for prompt in self.chosen(table):
            tasks.setdefault(prompt.task, {})[prompt.question] = prompt.asked
            references[prompt.question] = prompt.reference
        table.tell_left_out(len(references))
        said = about(table, list(references.values()))
        arms = {"arms": [arm.name for arm in self.compared]} if self.arms else {}
        return Inputs(tasks, references if said["references"] else {}, {**said, **arms})

    def stages(self) -> tuple[Stage, ...]:
        """All prompts on the GPU side, a stage for each model; with a judge, its verdicts on the laptop side."""
        usual = [arm for arm in self.compared if arm.name not in self.own_models]
        asked = [Stage("answer", "gpu", 1, Ask(partial(self._items, usual)))]
        asked += (
            Stage(f"answer-{arm.name}", "gpu", 1, Ask(partial(self._items, [arm])), role=arm.name)
            for arm in self.compared
            if arm.name in self.own_models
        )
        if len(asked) == 1:
            return *asked, *judging.stages("answer")
        joined = Stage(
            "answers", "any", 1, Derive(_joined, of_unfinished=True), after=tuple(stage.name for stage in asked)
        )
        return *asked, joined, *judging.stages("answers")

    def _check(self, prompt: Prompt) -> None:
        """Raise BadRow for a prompt that an arm cannot ask."""
        for arm in self.compared:
            arm.asking.request(prompt.asked, prompt.question, 0, arm.own)

    def _items(self, arms: Sequence[Arm], tasks: Mapping[str, Any]) -> Iterator[Item]:
        """The items task by task, the samples of a prompt and an arm one after another."""
        for task in sorted(tasks):
            for question in sorted(tasks[task]):
                for arm in arms:
                    yield from self._asked(arm, task, question, tasks[task][question])

    def _asked(self, arm: Arm, task: str, question: str, asked: Mapping[str, Any]) -> Iterator[Item]:
        for sample in range(self.samples):
            request = arm.asking.request(asked, question, sample, arm.own)
            named = {"arm": arm.name} if arm.name else {}
            yield Item(task, question, request, {"question": question_in(request), **named}, sample)


def _joined(_tasks: Mapping[str, Any], earlier: Mapping[str, Iterable[Output]]) -> Iterator[Derived]:
    """The answers of all models, as they are; a failed one stays failed."""
    for outputs in earlier.values():
        for one in outputs:
            known = answer_of(one) if one.text is not None else None
            yield Derived(one.task, one.question, one.text or "", one.view, one.sample, one.error, known)
