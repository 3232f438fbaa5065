"""Assembles outputs from shards: one record for every item, in an order that does not depend on who wrote when."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from hybrid.canonical import decode, encode
from hybrid.execution.round_records import RoundRecords
from hybrid.execution.search_records import keys_of
from hybrid.folder.runs import Run
from hybrid.machine.database import connect_temporary, no_room
from hybrid.machine.terminal import clean_line, count_of, was_or_were
from hybrid.protocols import Stage
from hybrid.records import NO_RECORD, Completion, Failure, Output, Record, reference_of
from hybrid.thoughts import split
from hybrid.work import Rounds

LOG = logging.getLogger("hybrid")
MOST_LOGGED = 10
MISSING = Failure(NO_RECORD, "no record of this item has arrived")
MIXED = "%s: %s thought about, under an earlier version; the others are not: begin the run in another folder"
SCHEMA = """
CREATE TABLE record (
    key TEXT PRIMARY KEY, rank TEXT, task TEXT, question TEXT, sample INTEGER, view TEXT, text TEXT, line BLOB);
"""
# `rank` orders the records of one item, the smallest first: 0 for an answer, 1 for a failure, then attempt and shard;
# 9 is an item without a record.
EXPECT = "INSERT OR IGNORE INTO record VALUES (?, '9', ?, ?, ?, ?, NULL, NULL)"
ORDERED = "SELECT line, key, task, question, sample, view FROM record ORDER BY task, question, sample, view, key"


class Assembly:
    """One record for every item of a stage, from the stage's verified shards; an item without one gets a failure.

    Of several records of one item, an answer wins over a failure, then the attempt first by name, then its earliest
    shard: every machine makes the same choice. Memory stays flat, because the records are in a temporary database.
    """

    def __init__(self, run: Run, rows: sqlite3.Connection) -> None:
        self._run, self._rows = run, rows
        self._models: dict[bytes, Mapping[str, Any]] = {}
        self.refused: list[str] = []  # files passed over, and why
        self.strange = 0  # records of no item of this run
        self.clashes = 0  # items with two different texts
        self.forked = 0  # rounds of another trajectory than the one that counts
        self._counts: Mapping[str, str] = {}  # by key, of rounds: the history that counts
        self.thinking = 0  # answers of an earlier version, which hold the model's thoughts

    @property
    def models(self) -> list[Mapping[str, Any]]:
        """Every model (name, digest, engine) that wrote a record."""
        return [self._models[key] for key in sorted(self._models)]

    @property
    def missing(self) -> int:
        """How many items have no record."""
        (count,) = self._rows.execute("SELECT count(*) FROM record WHERE rank = '9'").fetchone()
        return int(count)

    @property
    def answers(self) -> int:
        """How many items have an answer."""
        (count,) = self._rows.execute("SELECT count(*) FROM record WHERE rank LIKE '0%'").fetchone()
        return int(count)

    @property
    def items(self) -> int:
        """How many items the stage has."""
        (count,) = self._rows.execute("SELECT count(*) FROM record").fetchone()
        return int(count)

    def lines(self) -> Iterator[bytes]:
        """The records as JSON, by task, question, sample, view and key."""
        for line, *item in self._rows.execute(ORDERED):
            yield line or _missing(*item)

    def outputs(self) -> Iterator[Output]:
        """The records in the order of `lines`, with the references that they are graded against."""
        return outputs_of(self._run, self.lines(), self._run.references())

    def gather(self, stage: Stage) -> None:
        """Read the stage's shards. Shards passed over, records of no item and items with two answers are logged."""
        model = self._run.model_digest(stage.name)
        self._rows.executemany(EXPECT, _expected(self._run, stage, model))
        self._counts = _trajectories(self._run, stage, model)
        for _, shard in self._run.shards(stage.name, self.refused, model=model):
            self._models.update((encode(one), one) for one in _models_in(shard.header["model"]))
            for line in shard.lines:
                self._offer(line, f"{shard.header['attempt']} {shard.name.seq:05d} {shard.name}")
        if self.thinking and any(map(_thinking_is_off, self.models)):
            LOG.warning(MIXED, self._run.id, f"{count_of(self.thinking, 'answer')} {was_or_were(self.thinking)}")
        for reason in self.refused[:MOST_LOGGED]:
            LOG.warning("passed over: %s", clean_line(reason, 500))
        if len(self.refused) > MOST_LOGGED:
            LOG.warning("passed over: %s", count_of(len(self.refused) - MOST_LOGGED, "more file"))
        if self.strange:
            LOG.warning("%s: %s of no item of this run, passed over", self._run.id, count_of(self.strange, "record"))
        if self.forked:
            rounds = count_of(self.forked, "round")
            LOG.warning("%s: %s of another trajectory, computed by another machine, passed over", self._run.id, rounds)
        if self.clashes:
            twice = f"{count_of(self.clashes, 'item')} {was_or_were(self.clashes)}"
            LOG.warning("%s: %s answered twice, differently; the first counts", self._run.id, twice)

    def _offer(self, line: bytes, place: str) -> None:
        record = decode(line, what=place)
        found = self._rows.execute("SELECT rank, text FROM record WHERE key = ?", (record["key"],)).fetchone()
        if found is None:
            self.strange += 1
            return
        rank, text = f"{int(record['error'] is not None)} {place}", record["text"]
        if text is not None and self._counts.get(record["key"], record.get("history")) != record.get("history"):
            self.forked += 1
            return
        self.thinking += text is not None and "thought" not in record and bool(split(text).thought)
        self.clashes += None not in (found[1], text) and found[1] != text
        if rank < found[0]:
            change = "UPDATE record SET rank = ?, text = ?, line = ? WHERE key = ?"
            self._rows.execute(change, (rank, text, line, record["key"]))


