"""Outputs are the union of verified records: one for every item, the same choice on every machine, the truth beside."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.canonical import encode
from hybrid.errors import BadData
from hybrid.execution.assembly import MISSING, assembled
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.shards import FORMAT, ShardWriter, pack, verify_shard
from hybrid.folder.spec import ModelSpec
from hybrid.outputs import open_outputs, write_outputs
from hybrid.protocols import Inputs, Stage
from hybrid.records import Completion, Failure, Item, Output, Record, Request, Sampling, reference_of
from hybrid.work import Ask

DIGEST = "0" * 64
MODEL = {"name": "m", "digest": DIGEST, "about": {}}
PER_TASK = 5


def items(tasks: Mapping[str, Any]) -> Iterator[Item]:
    for task in tasks:
        for number in range(PER_TASK):
            request = Request(Sampling(max_tokens=1), prompt=f"{task} {number}")
            yield Item(task, f"{task}/0", request, {"n": number})


STAGE = Stage("answer", "any", 1, Ask(items))
ITEMS = {(item.task, item.view["n"]): item for item in items({"a": {}, "b": {}})}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    inputs = Inputs(tasks={"a": {}, "b": {}}, references={"a/0": "right", "b/0": [[1]]}, about={})
    folder = join_folder(tmp_path, make=True)
    return submit(folder, "sums", {}, inputs, models={"": ModelSpec("scripted", "m", DIGEST)})


def record(task: str, number: int, text: str | None, stage: Stage = STAGE) -> Record:
    item = ITEMS[task, number]
    key = item.key(stage.identity, DIGEST)
    error = None if text is not None else Failure("engine", "broken")
    return Record(key, task, item.question, item.view, 0, Completion(key, text=text, error=error))


def write(run: Run, attempt: str, /, *records: Record, **other: object) -> Path:
    header = {"format": FORMAT, "version": 1, "run": run.id, "stage": "answer", "attempt": attempt, "model": MODEL}
    paths: list[str] = []
    place = f"{run.place}/answer/{attempt}"
    header = {**header, **other}
    writer = ShardWriter(run.folder, place, header, seconds=60, on_close=lambda path, _: paths.append(path))
    for one in records:
        writer.add(one)
    writer.close()
    return Path(f"{run.folder}/{paths[0]}")


def outputs(run: Run) -> list[Output]:
    with assembled(run, STAGE) as assembly:
        return list(assembly.outputs())


def texts(run: Run) -> list[str]:
    return [output.text for output in outputs(run) if output.text is not None]


def test_outputs_come_in_one_order_whoever_wrote_them_when(run: Run) -> None:
    records = [record(task, number, f"{task}{number}") for task in "ab" for number in range(PER_TASK)]
    random.Random(1).shuffle(records)
    write(run, "two", *records[:4])
    write(run, "one", *records[4:])
    assert texts(run) == [f"{task}{number}" for task in "ab" for number in range(PER_TASK)]


def test_an_item_that_two_attempts_did_counts_once(run: Run) -> None:
    write(run, "second", record("a", 0, "from second"))
    write(run, "first", record("a", 0, "from first"))
    assert texts(run) == ["from first"]


def test_an_answer_wins_over_a_failure_whatever_their_attempts(run: Run) -> None:
    write(run, "first", record("a", 0, None), record("a", 1, "kept"))
    write(run, "second", record("a", 0, "done on the second try"), record("a", 1, None))
    assert texts(run) == ["done on the second try", "kept"]


def test_what_has_no_record_is_a_failure_in_the_outputs_and_counted(run: Run) -> None:
    write(run, "one", record("a", 0, "there"), record("b", 4, None))
    found = outputs(run)
    assert len(found) == 2 * PER_TASK
    assert [output.error.kind for output in found if output.error].count("missing") == 2 * PER_TASK - 2
    with assembled(run, STAGE) as assembly:
        assert assembly.missing == 2 * PER_TASK - 2
    assert {output.error for output in found} == {None, MISSING, Failure("engine", "broken")}


def test_records_of_an_older_version_of_the_stage_are_passed_over(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    old = Stage("answer", "any", 0, Ask(items))
    write(run, "one", record("a", 0, "old", old), record("a", 1, "old", old))
    write(run, "two", record("a", 0, "new"))
    assert texts(run) == ["new"]
    assert "2 records of no item of this run" in caplog.text


def test_two_answers_to_one_item_are_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    write(run, "one", record("a", 0, "yes"), record("a", 1, "same"))
    write(run, "two", record("a", 0, "no"), record("a", 1, "same"))
    assert texts(run) == ["yes", "same"]
    assert "1 item was answered twice, differently" in caplog.text


def test_the_truth_meets_the_record_only_here(run: Run) -> None:
    path = write(run, "one", record("a", 0, "x"), record("b", 0, "y"))
    assert [output.reference for output in outputs(run) if output.text] == ["right", [[1]]]
    assert b"right" not in path.read_bytes()


@pytest.mark.parametrize(
    "other", [{"run": "sums-000000000000"}, {"stage": "train"}, {"model": {**MODEL, "digest": "1" * 64}}]
)
def test_a_shard_of_another_run_stage_or_model_is_passed_over_and_named(
    run: Run, caplog: pytest.LogCaptureFixture, other: dict[str, object]
) -> None:
    write(run, "one", record("a", 0, "mine"))
    strange = write(run, "two", record("a", 1, "not mine"), **other)
    assert texts(run) == ["mine"]
    assert strange.name in caplog.text


def test_answers_that_an_earlier_version_let_be_thought_about_are_told_beside_others(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """They have the same keys; a thought in them is set apart, and one without an end is no answer."""
    write(run, "one", record("a", 0, "<think>hm</think>yes"), record("a", 1, "<think>hm"))
    assert texts(run) == ["yes"]
    assert "thought about" not in caplog.text
    write(run, "two", record("a", 2, "no"), model={**MODEL, "about": {"thinking": "off"}})
    assert texts(run) == ["yes", "no"]
    assert "2 answers were thought about" in caplog.text


def test_a_damaged_shard_is_passed_over_and_named(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    write(run, "one", record("a", 0, "whole"))
    damaged = write(run, "two", record("a", 1, "torn"))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert texts(run) == ["whole"]
    assert damaged.name in caplog.text


def test_a_folder_with_a_name_that_a_terminal_would_obey_is_passed_over(run: Run) -> None:
    write(run, "one", record("a", 0, "mine"))
    odd = write(run, "two", record("a", 1, "odd"))
    odd.parent.parent.rename(odd.parent.parent.with_name("\x1b[31mred"))
    assert texts(run) == ["mine"]


def test_a_variant_has_the_reference_of_its_question_unless_it_has_its_own() -> None:
    references = {"a/0": "right", "b@c/0": "odd", "a/0@own": None}
    questions = ("a/0", "a/0@fixed", "a/0@fixed@twice", "b@c/0", "a/0@own", "b/0", "@", "")
    assert [reference_of(references, one) for one in questions] == ["right", "right", "right", "odd", *[None] * 4]


def test_what_training_did_goes_from_the_record_to_the_outputs(run: Run, tmp_path: Path) -> None:
    metrics = {"adapter": "a" * 64, "steps": 12, "loss": [2.5, 1e-05]}
    one = record("a", 0, "x")
    path = write(run, "one", replace(one, completion=replace(one.completion, trained=metrics)), record("a", 1, "y"))
    first, second = verify_shard(path.name, path.read_bytes()).records
    assert (first["trained"], "trained" in second) == (metrics, False)
    found = [output for output in outputs(run) if output.text]
    assert [output.trained for output in found] == [metrics, {}]
    sha256 = write_outputs(tmp_path / "outputs.json", None, [MODEL], {}, found)
    assert (tmp_path / "outputs.json").read_bytes().count(b'"trained"') == 1
    other = tmp_path / "other.json"  # the same content, laid out in another way
    other.write_text(json.dumps(json.loads((tmp_path / "outputs.json").read_bytes()), indent=1))
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b"".join(encode(output.to_json()) + b"\n" for output in found))
    for name in ("outputs.json", "other.json", "lines.jsonl"):
        with closing(open_outputs(tmp_path / name)) as opened:
            assert list(opened.records()) == found
            assert opened.sha256 == sha256 or name == "lines.jsonl"


@pytest.mark.parametrize("trained", [None, [], "x", 1])
def test_a_record_whose_training_is_no_object_is_refused(run: Run, trained: object) -> None:
    one = {**record("a", 0, "x").to_json(), "trained": trained}
    header = {
        "format": FORMAT,
        "version": 1,
        "run": run.id,
        "stage": "answer",
        "attempt": "one",
        "model": MODEL,
        "seq": 0,
    }
    name, data = pack(header, [encode(one)], 0)
    with pytest.raises(BadData, match="trained"):
        verify_shard(str(name), data)
    name, data = pack(header, [encode({**record("a", 0, "x").to_json(), "other": {}})], 0)
    with pytest.raises(BadData, match="not a record"):
        verify_shard(str(name), data)


def test_the_models_that_answered_are_named_once(run: Run) -> None:
    for attempt in ("one", "two", "three"):
        write(run, attempt, record("a", 0, attempt))
    with assembled(run, STAGE) as assembly:
        assert assembly.models == [MODEL]
