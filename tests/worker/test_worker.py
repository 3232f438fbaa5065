"""`run remote`, `worker` and `fetch` as real processes: killed, stopped, frozen, without room, without a folder.

Model calls are counted by item. More random kills: HYBRID_TEST_KILLS=1000.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hybrid.canonical import encode
from hybrid.folder.runs import join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.plugins.installed import load
from hybrid.protocols import Inputs
from hybrid.settings import build, freeze
from tests.support.killed_at import killed_at
from tests.support.processes import children
from tests.support.real_machines import ITEMS, SCRIPT, Machine, Machines
from tests.support.small_disks import mounted

KILLS = int(os.environ.get("HYBRID_TEST_KILLS", "10"))
PATIENCE = 240.0
"""Seconds to wait for what a worker does, which other tests slow down."""


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def until(true: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> str:
    """What it said; it has to end by itself."""
    _, stderr = process.communicate(timeout=PATIENCE)
    return stderr


def test_a_run_goes_from_the_laptop_to_a_gpu_machine_and_comes_back_graded(machines: Machines) -> None:
    run = machines.submit()
    assert machines.submit() == run
    nothing = machines.fetch()
    assert nothing.returncode == 4, nothing.stderr
    gpu = machines.side("gpu")
    done = gpu.run(*gpu.worker())
    assert done.returncode == 0, done.stderr
    assert len(gpu.calls()) == len(set(gpu.calls())) == ITEMS
    assert gpu.spooled(), "freed before anybody had it"
    assert f"{run}: loading the model {SCRIPT}\n" in done.stderr
    assert re.search(rf"(?m)^{run}: the model {SCRIPT} is loaded, in \d+ s$", done.stderr), done.stderr
    assert "1 shard in the folder without a receipt: " in done.stderr
    logged = machines.laptop.run("logs", run).stdout.splitlines()
    assert logged
    assert all(re.match(r"\S+ \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S", line) for line in logged), logged
    fetched = machines.fetch("--json")
    assert fetched.returncode == 0, fetched.stderr
    told = json.loads(fetched.stdout)
    assert (told["items"], told["missing"], told["new_records"]) == (ITEMS, 0, ITEMS)
    assert set(machines.texts()) == set(gpu.calls())
    again = machines.fetch("--json")
    assert json.loads(again.stdout)["new_shards"] == 0
    assert json.loads(again.stdout)["sha256"] == told["sha256"]
    once_more = gpu.run(*gpu.worker())
    assert once_more.returncode == 0
    assert not gpu.spooled(), "a receipt came and the spool was not freed"
    assert len(gpu.calls()) == ITEMS, "a finished run was begun again"
    graded = machines.laptop.run("grade", run, "--json")
    assert graded.returncode == 0, graded.stderr
    assert json.loads(graded.stdout)["summary"]["score"] == 1.0


def test_what_was_received_outlives_the_folder(machines: Machines) -> None:
    machines.submit()
    gpu = machines.side("gpu")
    assert gpu.run(*gpu.worker()).returncode == 0
    assert machines.fetch().returncode == 0
    for path in machines.folder.glob("runs/*/answer/*/*/shard-*"):
        path.unlink()
    again = machines.fetch()
    assert again.returncode == 0, again.stderr
    assert set(machines.texts()) == set(gpu.calls())


@pytest.mark.slow
def test_waiting_follows_a_run_to_its_grade(machines: Machines) -> None:
    run = machines.submit()
    data = [f"--set={kind}={machines.root / kind}.json" for kind in ("challenges", "solutions")]
    how = ["--backend=scripted", f"--model={SCRIPT}", *data, "--wait", "--every=1s", f"--timeout={PATIENCE:.0f}s"]
    told = machines.root / "told"
    follower = machines.laptop.start("run", "remote", "seal-eval", *how, said=told)
    gpu = machines.side("gpu")
    gpu.holds_after(8)
    worker = gpu.start(*gpu.worker(delay_ms=120, shard_seconds=0.1))
    until(lambda: "so far" in told.read_text(), "a score so far")
    gpu.goes_on()
    said = ended(worker)
    assert worker.returncode == 0, said
    stdout, _ = follower.communicate(timeout=PATIENCE)
    assert follower.returncode == 0, told.read_text()
    assert stdout.strip().endswith(f"{run}/outputs.json")
    assert "score 1.0000 over 6 of 6" in told.read_text()


@pytest.mark.slow
def test_a_worker_killed_again_and_again_redoes_no_shard(machines: Machines) -> None:
    machines.submit()
    gpu, chance, kills = machines.side("gpu"), random.Random(20261121), 0
    while kills < KILLS:
        safe, seen = kept(gpu), len(gpu.calls())
        process = gpu.start(*gpu.worker(delay_ms=40, shard_seconds=0.2))
        goal = seen + chance.randrange(1, 6)
        until(lambda p=process, g=goal: p.poll() is not None or len(gpu.calls()) >= g, "calls of the model")  # type: ignore[misc]
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.communicate()
        fresh = gpu.calls()[seen:]
        assert not safe & set(fresh), "an item of a finished shard was asked again"
        if process.returncode == 0:
            break
        kills += 1
    last = gpu.run(*gpu.worker())
    assert last.returncode == 0, last.stderr
    assert machines.fetch().returncode == 0
    redone = len(gpu.calls()) - ITEMS
    print(f"{kills} kills, {redone} items redone, {redone / max(1, kills):.2f} a kill")
    assert set(machines.texts()) == set(gpu.calls())
    assert len(set(gpu.calls())) == ITEMS


def kept(side: Machine) -> set[str]:
    """The keys in the shards that verify, in the spool and in the folder."""
    from hybrid.errors import HybridError
    from hybrid.folder.shards import verify_shard

    keys: set[str] = set()
    for path in [*side.spooled(), *side.folder.glob("runs/*/answer/*/*/shard-*")]:
        with suppress(HybridError, FileNotFoundError):
            keys |= {str(record["key"]) for record in verify_shard(str(path), path.read_bytes()).records}
    return keys


POINTS = {
    "an answer is not yet kept": ("hybrid.execution.stage_work", "StageWork.answered", "before"),
    "a shard is to be spooled": ("hybrid.folder.spool", "Spool.write", "before"),
    "a shard is spooled": ("hybrid.folder.spool", "Spool.write", "after"),
    "half a shard is spooled": ("hybrid.machine.files", "_fill", "half"),
    "a shard is to be carried": ("hybrid.folder.spool", "Spool._carry", "before"),
    "a shard is carried": ("hybrid.folder.spool", "Spool._carry", "after"),
    "a beat is to be written": ("hybrid.worker.courier", "Courier.beat", "before"),
    "a beat is written": ("hybrid.worker.courier", "Courier.beat", "after"),
    "a receipt is to be obeyed": ("hybrid.folder.spool", "Spool.release", "before"),
    "the spool is freed": ("hybrid.folder.spool", "Spool._free", "after"),
    "leaving": ("hybrid.worker.courier", "Courier.finish", "before"),
}
"""Where -> module, function, and whether the process dies before it, after it, or with half of it done."""


def fetched_until_death(machines: Machines, process: subprocess.Popen[str], seconds: float = PATIENCE) -> None:
    """The laptop fetches about once a second, so that there are receipts, until the worker is dead."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        assert time.monotonic() < deadline, f"the worker lives after {seconds:g} s"
        machines.fetch()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
    process.communicate()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.slow
