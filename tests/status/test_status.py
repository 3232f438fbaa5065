"""`hybrid status` on real folders: each item counts once, where it is safe; what is unknown is called unknown."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid import settings
from hybrid.canonical import Json
from hybrid.errors import BadData, Temporary, UsageError
from hybrid.execution import stage_view
from hybrid.execution.index import Index
from hybrid.execution.stage_view import StageView
from hybrid.folder.medium import Disk, Entry
from hybrid.folder.notes import pack_note
from hybrid.folder.recovery import Journals
from hybrid.folder.runs import join_folder, open_run, submit
from hybrid.folder.spec import ModelSpec
from hybrid.machine import home
from hybrid.machine.lock import exclusive_lock
from hybrid.machine.terminal import duration
from hybrid.status import run_status
from hybrid.status.run_status import RunStatus, read_statuses
from hybrid.status.text import detail_lines, summary_line
from hybrid.status.waiting import SideState
from tests.support.run_folder import BEAT, FIRST, MODEL, OTHER, SECOND, CountingDisk, RunFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return RunFolder(tmp_path)


def details(found: RunStatus) -> str:
    return "\n".join(detail_lines(found))


def test_a_run_without_a_worker_is_shown_as_such(place: RunFolder) -> None:
    found = place.look()
    assert (found.total, found.sum("done"), found.exit_code) == (6, 0, 4)
    told = details(found)
    assert "0 of 6 items" in told
    assert "  workers     no worker has begun yet; one that waits for the other side reports nothing\n" in told
    assert "what a worker's machine alone may hold is not known" in told
    assert "no worker has begun yet" in summary_line(found)
    assert found.stopped
    assert f"  next        on the GPU machine: `hybrid worker FOLDER --run {found.id} --model made-up=PATH`" in told
    assert "if `hybrid run local` began it, the same command again also goes on" in told


def test_what_each_of_two_sides_waits_for_is_told(place: RunFolder) -> None:
    sides = SideState("gpu", "policy-1", "judged"), SideState("laptop", "judged")
    found = replace(place.look(), sides=sides)
    told = details(found)
    assert "  waits       the GPU side waits with 'policy-1' for the stage 'judged'\n" in told
    assert "              'judged' waits for a worker: the laptop side has to do it\n" in told
    for other in (replace(found, sides=sides[:1]), replace(found, cancelled=True), replace(found, local=True)):
        assert "  waits  " not in details(other)


def test_a_local_run_that_was_killed_is_told_with_what_it_holds_and_what_goes_on(place: RunFolder) -> None:
    journal = Journals(home.journals_of(place.folder)).journal(place.run.id, "answer", FIRST)
    for line in (b"one", b"two"):
        journal.add({"seq": 0}, line)
    with exclusive_lock(place.folder / place.run.place, "is at work"):
        found = place.look()
    assert (found.open_here, found.local, found.stopped) == (2, True, False)
    assert "`hybrid run local` is at work on it on this machine" in summary_line(found)
    assert "next" not in details(found)
    found = place.look()
    assert found.stopped
    assert "2 open records on this machine alone, kept when the run goes on here" in details(found)
    assert "; 2 open records; no worker is known;" in summary_line(found)
    assert "  workers     no worker is known: `hybrid run local` began it, or heartbeats are still on" in details(found)
    journal.close()
    assert place.look().open_here == 0


def test_the_total_of_a_search_and_of_what_comes_after_it_is_told_as_so_far() -> None:
    search = StageView("search", total=13, done=5, grows=True)
    tree = StageView("tree", why="waits for the stage 'search'", waits="search")
    found = RunStatus("branch-1", {"pipeline": "branch"}, (search, tree), models=(("", "ollama", "llama3.2"),))
    assert found.total is None
    assert "5 of 13 items so far done" in summary_line(found)
    assert "number of items" not in details(found)


def test_a_worker_that_generates_no_tokens_is_told_by_its_items(place: RunFolder) -> None:
    progress = {**BEAT["progress"], "tokens_per_second": 0.0, "prompt_tokens_per_second": 0.0}  # type: ignore[dict-item]
    place.beat(0, progress=progress)
    found = place.look()
    assert "12 items/min, as the workers reported" in details(found)
    assert "tokens" not in details(found) + summary_line(found)


def test_an_item_counts_once_however_many_shards_hold_it(place: RunFolder) -> None:
    place.shard(0, 1)
    place.shard(1, 2, attempt=SECOND)
    place.shard(0, 0, attempt=SECOND)
    assert place.sums("done", "shards", "received") == (3, 3, 0)


def test_a_record_of_no_item_is_counted_separately(place: RunFolder) -> None:
    place.shard(0, key="c" * 64)
    place.shard(1)
    found = place.look()
    assert (found.sum("done"), found.stages[0].strange) == (1, 1)
    assert "1 record of no item of the run" in details(found)


def test_an_answer_takes_precedence_over_a_failure_and_failures_are_counted_by_kind(place: RunFolder) -> None:
    place.shard(0, 1, 2, error="too-long")
    place.shard(3, error="engine")
    place.shard(3, attempt=SECOND, error="too-long")
    place.shard(0, attempt=SECOND)
    found = place.look()
    assert (found.sum("done"), found.sum("failed")) == (4, 3)
    assert found.stages[0].reasons == {"too-long": 2, "engine": 1}
    assert "3 of these failed: too-long 2, engine 1" in details(found)


def test_the_three_levels_of_safety_are_distinguished(place: RunFolder) -> None:
    place.shard(0, 1)
    place.shard(2, error="engine")
    place.fetch()
    place.shard(3)
    place.beat()
    place.look()
    found = place.look()
    assert (found.sum("done"), found.sum("received"), found.sum("copies")) == (4, 3, 2)
    told = details(found)
    assert "3 items received and verified here: 2 shards on this machine's disk" in told
    assert "1 item in the folder alone, verified from here" in told
    assert f"`hybrid fetch {found.id}` copies them to this machine" in told
    assert f"3 open records and 2 files on the machine of {FIRST} alone, as it reported" in told


def test_a_deleted_shard_counts_only_if_it_was_received(place: RunFolder) -> None:
    received, lost = place.shard(0, 1), ""
    place.fetch()
    lost = place.shard(2)
    assert place.sums("done", "received", "shards") == (3, 2, 2)
    for path in (received, lost):
        (place.folder / path).unlink()
    assert place.sums("done", "received", "shards") == (2, 2, 0)


def test_a_received_failure_does_not_make_the_later_answer_received(place: RunFolder) -> None:
    place.shard(0, error="engine")
    place.fetch()
    assert place.sums("done", "failed", "received") == (1, 1, 1)
    place.shard(0, attempt=SECOND)
    assert place.sums("done", "failed", "received") == (1, 0, 0)


def test_a_truncated_copy_is_not_received(place: RunFolder) -> None:
    path = place.shard(0, 1)
    assert place.sums("done", "received") == (2, 0)
    place.store.write(path, (place.folder / path).read_bytes()[:-20])
    found = place.look()
    assert (found.sum("done"), found.sum("received")) == (2, 0)
    assert any("does not match" in reason or "cut short" in reason for reason in found.refused)
    place.store.write(path, (place.folder / path).read_bytes())
    assert place.sums("done", "received") == (2, 2)


def test_a_file_that_is_still_arriving_counts_once_it_is_complete(place: RunFolder) -> None:
    path = place.folder / place.shard(0, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    found = place.look()
    assert found.sum("done") == 0
    assert "still on its way" in found.refused[0]
    assert "`hybrid doctor` explains them" in details(found)
    path.write_bytes(whole)
    assert place.sums("done") == (2,)
    assert place.look().refused == ()


def test_verified_shards_are_not_read_again(place: RunFolder) -> None:
    for number in range(6):
        place.shard(number)
    first, again = CountingDisk(place.folder), CountingDisk(place.folder)
    place.look(first)
    place.look(again)
    assert sum("/shard-" in path for path in first.paths) == 6
    assert [path for path in again.paths if "/shard-" in path or "inputs" in path] == []


def test_shards_of_another_model_do_not_count(place: RunFolder) -> None:
    place.shard(0, model=OTHER)
    place.shard(1)
    found = place.look()
    assert found.sum("done") == 1
    assert "another model" in found.refused[0]


def test_a_run_without_a_digest_is_bound_by_its_first_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    place = RunFolder(tmp_path, model_digest="")
    found = place.look()
    assert (found.total, found.stages[0].model) == (6, "")
    assert "not bound" in details(found)
    place.shard(0, 1, attempt=SECOND, model=OTHER)
    assert place.look().stages[0].model == OTHER
    place.shard(2, attempt=FIRST, model=MODEL)  # arrives late, and is first by name
    found = place.look()
    run = open_run(place.disk, place.run.id, (place.store,))
    assert found.stages[0].model == run.model_digest("answer") == MODEL
    assert (found.total, found.sum("done")) == (6, 1)


def test_items_ordered_to_be_done_again_are_not_done(place: RunFolder) -> None:
    path = place.shard(*range(6), error="engine")
    assert place.look().exit_code == 3
    place.receiver().retry({path})
    found = place.look()
    assert (found.sum("done"), found.sum("again"), found.exit_code) == (0, 6, 4)
    assert "6 more failed and are to be done again" in details(found)
    place.shard(0, 1, attempt=SECOND)
    place.shard(2, attempt=SECOND, error="engine")
    assert place.sums("done", "failed", "again") == (3, 1, 3)
    place.shard(2, 3, 4, 5, attempt=SECOND)
    assert (place.look().exit_code, place.sums("again")) == (0, (0,))


def test_a_cancel_is_shown_until_it_is_undone(place: RunFolder) -> None:
    receiver = place.receiver()
    receiver.cancel()
    found = place.look()
    assert (found.cancelled, found.over, found.exit_code) == (True, True, 4)
    assert "cancelled" in summary_line(found)
    assert (status(place).returncode, status(place, place.run.id).returncode) == (0, 4)
    receiver.resume()
    assert not place.look().cancelled
    assert status(place).returncode == 4


def test_without_the_pipeline_records_are_counted_and_the_total_is_unknown(
    place: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.shard(0, 1)
    place.shard(1, 2, attempt=SECOND, error="engine")
    place.beat()
    monkeypatch.setattr("hybrid.plugins.installed.entry_points", lambda group: ())
    found = place.look()
    assert (found.total, found.sum("done"), found.sum("failed"), found.exit_code) == (None, 3, 1, 4)
    told = details(found)
    assert "the number of items is not known: the pipeline 'seal-eval' is not installed here" in told
    assert "a worker reported 6" in told
    place.shard(3)
    assert place.sums("done") == (4,)
    monkeypatch.undo()
    monkeypatch.setenv("HYBRID_HOME", str(place.root / "home"))
    assert (place.look().total, place.look().sum("done")) == (6, 4)


def test_inputs_that_have_not_arrived_are_reported_missing(place: RunFolder) -> None:
    place.shard(0)
    (inputs,) = place.folder.glob("runs/*/inputs-*")
    inputs.rename(place.root / "later")
    found = place.look()
    assert (found.total, found.sum("done"), found.exit_code) == (None, 1, 4)
    assert "no such file, or not yet" in details(found)
    (place.root / "later").rename(inputs)
    assert place.look().total == 6


def test_tasks_that_the_pipeline_cannot_use_leave_the_total_unknown(place: RunFolder) -> None:
    how = {"models": {"": ModelSpec("scripted", "m", MODEL)}}
    made = place.pipeline.inputs()
    for tasks in ({"x": 1}, {"x": {"train": 3, "test": []}}, {"x": {"test": {}}}):
        inputs = type(made)(tasks, {}, {"n": len(str(tasks))})
        submit(place.disk, "seal-eval", settings.freeze(place.pipeline), inputs, **how)
    with closing(Index(None)) as index:
        found = list(read_statuses(place.disk, place.store, index, None))
    assert len(found) == 4
    assert [one.total for one in found if one.id != place.run.id] == [None, None, None]
    assert all(one.why for one in found if one.id != place.run.id)


def test_a_second_process_lists_the_same_items(place: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    place.shard(0, 1)
    before = place.look()
    started: list[list[str]] = []
    real = subprocess.Popen

    def watched(command: list[str], **how: Any) -> Any:
        started.append(command)
        return real(command, **how)

    monkeypatch.setattr(stage_view, "APART", 1)
    monkeypatch.setattr("hybrid.execution.item_keys.subprocess.Popen", watched)
    place.index.unlink()
    assert place.look() == before
    assert len(started) == 1
    place.index.unlink()
    monkeypatch.setattr(sys, "executable", shutil.which("false") or "false")  # it dies: this process lists them itself
    assert place.look() == before


class FakeClock:
    """This machine's clock, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_700_000_000.0
        monkeypatch.setattr(run_status.time, "time", lambda: self.now)


