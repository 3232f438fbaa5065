"""What a carrier lost, tore or brought back older is put right by the next command, and no good file gets worse."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hybrid.doctor import environment
from hybrid.errors import BadData, CannotRun, HybridError, Temporary, UsageError
from hybrid.execution.index import Index
from hybrid.folder.runs import join_folder, open_run
from hybrid.folder.spec import ModelSpec
from hybrid.laptop import remote_runs
from hybrid.machine import home
from hybrid.machine.files import NotThere, explain_internal_errors, write_once
from hybrid.outputs import open_outputs, write_outputs
from hybrid.plugins import installed
from hybrid.status.run_status import read_statuses
from tests.support.in_process import Hybrid
from tests.support.run_folder import MODEL, SECOND, RunFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return RunFolder(tmp_path)


def outputs(place: RunFolder) -> Path:
    return place.folder / "results" / place.run.id / "outputs.json"


def fetch(place: RunFolder) -> remote_runs.Fetched:
    return remote_runs.fetch(place.folder, place.run.id, outputs(place))


def submit(place: RunFolder) -> object:
    models = {"": ModelSpec("scripted", "made-up", MODEL)}
    return remote_runs.submit_remote(place.folder, "seal-eval", place.pipeline, models)


def notes(place: RunFolder, kind: str) -> list[Path]:
    return sorted((place.folder / place.run.place / kind).rglob("*.zst"))


def seen(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder with its time of change and content."""
    return {str(one): (one.stat().st_mtime_ns, one.read_bytes()) for one in root.rglob("*") if one.is_file()}


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "torn": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "other": lambda file: file.write_bytes(b"x" * file.stat().st_size),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_order_that_the_folder_lost_goes_out_with_the_same_command(place: RunFolder, damage: str) -> None:
    place.shard(0, error="engine")
    fetch(place)
    for command in (lambda: remote_runs.cancel(place.folder, place.run.id), lambda: submit(place)):
        command()
        sent = notes(place, "orders")
        good = [one.read_bytes() for one in sent]
        for one in sent:
            DAMAGES[damage](one)
        command()
        assert [one.read_bytes() for one in sent] == good
        assert notes(place, "orders") == sent
    remote_runs.retry(place.folder, place.run.id)
    *_, order = notes(place, "orders")
    good_order = order.read_bytes()
    DAMAGES[damage](order)
    assert remote_runs.retry(place.folder, place.run.id)[1] == 1
    assert order.read_bytes() == good_order


def test_an_order_that_found_no_room_goes_out_later(place: RunFolder) -> None:
    blocked = place.folder / place.run.place / "orders"
    blocked.write_text("in the way")
    with pytest.raises(BadData, match="orders"):
        remote_runs.cancel(place.folder, place.run.id)
    blocked.unlink()
    remote_runs.cancel(place.folder, place.run.id)
    assert len(notes(place, "orders")) == 1
    assert place.look().cancelled


