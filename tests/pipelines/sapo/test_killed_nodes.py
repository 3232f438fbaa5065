"""Nodes that are killed wherever they write, two writers under one number, and no clock but one's own."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipelines.sapo
from hybrid.loops import NotYet, Publications
from hybrid.metrics import RoundMetrics
from pipelines.sapo.arrivals import unpack
from pipelines.sapo.folder_node import FolderNode
from pipelines.sapo.loop import loop
from pipelines.sapo.pipeline import Sapo
from pipelines.sapo.rollouts import Batch, packed
from tests.support.published import Folder, Reader
from tests.support.table_policies import TableLab

SMALL: dict[str, Any] = {
    "arms": ("2-2",), "tasks": ("basic_arithmetic",), "level": "easy", "nodes": 3, "rounds": 6, "group": 4,
    "max_tokens": 6, "learning_rate": 1e-3, "eval_every": 0, "exchange": "folder", "foreign": "uniform",
}  # fmt: skip


class Killed(Exception):
    """The process is gone."""


class Mortal(Reader):
    """Publications of a process that is killed before or after it writes the segment number `at`."""

    def __init__(self, folder: Folder, at: int, *, after: bool) -> None:
        super().__init__(folder)
        self.left, self.after = at, after

    def publish(self, name: str, number: int, data: bytes) -> str:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        id = super().publish(name, number, data)
        if self.left == 0:
            raise Killed
        return id


def node(number: int, publications: Publications, **more: Any) -> FolderNode:
    settings = Sapo(**(SMALL | more))
    series = list(settings._series(dict(settings._named())))[number]
    made = loop(settings, series, TableLab())  # type: ignore[arg-type]
    assert isinstance(made, FolderNode)
    made.publish_to(publications)
    return made


def run(folder: Folder, first: Publications) -> list[list[str]]:
    """The records of three nodes in turns; node 0 begins with `first`. Who is killed goes on from the last state."""
    nodes = [node(0, first), node(1, folder.reader()), node(2, folder.reader())]
    found: list[list[str]] = [[], [], []]
    states = [one.state() for one in nodes]
    while min(map(len, found)) < 6:
        for place, one in enumerate(nodes):
            if len(found[place]) == 6:
                continue
            try:
                found[place].append(one.round(len(found[place])).to_text())
                states[place] = one.state()
            except NotYet:
                pass
            except Killed:
                nodes[place] = node(place, folder.reader())
                nodes[place].load(states[place])
    return found


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_write_it_trains_what_it_would_have_trained(after: bool) -> None:
    whole = run(folder := Folder(), folder.reader())
    for at in range(1, 7):
        other = Folder()
        assert run(other, Mortal(other, at, after=after)) == whole
        assert other.segments == folder.segments


def test_of_two_writers_under_one_number_each_place_is_trained_once() -> None:
    folder = Folder()
    nodes = [node(number, folder.reader(), barrier="async", max_age=5) for number in range(3)]
    zombie = node(1, folder.reader(), barrier="async", max_age=5)
    zombie.policies.tables[0][1][7] += 3.0  # type: ignore[attr-defined]  # it has learnt something else
    zombie._published = lambda number: None  # type: ignore[method-assign]  # and has not seen what the other wrote
    records: list[list[RoundMetrics]] = [[], [], []]
    for number in range(6):
        for place in (2, 0, 1):
            records[place].append(nodes[place].round(number))
        zombie.round(number)
    assert len(folder.segments) == 4 * 6
    for place in (0, 2):
        notes: list[Any] = [one.notes[f"node-{place}"] for one in records[place]]
        used = [tuple(one[:3]) for note in notes for one in note["used"]]
        assert len(used) == len(set(used))
    refused: list[Any] = [one.notes["node-0"] for one in records[0]]
    assert {kind for note in refused for kind in note.get("refused", {})} == {"second-writer"}


def without_a_slot(batch: Batch) -> Batch:
    """As if the process had been killed between two segments of a round."""
    return replace(batch, rollouts=batch.rollouts[:1])


def with_ids(*ids: int) -> Callable[[Batch], Batch]:
    """Answers whose texts are right and whose ids say something else."""

    def change(batch: Batch) -> Batch:
        forged = [tuple(one._replace(ids=ids) for one in each.answers) for each in batch.rollouts]
        rollouts = zip(batch.rollouts, forged, strict=True)
        return replace(batch, rollouts=tuple(replace(each, answers=answers) for each, answers in rollouts))

    return change


def with_last(*last: int) -> Callable[[Batch], Batch]:
    """Answers of whose ids those alone are others that say where they ended: the texts are right all the same."""

    def change(batch: Batch) -> Batch:
        forged = [
            replace(
                each, answers=tuple(one._replace(ids=one.ids[:-1] + last) if one.ended else one for one in each.answers)
            )
            for each in batch.rollouts
        ]
        return replace(batch, rollouts=tuple(forged))

    return change


FORGED = [without_a_slot, with_ids(), with_ids(3, 4), with_ids(10**6), with_last(), with_last(5), with_last(10**6)]


@pytest.mark.parametrize("change", FORGED)
def test_what_it_cannot_have_written_is_not_trained_as_its_own(change: Callable[[Batch], Batch]) -> None:
    own, forged = Folder(), Folder()
    honest = node(0, own.reader(), barrier="async")
    wanted = honest.round(0).to_text()
    for segment in own.segments.values():
        batches = unpack(segment.data, honest.expected(), 0).batches
        (data,) = packed([change(one) for one in batches])
        forged.put(segment.name, segment.number, data)
    assert node(0, forged.reader(), barrier="async").round(0).to_text() == wanted
    assert own.segments.keys() < forged.segments.keys()


def test_no_clock_but_that_of_the_own_waiting_is_read() -> None:
    """So a clock that is a day off changes nothing, on whichever machine it is."""
    for path in Path(pipelines.sapo.__file__).parent.glob("*.py"):
        for found in ast.walk(ast.parse(path.read_text())):
            if isinstance(found, ast.Import | ast.ImportFrom):
                assert not any(name.name.startswith("datetime") for name in found.names), path
            if isinstance(found, ast.Attribute) and isinstance(found.value, ast.Name) and found.value.id == "time":
                assert found.attr == "monotonic", path
