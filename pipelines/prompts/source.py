"""Where the prompts come from, which of them are asked, and the settings that say so."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.bounds import NOT_NEGATIVE, SEED, help_of, refuse_outside
from hybrid.canonical import Json, encode
from hybrid.errors import BadData
from pipelines.prompts.columns import Columns
from pipelines.prompts.reading import Table, provenance
from pipelines.prompts.row import Prompt

SAMPLE = Path(__file__).with_name("sample.jsonl")
"""Twelve short questions with answers, written for this project."""
MOST_BYTES = 256 * 1024 * 1024
"""All prompts together, as the run keeps them."""


@dataclass(frozen=True)
class Source:
    """A table or folder of prompts, and which of its tasks are asked."""

    data: str = field(default="", metadata=help_of("the table or folder; empty: a small sample"))
    columns: tuple[str, ...] = field(
        default=(),
        metadata=help_of("FIELD:COLUMN where they differ, such as prompt:question,reference:answer; docs/prompts.md"),
    )
    limit: int = field(default=0, metadata=help_of("only the first tasks, which are groups or rows; 0: all"))
    shuffle: int | None = field(default=None, metadata=help_of("draw the tasks in the order of this seed"))
    skip_bad: bool = field(default=False, metadata=help_of("bad rows are told and left out; else they end the command"))

    def __post_init__(self) -> None:
        refuse_outside(self, limit=NOT_NEGATIVE, shuffle=SEED)
        Columns.renaming(self.columns)

    def table(self, shown: Sequence[str], check: Callable[[Prompt], object], *, needs_prompt: bool) -> Table:
        """The table, which is not read yet; `Table` says what the arguments are."""
        path, columns = Path(self.data) if self.data else SAMPLE, Columns.renaming(self.columns)
        return Table(path, columns, shown, check, needs_prompt=needs_prompt, skip_bad=self.skip_bad)

    def chosen(self, table: Table) -> list[Prompt]:
        """The prompts of the tasks that `limit` and `shuffle` choose, in the order of the table. Raises HybridError."""
        kept: list[Prompt] = []
        tasks: dict[str, None] = {}
        size, most = 0, self.limit if self.shuffle is None else 0
        for prompt in table.prompts():
            if most and len(tasks) >= most and prompt.task not in tasks:
                if any(one.group for one in kept):
                    continue  # a later row may be of a group that was chosen
                break
            tasks[prompt.task] = None
            kept.append(prompt)
            size += len(encode([prompt.asked, prompt.reference]))
            if size > MOST_BYTES:
                raise BadData(
                    f"{table.path}: its prompts have more than the {MOST_BYTES:,} bytes allowed in one run",
                    hint="ask a part of them: --limit N, or several files",
                )
        return kept if self.shuffle is None else self._drawn(kept, list(tasks), self.shuffle)

    def _drawn(self, prompts: list[Prompt], tasks: list[str], seed: int) -> list[Prompt]:
        random.Random(seed).shuffle(tasks)
        wanted = set(tasks[: self.limit or None])
        return [prompt for prompt in prompts if prompt.task in wanted]


def about(table: Table, references: Sequence[Json]) -> dict[str, Json]:
    """Where the prompts came from, how many they are, what was left out, and the grader that fits the references."""
    given = [one for one in references if one is not None]
    left: Mapping[str, Json] = {"left out": dict(sorted(table.left_out.items()))} if table.left_out else {}
    numbers = all(_is_number(one) for each in given for one in (each if isinstance(each, list) else [each]))
    grader = {"grader": "numeric" if numbers else "contains"} if given else {}
    counts = {"prompts": len(references), "references": len(given)}
    return {"dataset": table.path.stem, "files": provenance(table.path), **counts, **left, **grader}


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