def test_a_folder_restored_from_an_older_copy_gets_its_notes_back(place: RunFolder) -> None:
    shutil.copytree(place.folder, place.root / "older")
    place.shard(0, 1)
    place.shard(2, error="engine")
    fetch(place)
    remote_runs.retry(place.folder, place.run.id)
    told = {kind: [one.name for one in notes(place, kind)] for kind in ("acks", "orders")}
    shutil.rmtree(place.folder)
    shutil.copytree(place.root / "older", place.folder)
    done = fetch(place)
    assert {kind: [one.name for one in notes(place, kind)] for kind in ("acks", "orders")} == told
    assert (done.items, done.missing, done.failed, done.again) == (6, 3, 1, 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_ack_that_is_damaged_in_the_folder_is_healed(place: RunFolder, damage: str) -> None:
    place.shard(0, 1)
    fetch(place)
    (ack,) = notes(place, "acks")
    good = ack.read_bytes()
    DAMAGES[damage](ack)
    assert fetch(place).new.shards == 0
    assert ack.read_bytes() == good


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_received_copy_that_is_damaged_is_told_and_taken_over_again(place: RunFolder, damage: str) -> None:
    path = place.shard(0, 1)
    place.shard(2)
    sha256 = fetch(place).sha256
    assert place.sums("done", "received") == (3, 3)
    assert list(environment.damaged_copies(place.folder)) == []
    DAMAGES[damage](Path(f"{place.store}/{path}"))
    assert place.sums("done", "received") == (3, 1)
    (finding,) = environment.damaged_copies(place.folder)
    assert (finding.kind, finding.path, finding.level) == ("received", path, "problem")
    done = fetch(place)
    assert (done.new.shards, done.new.healed, done.missing, done.sha256) == (0, 1, 3, sha256)
    assert place.sums("done", "received") == (3, 3)
    assert len(notes(place, "acks")) == 1


def test_a_fuller_file_is_not_replaced_by_a_poorer_one(place: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    path = place.shard(0, 1)
    place.shard(2, 3)
    before = fetch(place)
    full = outputs(place).read_bytes()
    for root in (place.store, place.folder):
        Path(f"{root}/{path}").write_bytes(b"")
    done = fetch(place)
    assert outputs(place).read_bytes() == full
    assert (before.missing, done.missing, done.sha256) == (2, 4, before.sha256)
    assert any("its copy here is damaged or gone" in reason for reason in done.new.refused)
    assert "is kept: it has 4 answers, of which 2 can be read now" in caplog.text
    place.shard(0, 1, 4, attempt=SECOND)
    assert fetch(place).missing == 1
    assert outputs(place).read_bytes() != full


def test_a_fuller_file_of_another_model_or_run_or_not_whole_is_replaced(place: RunFolder) -> None:
    place.shard(0, 1)
    fetch(place)
    poor = outputs(place).read_bytes()
    with closing(open_outputs(outputs(place))) as opened:
        tasks, models = dict(opened.tasks), list(opened.models)
        records = [one for one in opened.records()] * 2  # noqa: C416
        run = dict(opened.run)
    answers = [one for one in records if not one.error] * 3
    for other_run, other_models in (({**run, "id": "another"}, models), (run, [{**models[0], "digest": "c" * 64}])):
        write_outputs(outputs(place), other_run, other_models, tasks, answers)
        fetch(place)
        assert outputs(place).read_bytes() == poor
    write_outputs(outputs(place), run, models, tasks, answers)
    outputs(place).write_bytes(outputs(place).read_bytes()[:-9])
    fetch(place)
    assert outputs(place).read_bytes() == poor


@pytest.mark.parametrize("content", [b"", b'{"form', b'{"format":"hybrid/out', bytes(5000), b'{"form' + bytes(5000)])
def test_what_is_left_of_an_outputs_file_is_replaced(place: RunFolder, content: bytes) -> None:
    place.shard(0)
    fetch(place)
    whole = outputs(place).read_bytes()
    outputs(place).write_bytes(content)
    fetch(place)
    assert outputs(place).read_bytes() == whole


@pytest.mark.parametrize("content", [b"my notes", bytes(5000) + b"x", b'{"form' + bytes(50) + b"x", b'{"formula": 1}'])
def test_another_file_at_its_place_is_not(place: RunFolder, content: bytes) -> None:
    place.shard(0)
    outputs(place).parent.mkdir(parents=True)
    outputs(place).write_bytes(content)
    with pytest.raises(UsageError, match="holds something else"):
        fetch(place)
    assert outputs(place).read_bytes() == content


def test_a_fetch_with_nothing_new_writes_nothing_into_the_folder(place: RunFolder) -> None:
    place.shard(0, 1)
    place.shard(2, error="engine")
    fetch(place)
    remote_runs.retry(place.folder, place.run.id)
    before, places = seen(place.folder), {str(one): one.stat().st_mtime_ns for one in place.folder.rglob("*")}
    assert fetch(place).new.shards == 0
    assert seen(place.folder) == before
    assert {str(one): one.stat().st_mtime_ns for one in place.folder.rglob("*")} == places  # no name came and went


def test_a_run_that_has_not_arrived_is_waited_for_and_a_misspelt_one_is_not(place: RunFolder) -> None:
    with pytest.raises(NotThere, match=r"or not yet") as caught:
        open_run(place.disk, "seal-eval-0123456789ab")
    assert place.run.id in caught.value.hint
    with pytest.raises(UsageError, match="no run is called 'seal-evil'"):
        open_run(place.disk, "seal-evil")
    (place.folder / place.run.place / "run.json").unlink()
    for name in ("seal-evil", "seal-eval"):  # nothing is here; its place is
        with pytest.raises(NotThere, match="or not yet"):
            open_run(place.disk, name)


def test_the_frozen_run_and_the_mark_are_healed_by_submitting_again(place: RunFolder) -> None:
    for file in (place.folder / place.run.place / "run.json", place.folder / "hybrid.json"):
        good = file.read_bytes()
        for damage in ("empty", "torn", "zeros", "deleted"):
            DAMAGES[damage](file)
            with pytest.raises(HybridError) as caught:
                open_run(join_folder(place.folder, make=False), place.run.id)
            assert caught.value.exit_code in (5, 6)
            join_folder(place.folder, make=True)
            submit(place)
            assert file.read_bytes() == good


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("ENOENT", NotThere),
        ("EINVAL", Temporary),
        ("EIO", Temporary),
        ("ESTALE", Temporary),
        ("ENAMETOOLONG", Temporary),
        ("ENOSPC", Temporary),
        ("ENOTDIR", BadData),
        ("EISDIR", BadData),
        ("EACCES", CannotRun),
    ],
)
def test_inside_a_folder_no_error_of_the_system_is_a_wrong_command(number: str, expected: type[HybridError]) -> None:
    code = getattr(errno, number)
    with pytest.raises(expected) as caught, explain_internal_errors(Path("somewhere"), doing="reading it"):
        raise OSError(code, os.strerror(code))
    assert type(caught.value) is expected
    assert caught.value.hint


