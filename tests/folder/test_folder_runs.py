"""A run is named by its spec, submitted as often as one likes, and refused when somebody changed it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.canonical import digest
from hybrid.errors import BadData, CannotRun, UsageError
from hybrid.folder.medium import Disk, NotThere
from hybrid.folder.names import checked
from hybrid.folder.runs import MARK, Run, join_folder, open_run, run_ids, submit
from hybrid.folder.spec import ModelSpec, check_spec
from hybrid.protocols import Inputs


def place_of(run: Run) -> Path:
    return Path(f"{run.folder}/{run.place}")


INPUTS = Inputs(tasks={"t": {"q": "1+1"}}, references={"t/0": "2"}, about={"data": "sums"})


def submitted(folder: Path, **settings: object) -> Run:
    return submit(
        join_folder(folder, make=True), "sums", settings, INPUTS, models={"": ModelSpec("scripted", "m", "0" * 64)}
    )


def test_submitting_twice_is_one_run(tmp_path: Path) -> None:
    assert submitted(tmp_path).id == submitted(tmp_path).id
    assert run_ids(Disk(tmp_path)) == [submitted(tmp_path).id]


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    assert submitted(tmp_path, seed=1).id != submitted(tmp_path, seed=2).id
    assert len(run_ids(Disk(tmp_path))) == 2


def test_the_tasks_and_the_truth_come_back_apart(tmp_path: Path) -> None:
    run = open_run(Disk(tmp_path), submitted(tmp_path).id)
    assert run.tasks() == INPUTS.tasks
    assert run.references() == INPUTS.references
    assert "2" not in json.dumps(run.tasks())


def test_a_whole_number_beyond_64_bits_comes_back_whole(tmp_path: Path) -> None:
    inputs = Inputs(tasks={"t": 2**70 + 1}, references={"t/0": [2**70 + 1, 1e-05]}, about={})
    folder = join_folder(tmp_path, make=True)
    run = submit(folder, "sums", {}, inputs, models={"": ModelSpec("scripted", "m", "0" * 64)})
    assert (run.tasks(), run.references()) == (inputs.tasks, inputs.references)


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    assert open_run(Disk(tmp_path), run.id[:8]).id == run.id


def test_no_run_and_several_runs_are_told_apart(tmp_path: Path) -> None:
    submitted(tmp_path, seed=1), submitted(tmp_path, seed=2)
    with pytest.raises(UsageError, match="no run is called 'other'"):
        open_run(Disk(tmp_path), "other")
    with pytest.raises(UsageError, match="several runs begin with 'sums'") as several:
        open_run(Disk(tmp_path), "sums")
    assert several.value.hint == f"name one of them: {', '.join(sorted(run_ids(Disk(tmp_path))))}", "no guess of equals"


def test_a_changed_spec_is_refused(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    path = place_of(run) / "run.json"
    path.write_text(path.read_text().replace('"model":"m"', '"model":"n"'))
    with pytest.raises(BadData, match="was changed after it was written"):
        open_run(Disk(tmp_path), run.id)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format":"hybrid/run","version":2}', '{"format":"other"}', "NaN"])
def test_a_foreign_or_torn_spec_is_refused(tmp_path: Path, text: str) -> None:
    run = submitted(tmp_path)
    (place_of(run) / "run.json").write_text(text)
    with pytest.raises(BadData):
        open_run(Disk(tmp_path), run.id)


def test_a_torn_submission_is_finished_by_the_same_command(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    for path in place_of(run).iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    again = open_run(Disk(tmp_path), submitted(tmp_path).id)
    assert (again.tasks(), again.references()) == (INPUTS.tasks, INPUTS.references)


def test_changed_inputs_are_refused(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    (blob,) = place_of(run).glob("inputs-*")
    blob.write_bytes((next(place_of(run).glob("references-*"))).read_bytes())
    with pytest.raises(BadData, match=r"does not match the sha256 in run\.json"):
        run.tasks()


def test_a_folder_of_somebody_else_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="is not a folder of hybrid"):
        join_folder(tmp_path, make=False)
    (tmp_path / "hybrid.json").write_text('{"format":"something else"}')
    with pytest.raises(BadData, match="not the mark of a folder"):
        join_folder(tmp_path, make=True)


@pytest.mark.parametrize(
    ("mark", "hint"),
    [
        ({"format": "something else", "version": 2}, "somebody else's"),
        ({**MARK, "version": 2}, "update hybrid"),
        ([], ""),
    ],
)
def test_only_a_mark_of_ours_is_of_a_newer_version(tmp_path: Path, mark: Any, hint: str) -> None:
    (tmp_path / "hybrid.json").write_text(json.dumps(mark) + " " * 100)
    with pytest.raises(BadData, match="not the mark of a folder") as caught:
        join_folder(tmp_path, make=False)
    assert hint in caught.value.hint
    assert ("update" in caught.value.hint) == ("update" in hint)


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises((CannotRun, BadData, UsageError)) as caught:
        join_folder(place, make=True)
    assert str(place) in caught.value.message


BAD_NAMES = ["", ".", "..", "a/b", "a\\b", "A", "con", "nul.json", "lpt1", "a..b", "ä", "x" * 121, "a."]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_some_system_refuses_are_refused(name: str) -> None:
    with pytest.raises(BadData):
        checked(name, what="name")


def test_a_mark_that_a_crash_cut_short_is_finished(tmp_path: Path) -> None:
    join_folder(tmp_path, make=True)
    mark = tmp_path / "hybrid.json"
    whole = mark.read_bytes()
    for length in range(len(whole)):
        mark.write_bytes(whole[:length])
        join_folder(tmp_path, make=True)
        assert mark.read_bytes() == whole


def test_a_run_behind_a_link_is_refused(tmp_path: Path) -> None:
    run = submitted(tmp_path / "other")
    join_folder(tmp_path / "mine", make=True)
    (tmp_path / "mine" / "runs").mkdir()
    (tmp_path / "mine" / "runs" / run.id).symlink_to(place_of(run))
    with pytest.raises(BadData, match="not followed"):
        open_run(Disk(tmp_path / "mine"), run.id)
    with pytest.raises(NotThere, match="no run is called"):
        open_run(Disk(tmp_path / "mine"), run.id[:8])
    with pytest.raises(BadData, match="not followed"):
        Disk(tmp_path / "mine").read(f"{run.place}/run.json", 1000)


def test_a_spec_whose_digests_are_paths_is_refused(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    spec = {**run.spec, "inputs": "../../../etc/passwd"}
    with pytest.raises(BadData):
        check_spec(spec, f"sums-{digest(spec)[:12]}")
