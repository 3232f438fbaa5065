"""Exit codes that agree between commands, empty names, standard output as a file, and stale or damaged files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hybrid.commands.run import done_text
from hybrid.errors import BadData
from hybrid.folder.notes import pack_note
from hybrid.outputs import grades_of, is_stale, stale_words, write_outputs
from hybrid.protocols import Stage
from hybrid.records import Item
from hybrid.work import Ask
from tests.support.in_process import Hybrid
from tests.support.run_folder import FIRST, RunFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    made = RunFolder(tmp_path)
    (tmp_path / "script.json").write_text(json.dumps({"answers": {}, "default": "1"}))
    monkeypatch.setenv("HYBRID_FOLDER", str(made.folder))
    monkeypatch.chdir(tmp_path)
    return made


def local(place: RunFolder, *more: str) -> list[str]:
    data = ["--set=challenges=challenges.json", "--set=views=", "--set=permute_n=0"]
    return ["run", "local", "seal-eval", *data, "--backend=scripted", "--model=script.json", *more]


@pytest.mark.parametrize(
    "arguments",
    [
        ["init", ""],
        ["fetch", ""],
        ["cancel", ""],
        ["retry", ""],
        ["logs", ""],
        ["status", ""],
        ["status", "--folder", ""],
        ["grade", ""],
        ["report", ""],
        ["notebook", "plain", ""],
        ["run", "local", "seal-eval", "-o", ""],
    ],
    ids=" ".join,
)
def test_an_empty_name_is_a_wrong_command(place: RunFolder, hybrid: Hybrid, arguments: list[str]) -> None:
    """`cancel "$RUN"` with a variable that is not set would cancel the only run that there is."""
    done = hybrid(*arguments)
    assert (done.code, done.stdout) == (2, ""), done.stderr
    assert "is empty" in done.stderr
    assert not list(place.folder.glob("runs/*/orders"))


def test_logs_of_a_run_without_a_worker_are_not_finished(place: RunFolder, hybrid: Hybrid) -> None:
    assert hybrid("logs", place.run.id).code == 4
    place.disk.write(*pack_note(place.run.id, "log", FIRST, 0, {"lines": ["12:00 begins"], "time": ""}))
    assert hybrid("logs", place.run.id).code == 0


@pytest.mark.parametrize("command", [["status"], ["fetch", "x"], ["logs", "x"], ["cancel", "x"], ["worker", "--once"]])
def test_a_plain_folder_counts_as_unavailable(place: RunFolder, hybrid: Hybrid, command: list[str]) -> None:
    """An unmounted mount point is a plain folder, which must not be made a shared folder."""
    plain = place.root / "plain"
    plain.mkdir()
    done = hybrid(*command, *(["--folder"] if command[0] != "worker" else []), plain)
    assert done.code == 5, done.stderr
    assert "init" not in done.stderr
    assert list(plain.iterdir()) == []


@pytest.mark.parametrize("command", [["status", "--watch", "0"], ["run", "remote", "x", "--wait", "--every", "0"]])
def test_an_interval_of_zero_seconds_is_refused(place: RunFolder, hybrid: Hybrid, command: list[str]) -> None:
    done = hybrid(*command)
    assert done.code == 2
    assert "too short" in done.stderr


@pytest.mark.parametrize(
    ("total", "fresh", "words"),
    [
        (0, 0, "it has no items, nothing was run"),
        (6, 0, "all 6 items were done before, nothing was run"),
        (6, 2, "2 of 6 items done now, 4 kept from before"),
        (1, 0, "its 1 item was done before, nothing was run"),
        (1, 1, "1 of 1 item done now, 0 kept from before"),
    ],
)
def test_the_summary_of_a_run_counts_items_done_now_and_before(total: int, fresh: int, words: str) -> None:
    assert done_text(total, fresh) == words


def test_every_o_option_can_write_to_standard_output(place: RunFolder, hybrid: Hybrid) -> None:
    done = hybrid(*local(place))
    outputs = Path(done.stdout.strip())
    assert hybrid(*local(place, "-o", "-")).stdout == outputs.read_text()
    run = outputs.parent.name
    fetched = hybrid("fetch", run, "-o", "-")
    assert (fetched.code, fetched.stdout) == (0, outputs.read_text())
    digest = json.loads(outputs.read_text())["run"]["model_digest"]
    remote = ["run", "remote", *local(place)[2:], "--model-digest", digest]
    assert hybrid(*remote, "--wait", "-o", "-").stdout == outputs.read_text()
    graded = hybrid("grade", outputs, "-o", "-")
    assert json.loads(graded.stdout)["format"] == "hybrid/grades"
    assert "ungraded tasks" in graded.stderr
    assert hybrid("grade", outputs, "-o", "grades.json").code == 0
    assert graded.stdout == Path("grades.json").read_text()
    hybrid("grade", outputs)
    page = hybrid("report", outputs, "-o", "-")
    assert page.stdout.startswith("<!DOCTYPE html>")
    assert json.loads(hybrid("notebook", "plain", run, "-o", "-").stdout)["nbformat"] == 4
    assert not Path("-").exists()
    for command in (local(place), ["fetch", run], ["grade", outputs], remote):
        both = hybrid(*command, "--json", "-o", "-")
        assert (both.code, both.stdout) == (2, ""), "two things cannot both be on standard output"


def test_a_run_whose_items_cannot_be_made_is_not_submitted(
    place: RunFolder, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(place.folder.rglob("*"))
    misspelt = [one.replace("=scripted", "=lamacpp") for one in local(place)[2:]]
    done = hybrid("run", "remote", *misspelt, "--set", "seed=3")
    assert (done.code, "did you mean 'llamacpp'?" in done.stderr) == (2, True), done.stderr
    monkeypatch.setattr("pipelines.seal.eval.SealEval.stages", lambda self: (Stage("answer", "gpu", 1, Ask(no_items)),))
    done = hybrid("run", "remote", *local(place)[2:], "--set", "seed=3")
    assert (done.code, "these tasks have no items" in done.stderr) == (6, True), done.stderr
    assert sorted(place.folder.rglob("*")) == before


def no_items(tasks: Mapping[str, object]) -> Iterator[Item]:
    """A stage that gets the tasks of another pipeline."""
    raise BadData(f"these tasks have no items: {len(tasks)}")


@pytest.mark.parametrize("name", ["outputs.jsonl", "outputs.json.zst"])
@pytest.mark.parametrize("command", [["fetch", "a-run"], ["run", "local", "qa-eval"], ["judge", "compare", "a", "b"]])
def test_outputs_are_not_written_under_the_name_of_another_layout(
    tmp_path: Path, hybrid: Hybrid, command: list[str], name: str
) -> None:
    done = hybrid(*command, "-o", str(tmp_path / name))
    assert done.code == 2
    assert "outputs are one JSON document" in done.stderr
    assert not list(tmp_path.iterdir())


def test_grades_of_an_unfinished_run_are_not_finished(place: RunFolder, hybrid: Hybrid) -> None:
    place.shard(0, 1)
    done = hybrid("grade", place.run.id)
    assert done.code == 4, done.stderr
    assert "4 of 6 outputs are missing" in done.stderr
    assert "failed outputs: 4 (missing: 4) of 6" in done.stdout
    place.shard(2, 3, 4, 5)
    assert hybrid("grade", place.run.id, "--threshold", "0").code in (0, 3)


def test_grades_of_changed_outputs_are_reported_as_stale(place: RunFolder, hybrid: Hybrid) -> None:
    place.shard(0, 1)
    stale = "judges other outputs than outputs.json holds now"
    fetched = hybrid("fetch", place.run.id)
    outputs = Path(fetched.stdout.strip())
    assert hybrid("grade", outputs).code == hybrid("grade", outputs, "--grader", "exact").code == 4
    told = [hybrid("fetch", place.run.id), hybrid("status", place.run.id), hybrid("grade", outputs)]
    assert not any(stale in one.stdout + one.stderr for one in told), "they are of what is there"
    place.shard(2, 3)
    assert hybrid("fetch", place.run.id).stderr.count(stale) == 2
    assert hybrid("status", place.run.id).stdout.count(stale) == 2
    page = hybrid("report", outputs, "--grader", "arc")
    assert (page.code, stale in page.stderr, "hybrid grade" in page.stderr) == (6, True, True)
    assert hybrid("grade", outputs).stderr.count(f"grades.exact.json {stale}") == 1
    assert stale not in hybrid("report", outputs, "--grader", "arc").stderr


@pytest.mark.parametrize("data", [b"", b"{}", b'"outputs":{"run":null,"sha256":"', b"\xff" * 5000, b'{"format":"x"}\n'])
def test_grades_without_the_digest_of_their_outputs_are_not_called_stale(tmp_path: Path, data: bytes) -> None:
    outputs, grades = tmp_path / "outputs.json", tmp_path / "grades.arc.json"
    write_outputs(outputs, None, [], {}, [])
    grades.write_bytes(data)
    assert not is_stale(grades, outputs)
    assert not is_stale(tmp_path / "nothing", outputs)
    assert not is_stale(grades, tmp_path)
    assert stale_words(tmp_path / "away" / "outputs.json") == []
    os.mkfifo(grades_of(outputs, "pipe"))
    assert not is_stale(grades_of(outputs, "pipe"), outputs), "nobody writes into it, so reading it would never end"


def test_a_pipe_that_is_named_like_grades_is_passed_over(tmp_path: Path, hybrid: Hybrid) -> None:
    outputs = tmp_path / "answers.jsonl"
    outputs.write_text('{"task":"t","question":"q","text":"1","reference":"1"}\n')
    os.mkfifo(grades_of(outputs, "exact"))
    assert hybrid("report", outputs).code == 0
    exported = hybrid("export", outputs, "--to", "csv", "-o", tmp_path / "table")
    assert exported.code == 0, exported.stderr


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("outputs.json", b'{"results": []}'),
        ("outputs.json", b'{"format":"hybrid/outputs","version":1,\n"run":null,\n"mod'),
        ("outputs.json", "cut"),
        ("answers.jsonl", b'{"question": "q"}\n'),
        ("grades.arc.json", b'{"format":"hybrid/grades","version":1,"grader":{"na'),
    ],
)
def test_a_report_of_a_damaged_or_foreign_file_is_refused(
    tmp_path: Path, hybrid: Hybrid, name: str, data: bytes | str
) -> None:
    path = tmp_path / name
    write_outputs(path.with_name("whole.json"), None, [], {}, [])
    path.write_bytes(path.with_name("whole.json").read_bytes()[:-20] if isinstance(data, str) else data)
    done = hybrid("report", path)
    assert (done.code, str(path) in done.stderr) == (6, True), done.stderr
    assert hybrid("report", path.with_name("whole.json")).code == 0, "that is whole, and drawn without scores"
