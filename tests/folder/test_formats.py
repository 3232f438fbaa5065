"""What was written once is read for ever: a folder of each format version, with what was made of it then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybrid.cli import hybrid
from hybrid.folder.notes import read_notes
from hybrid.folder.orders import Orders
from hybrid.folder.runs import join_folder, open_run, run_ids

VERSIONS = pytest.mark.parametrize(
    "version", sorted((Path(__file__).parents[1] / "data").glob("v*")), ids=lambda path: path.name
)


KINDS = ("beat", "log", "ack", "order")


@VERSIONS
def test_an_old_run_opens_and_all_its_shards_verify(version: Path) -> None:
    refused: list[str] = []
    folder = join_folder(version, make=False)
    for name in run_ids(folder):
        run = open_run(folder, name)
        assert run.tasks()
        assert run.references()
        records = [record for _, shard in run.shards("answer", refused) for record in shard.records]
        assert len({record["key"] for record in records}) == json.loads((version / "outputs.json").read_text())["count"]
    assert refused == []


@VERSIONS
def test_old_notes_verify_and_mean_what_they_meant(version: Path) -> None:
    refused: list[str] = []
    folder, orders = join_folder(version, make=False), Orders()
    for name in run_ids(folder):
        notes = {kind: dict(read_notes(folder, name, kind, refused=refused)) for kind in KINDS}
        assert all(notes.values()) == (version.name != "v1"), "the first version was written by one machine"
        shards = {path for path, _ in open_run(folder, name).shards("answer", refused)}
        for ack in notes["ack"].values():
            assert set(ack["received"]) <= shards
        for path, order in notes["order"].items():
            orders.add(path, order)
        assert not orders.cancelled
    assert refused == []


@VERSIONS
def test_old_outputs_are_graded_to_the_same_bytes(version: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs.json"
    shutil.copy(version / "outputs.json", outputs)
    done = CliRunner().invoke(hybrid, ["grade", str(outputs), "--grader", "arc"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "grades.arc.json").read_bytes() == (version / "grades.arc.json").read_bytes()