def test_a_kill_at_a_named_point_costs_at_most_the_open_shard(machines: Machines, point: str) -> None:
    machines.submit()
    gpu = machines.side("gpu")
    deaths = 0
    for at in (1, 2, 5):
        safe, seen = kept(gpu), len(gpu.calls())
        arguments = gpu.worker("--linger=2m", delay_ms=10, shard_seconds=0.2)  # until there is a receipt
        process = gpu.start(*arguments, prefix=killed_at(*POINTS[point], at))
        fetched_until_death(machines, process)
        deaths += process.returncode == -signal.SIGKILL
        assert not safe & set(gpu.calls()[seen:]), "an item of a finished shard was asked again"
    assert deaths
    last = gpu.run(*gpu.worker())
    assert last.returncode == 0, last.stderr
    assert machines.fetch().returncode == 0
    assert set(machines.texts()) == set(gpu.calls())
    assert len(set(gpu.calls())) == ITEMS


@pytest.mark.slow
def test_a_zombie_harms_nobody(machines: Machines) -> None:
    """Stopped for longer than others wait, replaced by a new machine, and woken up again."""
    machines.submit()
    old, new = machines.side("old"), machines.side("new")
    zombie = old.start(*old.worker("--beat=1", delay_ms=100, shard_seconds=0.5))
    until(lambda: len(old.calls()) >= 8, "the first machine works")
    zombie.send_signal(signal.SIGSTOP)
    done = new.run(*new.worker("--beat=1", "--max-idle=60s"))
    assert done.returncode == 0, done.stderr
    assert machines.fetch().returncode == 0
    before = machines.texts()
    zombie.send_signal(signal.SIGCONT)
    said = ended(zombie)
    assert zombie.returncode == 0, said
    assert machines.fetch().returncode == 0
    assert machines.texts() == before
    assert len(before) == ITEMS