def test_zeros_that_a_crash_left_are_written_over_and_other_content_is_not(tmp_path: Path) -> None:
    for left in (b"", b"con", b"con\0\0\0\0", bytes(7), bytes(3)):
        (tmp_path / "file").write_bytes(left)
        write_once(tmp_path / "file", b"content")
        assert (tmp_path / "file").read_bytes() == b"content"
    (tmp_path / "file").write_bytes(b"contents")
    with pytest.raises(BadData, match="other content"):
        write_once(tmp_path / "file", b"content")


def test_an_unfinished_file_is_never_in_the_folder_of_its_place(
    place: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.shard(0)
    found: list[list[str]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        found.append([one.name for one in (place.folder / "results").rglob("*.part")])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    home.parts_folder().mkdir(parents=True)
    (killed, written) = (home.parts_folder() / f".outputs.json.{n}.part" for n in range(2))
    killed.touch()
    os.utime(killed, (0, 0))
    written.touch()
    fetch(place)
    assert found
    assert not any(found)
    assert list(home.parts_folder().iterdir()) == [written]


def test_where_this_machine_has_no_room_of_its_own_the_file_is_made_beside_its_place(place: RunFolder) -> None:
    place.shard(0)
    home.parts_folder().parent.mkdir(exist_ok=True)
    home.parts_folder().write_text("in the way")
    fetch(place)
    assert [one.name for one in outputs(place).parent.iterdir()] == ["outputs.json"]


def test_a_file_made_on_another_disk_takes_its_place_whole(place: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path("/dev/shm")  # noqa: S108
    if not other.is_dir() or other.stat().st_dev == place.root.stat().st_dev:
        pytest.skip("needs a second disk at /dev/shm")
    with tempfile.TemporaryDirectory(dir=other) as elsewhere:
        monkeypatch.setenv("HYBRID_HOME", elsewhere)
        place.shard(0)
        fetch(place)
        assert open_outputs(outputs(place)).run["id"] == place.run.id
        assert [one.name for one in outputs(place).parent.iterdir()] == ["outputs.json"]
        assert list(home.parts_folder().iterdir()) == []


def test_a_shard_that_was_torn_after_it_was_verified_is_not_told_as_safe_after_a_fetch(place: RunFolder) -> None:
    path = place.shard(0, 1)
    place.shard(2)
    assert place.sums("done", "received") == (3, 0)
    (place.folder / path).write_bytes((place.folder / path).read_bytes()[:-9])
    assert fetch(place).missing == 5
    with closing(Index(home.index_of(place.folder))) as index:
        (found,) = read_statuses(place.disk, place.store, index, None)
    assert (found.sum("done"), found.sum("received")) == (1, 1)
    assert any("cut short" in reason or "does not match" in reason for reason in found.refused)


def test_what_a_pipeline_that_is_not_installed_here_has_brought_is_received(
    place: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.shard(0, 1)
    monkeypatch.setattr(installed, "names", lambda kind: {})
    with pytest.raises(CannotRun, match="is of the pipeline 'seal-eval', which is not installed here"):
        fetch(place)
    assert Path(f"{place.store}/{path}").is_file()
    assert len(notes(place, "acks")) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"folder":""}'])
def test_a_damaged_memory_of_the_joined_folder_sends_no_command_elsewhere(
    place: RunFolder, monkeypatch: pytest.MonkeyPatch, hybrid: Hybrid, content: str
) -> None:
    monkeypatch.delenv("HYBRID_FOLDER", raising=False)
    assert home.joined_folder() is None
    (home.home()).mkdir(parents=True, exist_ok=True)
    (home.home() / "joined.json").write_text(content)
    said = hybrid("status")
    assert said.code == 6
    assert "joined.json" in said.stderr
    assert "hybrid init" in said.stderr
    assert hybrid("init", str(place.folder)).code == 0
    assert home.joined_folder() == place.folder
