"""People's own prompts, asked any number of times; docs/prompts.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid.canonical import Json
from hybrid.grading.judging import stages as judging
from hybrid.protocols import Inputs, Role, Stage
from hybrid.records import Item
from hybrid.work import Ask
from pipelines.prompts.asking import Asking, question_in
from pipelines.prompts.source import Source, about
from pipelines.prompts.template import Template


@dataclass(frozen=True)
class Prompts(Asking, Source):
    """Ask your own prompts: a table (JSONL, JSON, CSV, TSV, Parquet, OpenAI batch input) or a folder of text files."""

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"demo": {"samples": 3, "max_tokens": 24}}

    roles: ClassVar[Mapping[str, Role]] = judging.ROLES

    def __post_init__(self) -> None:
        Source.__post_init__(self)
        Asking.__post_init__(self)

    def inputs(self) -> Inputs:
        """The chosen prompts by task, and separately the references. Raises HybridError for a file that cannot be read,
        UsageError for a wrong column, BadData for a bad row.
        """
        table = self.table(
            Template(self.template).columns,
            lambda prompt: self.request(prompt.asked, prompt.question, 0),
            needs_prompt=not self.template,
        )
        tasks: dict[str, dict[str, Json]] = {}
        references: dict[str, Json] = {}
        for prompt in self.chosen(table):
            tasks.setdefault(prompt.task, {})[prompt.question] = prompt.asked
            references[prompt.question] = prompt.reference
        table.tell_left_out(len(references))
        said = about(table, list(references.values()))
        return Inputs(tasks, references if said["references"] else {}, said)

    def stages(self) -> tuple[Stage, ...]:
        """All prompts on the GPU side; with a judge, its verdicts on the laptop side."""
        return Stage("answer", "gpu", 1, Ask(self._items)), *judging.stages("answer")

    def _items(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        """The items task by task, the samples of a prompt one after another."""
        for task in sorted(tasks):
            for question in sorted(tasks[task]):
                for sample in range(self.samples):
                    request = self.request(tasks[task][question], question, sample)
                    yield Item(task, question, request, {"question": question_in(request)}, sample)