@pytest.mark.slow
def test_two_machines_share_a_run(machines: Machines) -> None:
    machines.submit()
    sides = [machines.side("one"), machines.side("two")]
    for side in sides:
        side.holds_after(ITEMS // 6)
    workers = [side.start(*side.worker("--beat=4", delay_ms=400, shard_seconds=0.5)) for side in sides]
    until(lambda: all(len(side.calls()) > ITEMS // 6 for side in sides), "both have their share")
    for side in sides:
        side.goes_on()
    for process in workers:
        said = ended(process)
        assert process.returncode == 0, said
    assert machines.fetch().returncode == 0
    calls = [len(side.calls()) for side in sides]
    print(f"{calls} calls for {ITEMS} items")
    assert set(machines.texts()) == {key for side in sides for key in side.calls()}
    assert sum(calls) < 1.5 * ITEMS


@pytest.mark.parametrize("polite", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.slow
def test_a_polite_stop_brings_everything_into_the_folder(machines: Machines, polite: signal.Signals) -> None:
    machines.submit()
    gpu = machines.side("gpu")
    gpu.holds_after(6)
    process = gpu.start(*gpu.worker())
    until(lambda: len(gpu.calls()) == 7, "the model works")
    process.send_signal(polite)
    said = ended(process)
    assert process.returncode == 4, said
    machines.fetch()
    assert sum(text is not None for text in machines.texts().values()) == 6, said
    gpu.goes_on()
    assert gpu.run(*gpu.worker()).returncode == 0
    assert len(gpu.calls()) == ITEMS + 1


IMPATIENT = """
import os, signal, sys
from hybrid.execution import stage_session
from hybrid.folder.shards import ShardWriter
answered, close, seen = stage_session.StageSession.answered, ShardWriter.close, []

def stopped_at_the_sixth(session, completion):
    seen.append(completion)
    if len(seen) == 6:
        os.rename(sys.argv[1], sys.argv[1] + "-away") if sys.argv[2] == "away" else None
        signal.raise_signal(signal.SIGTERM)
    return answered(session, completion)

def stopped_again(writer):
    signal.raise_signal(signal.SIGTERM)
    close(writer)

stage_session.StageSession.answered, ShardWriter.close = stopped_at_the_sixth, stopped_again
from hybrid.cli import main
main(sys.argv[3:])
"""


@pytest.mark.slow
def test_a_second_signal_while_the_open_shard_is_closed_cuts_nothing(machines: Machines, tmp_path: Path) -> None:
    machines.submit()
    gpu = machines.side("gpu")
    prefix = [sys.executable, "-c", IMPATIENT, str(machines.folder)]
    process = gpu.start(*gpu.worker(), prefix=[*prefix, "there"])
    said = ended(process)
    assert process.returncode == 4, said
    assert "leaving at once" not in said
    machines.fetch()
    assert sum(text is not None for text in machines.texts().values()) == 5, said
    told = tmp_path / "told"
    process = gpu.start(*gpu.worker(), prefix=[*prefix, "away"], said=told)
    until(lambda: "leaving: waits until" in told.read_text(), "it waits for the folder")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 5, told.read_text()
    assert "on this machine's disk only" in told.read_text()


STOPPED_AT_THE_END = """
import signal, sys
from hybrid.worker.loader import Loader
close = Loader.close

def stopped(loader):
    signal.raise_signal(signal.SIGTERM)
    close(loader)

Loader.close = stopped
from hybrid.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_signal_while_the_model_is_unloaded_at_the_end_spares_the_wait_for_the_laptop(machines: Machines) -> None:
    machines.submit()
    gpu = machines.side("gpu")
    said = ended(gpu.start(*gpu.worker("--linger=1h"), prefix=[sys.executable, "-c", STOPPED_AT_THE_END]))
    assert "leaving at once" not in said
    machines.fetch()
    assert len(machines.texts()) == ITEMS, said


@pytest.mark.slow
def test_a_worker_leaves_in_time(machines: Machines) -> None:
    machines.submit()
    gpu = machines.side("gpu")
    for seconds in (4, 30, 90):  # the start counts: a busy machine may have no time left for a call
        done = gpu.run(*gpu.worker(f"--until={seconds}s", delay_ms=3000 * seconds // ITEMS))
        assert done.returncode == 4, done.stderr
        assert "the time is up" in done.stderr
        if gpu.calls():
            break
    assert 0 < len(gpu.calls()) < ITEMS
    machines.fetch()
    assert sum(text is not None for text in machines.texts().values()) == len(gpu.calls())


def test_a_cancelled_run_is_left_alone_until_it_is_submitted_again(machines: Machines) -> None:
    run = machines.submit()
    assert machines.laptop.run("cancel", run).returncode == 0
    gpu = machines.side("gpu")
    left = gpu.run(*gpu.worker())
    assert left.returncode == 4, left.stderr
    by = r"cancelled by order 0 of [a-z0-9-]+; `hybrid run remote` with the same settings takes that back\n"
    assert re.search(rf"error: {run}: {by}", left.stderr), left.stderr
    assert not gpu.calls()
    assert machines.submit() == run
    assert gpu.run(*gpu.worker()).returncode == 0
    assert len(gpu.calls()) == ITEMS


@pytest.mark.slow
def test_only_failed_items_are_done_again_and_only_when_asked(machines: Machines) -> None:
    asked_for = machines.prompts()
    machines.script({"answers": dict.fromkeys(asked_for[::2], "1")})
    run = machines.submit()
    gpu = machines.side("gpu")
    done = gpu.run(*gpu.worker())
    assert done.returncode == 3, done.stderr
    fetched = machines.fetch()
    assert fetched.returncode == 3, fetched.stderr
    failed = {key for key, text in machines.texts().items() if text is None}
    assert 0 < len(failed) < ITEMS
    assert gpu.run(*gpu.worker()).returncode == 3
    assert len(gpu.calls()) == ITEMS
    asked = machines.laptop.run("retry", run)
    assert asked.returncode == 0, asked.stderr
    assert f"{len(failed)} failed items" in asked.stderr
    assert gpu.run(*gpu.worker()).returncode == 3
    assert sorted(gpu.calls()[ITEMS:]) == sorted(failed)


@pytest.mark.slow
def test_other_files_of_the_model_are_not_mixed_in(machines: Machines) -> None:
    machines.submit()
    gpu = machines.side("gpu")
    gpu.holds_after(1)
    process = gpu.start(*gpu.worker())
    until(lambda: len(gpu.calls()) > 1, "the model works")
    process.send_signal(signal.SIGTERM)
    said = ended(process)
    assert process.returncode == 4, said
    machines.script({"answers": {}, "default": "2"})
    other = gpu.run(*gpu.worker())
    assert other.returncode == 7, other.stderr
    assert "was begun with the model" in other.stderr


def test_logs_arrive_and_hold_no_secret(machines: Machines) -> None:
    run = machines.submit()
    gpu = machines.side("gpu")
    gpu.environment.update(HF_TOKEN="hf_abcdefghijklmnopqrstuvwxyz", MY_SECRET="swordfish-swordfish")  # noqa: S106
    machines.script({"answers": {}})  # every item fails, with words of its own
    gpu.run(*gpu.worker("--model=swordfish-swordfish=/nowhere"))
    logs = machines.laptop.run("logs", run)
    assert logs.returncode == 0, logs.stderr
    assert run in logs.stdout
    for path in machines.folder.rglob("*"):
        if path.is_file():
            assert b"swordfish" not in path.read_bytes()
            assert b"hf_abcdef" not in path.read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", "256k") as place:
        yield place


def fill(path: Path) -> None:
    """Append to a file until its disk is full."""
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def started_on_a_full_disk(gpu: Machine, *arguments: str) -> tuple[subprocess.Popen[str], Callable[[], bool]]:
    """A worker, and whether it has told that a disk is full."""
    log = gpu.root / "said"
    process = gpu.start(*arguments, said=log)
    return process, lambda: "no room left" in log.read_text()


def check_recovered(machines: Machines, gpu: Machine, process: subprocess.Popen[str]) -> None:
    """Wait for a worker whose disk has room again: no answer is lost or computed twice."""
    ended(process)
    assert process.returncode == 0, (gpu.root / "said").read_text()
    assert machines.fetch().returncode == 0
    assert sorted(machines.texts()) == sorted(gpu.calls())


@pytest.mark.slow
def test_a_full_spool_disk_stops_nothing_for_good_and_loses_nothing(machines: Machines, small_disk: Path) -> None:
    machines.submit()
    gpu = machines.side("gpu")
    gpu.environment["HYBRID_HOME"] = str(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    fill(ballast)
    process, told = started_on_a_full_disk(gpu, *gpu.worker(delay_ms=5, shard_seconds=0.2))
    until(told, "it tells of the full disk")
    assert process.poll() is None
    ballast.unlink()
    check_recovered(machines, gpu, process)


@pytest.mark.slow
def test_a_full_folder_is_waited_for_and_told(tmp_path: Path, small_disk: Path) -> None:
    machines = Machines(tmp_path, small_disk / "folder")
    machines.submit()
    gpu = machines.side("gpu")
    ballast = small_disk / "ballast"
    gpu.holds_after(4)
    process, told = started_on_a_full_disk(gpu, *gpu.worker(delay_ms=100, shard_seconds=0.2))
    until(lambda: len(gpu.calls()) > 4, "the model works")
    fill(ballast)
    gpu.goes_on()
    until(lambda: len(gpu.calls()) == ITEMS, "the model goes on while the folder is full")
    until(told, "it tells of the full folder")
    ballast.unlink()
    check_recovered(machines, gpu, process)


@pytest.mark.slow
def test_a_folder_that_vanishes_is_waited_for_and_a_plain_one_in_its_place_stays_empty(machines: Machines) -> None:
    """A mount that dies leaves an ordinary folder behind, which would take everything and keep it from everybody."""
    machines.submit()
    gpu, away, log = machines.side("gpu"), machines.root / "away", machines.root / "said"
    gpu.holds_after(4)
    process = gpu.start(*gpu.worker(delay_ms=100, shard_seconds=0.2), said=log)
    until(lambda: len(gpu.calls()) > 4, "the model works")
    machines.folder.rename(away)
    machines.folder.mkdir()
    gpu.goes_on()
    until(lambda: len(kept(gpu)) == ITEMS, "the model goes on without the folder")
    until(lambda: "leaving: waits until" in log.read_text(), "its run is done, and it waits for the folder")
    for _ in range(3):  # an impatient supervisor: the exit code says all the same what it has to do
        process.send_signal(signal.SIGTERM)
    ended(process)
    assert process.returncode == 5, log.read_text()
    assert "on this machine's disk only" in log.read_text()
    strays = [path for path in machines.folder.rglob("*") if path.is_file()]
    assert len(strays) <= 1, "only what was being written may be in the plain folder"
    shutil.rmtree(machines.folder)
    away.rename(machines.folder)
    assert gpu.run(*gpu.worker()).returncode == 0
    assert machines.fetch().returncode == 0
    assert sorted(machines.texts()) == sorted(gpu.calls())
    assert len(gpu.calls()) == ITEMS


@pytest.mark.slow
def test_a_mount_that_hangs_stops_neither_the_model_nor_the_worker(machines: Machines) -> None:
    """The child that talks to the mount stands still, as one does in a dead FUSE call."""
    machines.submit()
    gpu = machines.side("gpu")
    gpu.holds_after(4)
    process = gpu.start(*gpu.worker("--mount-limit=2", delay_ms=100, shard_seconds=0.2))
    until(lambda: len(gpu.calls()) > 4, "the model works")
    until(lambda: is_stopped(process.pid), "the mount hangs")
    gpu.goes_on()
    until(lambda: len(gpu.calls()) == ITEMS, "the model goes on while the mount hangs")
    said = ended(process)
    assert process.returncode == 0, said
    assert "did not answer" in said
    assert machines.fetch().returncode == 0
    assert sorted(machines.texts()) == sorted(gpu.calls())


def is_stopped(pid: int) -> bool:
    """Whether the child that talks to the mount was there and stands still now. One that was slow is replaced."""
    for child in children(pid, b"hybrid.folder.child"):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGSTOP)
            return True
    return False


@pytest.mark.slow
def test_a_read_only_folder_is_told_and_nothing_is_computed(tmp_path: Path, small_disk: Path) -> None:
    machines = Machines(tmp_path, small_disk / "folder")
    machines.submit()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    gpu = machines.side("gpu")
    done = gpu.run(*gpu.worker())
    assert done.returncode == 7, done.stderr
    assert "no permission" in done.stderr
    assert not gpu.calls()


def test_a_run_of_somebody_else_opens_no_file_of_this_machine(machines: Machines) -> None:
    machines.init()
    inputs = Inputs({"t": {}}, {"t/0": 1}, {})
    frozen = freeze(build(load("pipelines", "seal-eval"), ["limit=1"]))
    for model in ("/etc/passwd", "../script.json", "script.json", "~/x", "org/../../etc"):
        spec = {"models": {"": ModelSpec("scripted", model, "")}}
        submit(join_folder(machines.folder, make=False), "seal-eval", frozen, inputs, **spec)  # type: ignore[arg-type]
    submit(join_folder(machines.folder, make=False), "os", {}, inputs, models={"": ModelSpec("scripted", "x", "")})
    done = machines.side("gpu").run("worker", "--once", "--side=gpu", "--linger=0")
    assert done.returncode != 0
    assert "root:" not in done.stderr
    assert len(re.findall(r"(?m)^(?:seal-eval|os)-[0-9a-f]{12}: ", done.stderr)) == 6, done.stderr


def test_the_laptop_reads_why_a_worker_refused_a_run(machines: Machines) -> None:
    run = machines.submit()
    done = machines.side("gpu").run("worker", "--once", "--side=gpu", "--linger=0")
    assert done.returncode == 7, done.stderr
    logs = machines.laptop.run("logs", run)
    assert (logs.returncode, logs.stdout.count("\n")) == (0, 1), logs.stdout + logs.stderr
    assert re.search(
        r"refused here: seal-eval-\w+ names the model '\S+', which this machine does not know", logs.stdout
    )


def test_a_folder_that_is_none_is_told(machines: Machines) -> None:
    machines.folder.mkdir()
    gpu = machines.side("gpu")
    done = gpu.run(*gpu.worker())
    assert done.returncode == 5, done.stderr
    assert "hybrid.json" in done.stderr
    remote = machines.laptop.run("run", "remote", "seal-eval", "--limit=1")
    assert remote.returncode == 5, remote.stderr
    assert "hybrid init" not in remote.stderr  # it may be what a dead mount left behind
    assert not list(machines.folder.iterdir())


def test_the_joined_folder_is_remembered(machines: Machines) -> None:
    machines.init()
    del machines.laptop.environment["HYBRID_FOLDER"]
    listed = machines.laptop.run("fetch", "nothing")
    assert str(machines.folder) in listed.stderr
    assert encode({"folder": str(machines.folder)}) == (machines.laptop.home / "joined.json").read_bytes()
