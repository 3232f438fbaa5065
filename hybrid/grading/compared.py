"""One outputs file of the answers of several runs to the same questions, each run an arm."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import UsageError
from hybrid.grading.arms import arm_of, arms_named
from hybrid.grading.questions import in_order
from hybrid.machine import home
from hybrid.outputs import OutputsFile, write_outputs
from hybrid.records import Output

GRADER = "pairwise"
PIPELINE = "compared"
SAME_QUESTIONS = "runs are compared on what has the same task and question in both: name runs of the same data"


@dataclass(frozen=True, slots=True)
class Source:
    """An arm and its outputs."""

    arm: str
    outputs: OutputsFile


def write_compared(sources: Sequence[Source], out: Path) -> str:
    """Write the outputs of all sources, question by question, to `out` and return its sha256.

    Each output names its arm in `view.arm`; one that names an arm of its own becomes `SOURCE/ARM`. Raises UsageError
    when no question is answered by two arms; `out` is then unchanged.
    """
    if len({one.arm for one in sources}) < len(sources) or len(sources) < 2:
        raise UsageError("a comparison needs two runs or more with names of their own", hint="NAME=SOURCE names one")
    ordered = [_is_ordered(one.outputs) for one in sources]
    run = {"pipeline": PIPELINE, "about": {"grader": GRADER, "arms": [name for one in sources for name in _names(one)],
           "sources": [_about(one) for one in sources]}}  # fmt: skip
    return write_outputs(out, run, [], _Tasks(sources), _records(sources, ordered), home.parts_folder())


class _Tasks(Mapping[str, Any]):
    """The tasks of all sources; what the first of them knows of a task, decoded when it is looked up."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._names = dict.fromkeys(name for one in sources for name in one.outputs.tasks)

    def __getitem__(self, name: str) -> Any:
        return next(one.outputs.tasks[name] for one in self._sources if name in one.outputs.tasks)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _names(source: Source) -> list[str]:
    """The arms that a source becomes."""
    return [f"{source.arm}/{own}" for own in arms_named(source.outputs.run)] or [source.arm]


def _about(source: Source) -> Json:
    run = source.outputs.run.get("id")
    return {"arm": source.arm, "run": run if isinstance(run, str) else None, "sha256": source.outputs.sha256}


def _is_ordered(outputs: OutputsFile) -> bool:
    """Read a file to its end, which verifies it: whether its outputs are in order of task and question."""
    ordered, last = True, ("", "")
    for output in outputs.records():
        ordered, last = ordered and last <= (output.task, output.question), (output.task, output.question)
    return ordered


def _records(sources: Sequence[Source], ordered: Sequence[bool]) -> Iterator[Output]:
    streams = [_named(one, sort=not right) for one, right in zip(sources, ordered, strict=True)]
    merged: Iterable[Output] = heapq.merge(*streams, key=lambda output: (output.task, output.question))
    last, arms, shared = ("", ""), set[str](), False
    for output in merged:
        if (output.task, output.question) != last:
            last, arms = (output.task, output.question), set()
        arms.add(arm_of(output))
        shared = shared or len(arms) > 1
        yield output
    if not shared:
        raise UsageError("the runs have no question in common", hint=SAME_QUESTIONS)


def _named(source: Source, *, sort: bool) -> Iterator[Output]:
    """The outputs of a source with its arm and with keys that no other source has."""
    records = source.outputs.records()
    for output in in_order(records) if sort else records:
        own = arm_of(output)
        arm = f"{source.arm}/{own}" if own else source.arm
        key = hashlib.sha256(f"{source.arm}\n{output.key}".encode("utf-8", "replace")).hexdigest()
        yield replace(output, key=key, view={**output.view, "arm": arm})