def _trajectories(run: Run, stage: Stage, model: str) -> Mapping[str, str]:
    """By key, the history of each round that counts; of a stage without rounds nothing."""
    if not isinstance(stage.work, Rounds):
        return {}
    records = RoundRecords(run, stage, model, tuple(stage.work.series(run.tasks())))
    records.look()
    return {key.hex(): records.histories.get(key, "") for keys in records.keys for key in keys}


def _models_in(header: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The models that a shard's header names: that of the stage, and those of the further roles of a search."""
    yield {name: value for name, value in header.items() if name != "roles"}
    roles = header.get("roles")
    for role, about in sorted(roles.items()) if isinstance(roles, dict) else ():
        if isinstance(about, dict):
            yield {**about, "role": role}


def _thinking_is_off(model: Mapping[str, Any]) -> bool:
    """Whether a model, as a shard names it, answered with thinking switched off."""
    about = model.get("about")
    return isinstance(about, dict) and about.get("thinking") == "off"


def outputs_of(run: Run, lines: Iterable[bytes], references: Mapping[str, Any]) -> Iterator[Output]:
    """The outputs of records, which are canonical JSON, each with its question's reference if `references` has one."""
    what = f"{run.id}: record"
    for line in lines:
        value = decode(line, what=what)
        value["reference"] = reference_of(references, value["question"])
        yield Output.from_json(value, what=what)


@contextmanager
def assembled(run: Run, stage: Stage) -> Iterator[Assembly]:
    """The assembly of a stage, as long as the block runs. Raises Temporary when there is no room for its database."""
    with closing(connect_temporary(SCHEMA)) as rows:
        try:
            assembly = Assembly(run, rows)
            assembly.gather(stage)
            yield assembly
        except sqlite3.Error as error:
            raise no_room(error) from error


def _expected(run: Run, stage: Stage, model: str) -> Iterator[tuple[object, ...]]:
    """A row for every item of the stage, before it has a record."""
    key_of = keys_of(run, stage, model)
    for item in stage.items(run.tasks()):
        view = encode(item.view).decode() if item.view else "{}"
        yield (key_of(item).hex(), item.task, item.question, item.sample, view)


def _missing(key: str, task: str, question: str, sample: int, view: str) -> bytes:
    """The record that says that an item has none."""
    done = Completion(key, error=MISSING)
    return encode(Record(key, task, question, decode(view, what=question), sample, done).to_json())