def test_the_age_of_a_heartbeat_is_measured_by_this_machines_clock(
    place: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(monkeypatch)

    def seen(after: float) -> tuple[str, float | None]:
        clock.now += after
        (attempt,) = place.look().attempts
        return attempt.state, attempt.silent_seconds

    place.beat(0, time="1970-01-01T00:00:00Z")
    assert seen(0) == ("new", None)
    assert seen(60) == ("working", 60.0)
    place.beat(1, time="2999-01-01T00:00:00Z")
    assert seen(300) == ("working", 0.0)
    assert seen(20 * 60) == ("silent", 1200.0)
    assert seen(40 * 60) == ("gone", 3600.0)
    place.beat(2)
    assert seen(1) == ("working", 0.0)
    place.beat(3, state="ended")
    assert seen(1) == ("ended", 0.0)


def test_the_text_says_what_is_unknown_of_a_worker(place: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    place.beat(0)
    told = details(place.look())
    assert "its heartbeat is seen for the first time, so its age is not known" in told
    assert "(written at 2026-01-01T10:00:00Z by its own clock)" in told
    clock.now += 180
    told = details(place.look())
    assert (
        f"{FIRST}: running, last heartbeat 3 min ago; Tesla T4: 12.0 of 15.0 GiB, 97 % busy, 40.0 GB of disk free"
        in told
    )
    assert "as it reported 3 min ago" in told
    assert "12 items/min, 900 prompt tokens/s, 120 new tokens/s, as the workers reported" in told
    assert "about 30 s to go at this speed" in told  # six items are left, one takes five seconds
    clock.now += 3600
    told = details(place.look())
    assert "no heartbeat for 1 h 3 min by this machine's clock, probably gone" in told
    place.beat(1, device="cpu")
    assert "; on the cpu, 40.0 GB of disk free" in details(place.look()), "the GPU is not what computes"
    assert "to go" not in told


def test_files_left_on_the_machine_of_an_ended_worker_are_shown(place: RunFolder) -> None:
    place.beat(0)
    place.disk.write(
        *pack_note(place.run.id, "beat", FIRST, 1, {"state": "ended", "spool": {"waiting": 3, "unreceipted": 3}})
    )
    told = details(place.look())
    assert "none is running; 1 has ended" in told
    assert f"3 files on the machine of {FIRST} alone, as it reported" in told


def test_the_time_without_a_change_is_measured_by_this_machines_clock(
    place: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(monkeypatch)
    place.shard(0)
    assert place.look().unchanged is None
    assert "unchanged" not in summary_line(place.look())
    clock.now += 3 * 3600
    assert "unchanged for 3 h" in summary_line(place.look())
    assert "unchanged for 3 h" in details(place.look())
    for change in (lambda: place.shard(1), place.beat, lambda: place.receiver().cancel()):
        change()
        assert place.look().unchanged == 0.0
        clock.now += 60
        assert place.look().unchanged == 60.0


def test_runs_of_one_pipeline_show_the_settings_in_which_they_differ(place: RunFolder) -> None:
    how = {"models": {"": ModelSpec("scripted", "made-up", MODEL)}}
    for changed in ({"seed": 1}, {"seed": 2, "tasks": ("00000001",)}):
        other = replace(place.pipeline, **changed)
        submit(place.disk, "seal-eval", settings.freeze(other), other.inputs(), **how)
    inputs = place.pipeline.inputs()
    tasks = {name: inputs.tasks[name] for name in list(inputs.tasks)[:2]}
    again = submit(place.disk, "seal-eval", settings.freeze(place.pipeline), replace(inputs, tasks=tasks), **how)
    told = status(place).stdout.splitlines()
    assert len(told) == 4
    assert all("; made-up on scripted, " in one for one in told)
    assert sum("seed=1, tasks=" in one for one in told) == 1
    assert sum("seed=2, tasks=00000001" in one for one in told) == 1
    assert sum(f"seed=0, tasks=, data {again.spec['inputs'][:8]}" in one for one in told) == 1
    assert not any("views=" in one for one in told), "that is the same in all"


def test_settings_from_a_run_file_are_escaped_and_bounded(place: RunFolder) -> None:
    odd = {f"s\x1b{n}": "\x1b[2J" * 100 for n in range(50)}
    how = {"models": {"": ModelSpec("scripted", "m", MODEL)}}
    submit(place.disk, "seal-eval", odd, place.pipeline.inputs(), **how)
    told = status(place).stdout
    assert "\x1b" not in told
    assert max(map(len, told.splitlines())) <= 400


def test_the_speeds_of_several_workers_are_added(place: RunFolder) -> None:
    place.shard(0, 1)
    place.beat(0, attempt=FIRST)
    place.beat(0, attempt=SECOND)
    found = place.look()
    assert (found.tokens_per_second, found.eta_seconds) == (241.0, 10.0)
    assert "2 workers running, 24 items/min, 241 tokens/s, about 10 s to go" in summary_line(found)


def test_problems_of_a_worker_are_shown(place: RunFolder) -> None:
    place.beat(0, troubles={"the upload": "the mount did not answer for 120 s"})
    assert "problem with the upload: the mount did not answer for 120 s" in details(place.look())


HOSTILE: list[Json] = [
    None,
    [],
    {},
    "\x1b[31mred\x07\u202e",
    -1,
    1e300,
    10**18,
    True,
    [[[]]],
    {"\x1b]0;title\x07": "\x1b[2J"},
    {"name": "\x1b[2J" * 1000, "memory_used": "x", "memory_total": -1, "busy": [1]},
    {"waiting": 1e300, "unreceipted": None, "fresh": 0, "seconds": 0, "stage": {"a": 1}, "total": "six"},
    {f"trouble {n}": "x" * 1000 for n in range(100)},
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_control_characters_in_a_heartbeat_do_not_reach_the_terminal(place: RunFolder, value: Json) -> None:
    place.shard(0, error="\x1b[2J" + "k" * 1000)
    (place.folder / place.run.place / "acks").mkdir()
    place.beat(0, **dict.fromkeys(BEAT, value))
    for _ in range(2):
        found = place.look()
        told = details(found) + summary_line(found) + json.dumps(found.to_json())
        assert "\x1b" not in told
        assert "\u202e" not in told
        assert len(told) < 40_000
        json.loads(json.dumps(found.to_json()), parse_constant=pytest.fail)


def test_a_run_that_cannot_be_read_does_not_hide_the_others(place: RunFolder) -> None:
    other = place.folder / "runs" / "seal-eval-000000000000"
    other.mkdir()
    (other / "run.json").write_text("{}")
    place.shard(*range(6))
    with closing(Index(None)) as index:
        bad, good = read_statuses(place.disk, place.store, index, None)
        assert (bad.id, bad.exit_code, good.exit_code) == ("seal-eval-000000000000", BadData.exit_code, 0)
        assert "not a run of hybrid" in summary_line(bad)
        assert json.loads(json.dumps(bad.to_json()))["error"]["message"].endswith("not a run of hybrid")
        with pytest.raises(UsageError):
            list(read_statuses(place.disk, place.store, index, "nothing"))


class Failing(Disk):
    """A folder in which paths for which `broken` holds cannot be read; the failures are counted."""

    def __init__(self, root: Path, broken: Callable[[str], bool]) -> None:
        super().__init__(root)
        self.broken, self.failures = broken, 0

    def entries(self, place: str) -> list[Entry]:
        self._check(place)
        return super().entries(place)

    def read(self, path: str, limit: int) -> bytes:
        self._check(path)
        return super().read(path, limit)

    def _check(self, path: str) -> None:
        if self.broken(path):
            self.failures += 1
            raise Temporary(f"{path}: the mount did not answer", hint="is it there?")


def test_a_folder_that_keeps_failing_is_given_up_after_three_failures(place: RunFolder) -> None:
    for number in range(6):
        place.shard(number)
    failing = Failing(place.folder, lambda path: "/shard-" in path)
    with pytest.raises(Temporary, match=r"keeps failing: .*the mount did not answer"):
        place.look(failing)
    assert failing.failures == 3
    assert place.sums("done") == (6,)


def test_a_file_that_fails_is_reported_and_the_others_count(place: RunFolder) -> None:
    first, _ = place.shard(0), place.shard(1)
    found = place.look(Failing(place.folder, lambda path: path == first))
    assert found.sum("done") == 1
    assert "the mount did not answer" in found.refused[0]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min"), (3599, "59 min"), (7500, "2 h 5 min"), (90_000, "1 d 1 h")],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# The real command.


def command(place: RunFolder, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hybrid", "status", "--folder", str(place.folder), *arguments]


def status(place: RunFolder, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(place, *arguments), capture_output=True, text=True, timeout=240, check=False)


def test_the_exit_code_is_the_status_of_the_runs(place: RunFolder) -> None:
    assert status(place).returncode == 4
    path = place.shard(*range(6), error="engine")
    failed = status(place, place.run.id)
    assert failed.returncode == 3
    assert "engine 6" in failed.stdout
    place.shard(*range(6), attempt=SECOND)
    assert status(place, place.run.id[:12]).returncode == 0
    assert status(place, "nothing").returncode == 2
    (place.folder / path).write_bytes(b"")
    assert status(place).returncode == 0
    (place.folder / place.run.place / "run.json").write_text("{}")
    assert status(place).returncode == 6
    assert status(place, place.run.id).returncode == 6


def test_an_unmounted_folder_and_a_missing_one_have_the_same_exit_code(place: RunFolder) -> None:
    nowhere = RunFolder.__new__(RunFolder)
    nowhere.folder = place.root / "never"
    assert status(nowhere).returncode == 5
    assert status(place).returncode == 4
    place.folder.rename(place.root / "gone")
    away = status(place)
    assert away.returncode == 5
    assert "is it mounted" in away.stderr
    place.folder.mkdir()  # a plain folder behind a dead mount
    assert status(place).returncode == 5
    assert list(place.folder.iterdir()) == []


def test_a_folder_of_another_program_is_refused(place: RunFolder) -> None:
    (place.folder / "hybrid.json").write_text('{"format":"something/else"}')
    assert status(place).returncode == 6


def test_json_is_one_object_per_run_and_line(place: RunFolder) -> None:
    place.shard(0)
    place.beat()
    done = status(place, "--json")
    (only,) = done.stdout.splitlines()
    said = json.loads(only)
    assert (said["run"], said["total"], said["done"], said["received"]) == (place.run.id, 6, 1, 0)
    assert (said["finished"], said["cancelled"], said["exit_code"]) == (False, False, done.returncode)
    assert said["attempts"][0]["attempt"] == FIRST
    assert said["attempts"][0]["silent_seconds"] is None
    assert said["stages"][0]["name"] == "answer"


def test_an_empty_folder_is_reported_as_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = RunFolder.__new__(RunFolder)
    place.folder = tmp_path / "folder"
    join_folder(place.folder, make=True)
    done = status(place)
    assert (done.returncode, done.stdout) == (0, "there is no run in the folder yet, or all were forgotten (--all)\n")
    assert status(place, "--json").stdout == ""


def test_watching_ends_when_all_is_done(place: RunFolder) -> None:
    place.shard(0)
    watch = command(place, "--json", "--watch", "1s")
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["done"] == 1
        place.shard(*range(1, 6))
        said = [json.loads(text) for text in process.stdout]
        assert process.wait(240) == 0
    assert said[-1]["done"] == 6
    assert status(place, "--watch", place.run.id).returncode == 0
    assert status(place, "--watch", "soon", place.run.id).returncode == 2


def test_watching_waits_for_an_unavailable_folder_and_ctrl_c_ends_it(place: RunFolder) -> None:
    assert status(place).returncode == 4
    place.folder.rename(place.root / "gone")
    watch = command(place, "--watch", "1s")
    how: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(watch, **how, preexec_fn=default_interrupt) as process:  # noqa: PLW1509
        assert process.stderr
        assert process.stdout
        assert process.stderr.readline().startswith("waiting: ")
        (place.root / "gone").rename(place.folder)
        assert "0 of 6 items done" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(240) == 4


def default_interrupt() -> None:
    """Handle SIGINT, which a shell sets to be ignored in the processes that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_concurrent_calls_show_the_same(place: RunFolder) -> None:
    for number in range(6):
        place.shard(number, attempt=(FIRST, SECOND)[number % 2])
    how: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command(place, "--json"), **how) for _ in range(6)]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * 6
    told = [{**json.loads(out), "unchanged_seconds": None} for out, _ in said]  # the first of them cannot know that
    assert told == told[:1] * 6
    assert [err for _, err in said] == [""] * 6


def test_a_damaged_index_is_rebuilt(place: RunFolder) -> None:
    place.shard(0, 1)
    first = status(place, "--json")
    assert (first.returncode, first.stderr) == (4, "")
    before, path = first.stdout, home.index_of(place.folder)
    size = path.stat().st_size
    for damage in (b"", b"x" * size, path.read_bytes()[: size // 2]):
        path.write_bytes(damage)
        done = status(place, "--json")
        assert (done.stdout, done.stderr, done.returncode) == (before, "", 4)


def test_the_text_of_a_complete_run(place: RunFolder) -> None:
    place.shard(*range(6))
    place.fetch()
    done = status(place, place.run.id)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        place.run.id,
        "  what        pipeline seal-eval, model made-up on scripted; its digest is aaaaaaaaaaaa",
        "  done        6 of 6 items (100 %)",
        "  safe        6 items received and verified here: 1 shard on this machine's disk",
        "              0 items in the folder alone, verified from here",
        "  workers     no worker took part",
    ]
    told = "6 of 6 items done; all of them received here; made-up on scripted"
    assert status(place).stdout == f"{place.run.id}  {told}\n"
