"""Outputs are the union of verified records: once an item, the same choice on every machine, the truth beside it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hybrid.assembly import Assembly
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.shards import FORMAT, ShardWriter
from hybrid.protocols import Inputs
from hybrid.records import Completion, Failure, Record

MODEL = {"name": "m", "digest": "0" * 64, "about": {}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    inputs = Inputs(tasks={"a": {}, "b": {}}, references={"a/0": "right", "b/0": [[1]]}, about={})
    return submit(join_folder(tmp_path, make=True), "sums", {}, inputs, backend="scripted", model="m")


def record(task: str, number: int, text: str | None) -> Record:
    key = f"{ord(task):032x}{number:032x}"
    error = None if text is not None else Failure("engine", "broken")
    return Record(key, task, f"{task}/0", {"n": number}, 0, Completion(key, text=text, error=error))


def write(run: Run, attempt: str, *records: Record, stage: str = "answer", name: str | None = None) -> Path:
    header = {"format": FORMAT, "version": 1, "run": name or run.id, "stage": stage, "attempt": attempt, "model": MODEL}
    paths: list[Path] = []
    with ShardWriter(
        run.path / stage / attempt, header, seconds=60, on_close=lambda path, _: paths.append(path)
    ) as writer:
        for one in records:
            writer.add(one)
    return paths[0]


def texts(run: Run) -> list[str | None]:
    with Assembly(run, "answer") as assembly:
        return [output.text for output in assembly.outputs()]


def test_outputs_come_in_one_order_whoever_wrote_them_when(run: Run) -> None:
    records = [record(task, number, f"{task}{number}") for task in "ab" for number in range(5)]
    random.Random(1).shuffle(records)
    write(run, "two", *records[:4])
    write(run, "one", *records[4:])
    assert texts(run) == [f"{task}{number}" for task in "ab" for number in range(5)]


def test_an_item_that_two_attempts_did_counts_once(run: Run) -> None:
    write(run, "second", record("a", 0, "from second"))
    write(run, "first", record("a", 0, "from first"))
    assert texts(run) == ["from first"]


def test_an_answer_wins_over_a_failure_whatever_their_attempts(run: Run) -> None:
    write(run, "first", record("a", 0, None), record("a", 1, "kept"))
    write(run, "second", record("a", 0, "done on the second try"), record("a", 1, None))
    assert texts(run) == ["done on the second try", "kept"]


def test_the_truth_meets_the_record_only_here(run: Run) -> None:
    path = write(run, "one", record("a", 0, "x"), record("b", 0, "y"))
    with Assembly(run, "answer") as assembly:
        assert [output.reference for output in assembly.outputs()] == ["right", [[1]]]
    assert b"right" not in path.read_bytes()


def test_a_shard_of_another_run_is_passed_over_and_named(run: Run) -> None:
    write(run, "one", record("a", 0, "mine"))
    strange = write(run, "two", record("a", 1, "not mine"), name="sums-000000000000")
    with Assembly(run, "answer") as assembly:
        assert [output.text for output in assembly.outputs()] == ["mine"]
    assert len(assembly.refused) == 1
    assert str(strange) in assembly.refused[0]


def test_a_damaged_shard_is_passed_over_and_named(run: Run) -> None:
    write(run, "one", record("a", 0, "whole"))
    damaged = write(run, "two", record("a", 1, "torn"))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with Assembly(run, "answer") as assembly:
        assert [output.text for output in assembly.outputs()] == ["whole"]
    assert str(damaged) in assembly.refused[0]


def test_the_models_that_answered_are_named_once(run: Run) -> None:
    for attempt in ("one", "two", "three"):
        write(run, attempt, record("a", 0, attempt))
    with Assembly(run, "answer") as assembly:
        assert json.loads(json.dumps(assembly.models)) == [MODEL]
        assert assembly.count == 1
