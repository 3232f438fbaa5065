"""The folder over real sync programs, rclone and Syncthing: interrupted transfers and conflicts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from hybrid.canonical import encode
from hybrid.errors import BadData
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, open_run, run_ids, submit
from hybrid.folder.shards import FORMAT, ShardWriter, pack, verify_shard
from hybrid.folder.spec import ModelSpec
from hybrid.protocols import Inputs
from hybrid.records import Completion, Record
from tests.execution.test_run_local import Place
from tests.support.sync_programs import Rclone, SyncProgram, SyncthingPair, syncing, wait_until

ITEMS = 42  # what the six tasks of `Place` make
INPUTS = Inputs(tasks={"t": {"q": "1+1"}}, references={"t/0": "2"}, about={"data": "sums"})
DIGEST = "0" * 64


@pytest.fixture(params=["rclone", "syncthing"])
def sync(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SyncProgram]:
    with syncing(request.param, tmp_path / "laptop", tmp_path / "worker", tmp_path / "own") as made:
        yield made


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[SyncthingPair]:
    with SyncthingPair(tmp_path / "laptop", tmp_path / "worker", tmp_path / "own") as made:
        yield made


def submitted(folder: Path) -> Run:
    place = join_folder(folder, make=True)
    return submit(place, "sums", {}, INPUTS, models={"": ModelSpec("scripted", "m", DIGEST)})


def record(number: int, text: str = "x") -> Record:
    return Record(f"{number:064x}", "t", "t/0", {}, 0, Completion(f"{number:064x}", text=text, finish="stop"))


def header(run: Run, attempt: str) -> dict[str, object]:
    about = {"name": "m", "digest": DIGEST, "about": {}}
    return {"format": FORMAT, "version": 1, "run": run.id, "stage": "answer", "attempt": attempt, "model": about}


def work(folder: Path, run: Run, attempt: str, numbers: range, per_shard: int = 3) -> None:
    """Write records as a worker does, a few to a shard."""
    place = f"runs/{run.id}/answer/{attempt}"
    writer = ShardWriter(Disk(folder), place, header(run, attempt), seconds=60)
    for position, number in enumerate(numbers, start=1):
        writer.add(record(number))
        if position % per_shard == 0:
            writer.close()
    writer.close()


def shard(run: Run, attempt: str, numbers: range, text: str = "x") -> tuple[str, bytes]:
    """The path and the bytes of an attempt's only shard."""
    lines = [encode(record(number, text).to_json()) for number in numbers]
    name, data = pack({**header(run, attempt), "seq": 0}, lines, 0)
    return f"runs/{run.id}/answer/{attempt}/{name.batch}/{name}", data


def put(folder: Path, path: str, data: bytes, second: int = 0) -> None:
    """Write a file as anybody might, with a time of change `second` seconds after noon of some day."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)
    if second:
        os.utime(folder / path, (1_790_000_000 + second, 1_790_000_000 + second))


def counted(folder: Path) -> tuple[list[str], list[str]]:
    """The last two digits of every key that counts in a folder, as often as it is read, and what was passed over."""
    refused: list[str] = []
    run = open_run(Disk(folder), "sums-")
    keys = [record["key"][-2:] for _, shard in run.shards("answer", refused) for record in shard.records]
    return sorted(keys), refused


def hybrid(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    own = os.environ | {"HYBRID_HOME": str(home)}
    command = [sys.executable, "-m", "hybrid", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=own)


def keys(numbers: range) -> list[str]:
    return [f"{number:02x}" for number in numbers]


def test_a_run_arrives_whole_and_what_two_workers_make_of_it_comes_back_counted_once(sync: SyncProgram) -> None:
    run = submitted(sync.laptop)
    sync.carry()
    there = open_run(join_folder(sync.worker, make=False), run.id)
    assert there.spec == run.spec
    assert (there.tasks(), there.references()) == (INPUTS.tasks, INPUTS.references)
    work(sync.worker, run, "first", range(20))
    sync.carry()
    assert counted(sync.laptop) == (keys(range(20)), [])
    work(sync.worker, run, "second", range(15, 30))
    sync.carry()
    found, refused = counted(sync.laptop)
    assert (sorted(set(found)), refused) == (keys(range(30)), [])
    assert len(found) == 35, "both attempts are read; whoever counts takes one record of a key"


@pytest.mark.slow
def test_a_run_that_both_sides_submitted_while_they_were_apart_is_one_run(sync: SyncProgram) -> None:
    sync.part()
    mine, other = submitted(sync.laptop), submitted(sync.worker)
    work(sync.worker, other, "first", range(5))
    sync.meet()
    sync.carry()
    for folder in (sync.laptop, sync.worker):
        assert run_ids(join_folder(folder, make=False)) == [mine.id]
        assert counted(folder) == (keys(range(5)), [])


def kill_in_the_middle(rclone: Rclone, path: str, size: int) -> Path:
    """Copy slowly, SIGKILL rclone when a part of the file is there; returns that part, whose name newer ones change."""
    place = (rclone.laptop / path).parent
    slow = rclone.command(rclone.worker, rclone.laptop, "--bwlimit=150k", "--filter=+ /runs/**", "--filter=- *")
    process = subprocess.Popen(slow, stderr=subprocess.DEVNULL)

    def parts() -> list[Path]:
        return [part for part in place.glob("*") if 0 < part.stat().st_size < size]

    wait_until(lambda: bool(parts()) or process.poll() is not None, 240, "a part of the file")
    process.kill()
    process.wait(timeout=240)
    (part,) = parts()
    return part


@pytest.fixture
def rclone(tmp_path: Path) -> Rclone:
    return Rclone(tmp_path / "laptop", tmp_path / "worker", tmp_path / "own")


def test_a_copy_that_was_killed_half_way_is_passed_over_and_made_whole_by_the_next(rclone: Rclone) -> None:
    run = submitted(rclone.laptop)
    rclone.carry()
    work(rclone.worker, run, "first", range(3))
    rclone.carry()
    noise = random.Random(1).randbytes(3_000_000).hex()
    path, data = shard(run, "second", range(3, 9), noise)
    put(rclone.worker, path, data)
    part = kill_in_the_middle(rclone, path, len(data))
    found, refused = counted(rclone.laptop)
    assert found == keys(range(3))
    assert len(refused) == (part.name == Path(path).name)
    rclone.carry()
    assert counted(rclone.laptop)[0] == keys(range(9))
    assert (rclone.worker / path).read_bytes() == (rclone.laptop / path).read_bytes() == data


def test_a_torn_copy_that_was_carried_back_over_the_whole_file_counts_nothing_until_it_is_written_again(
    rclone: Rclone,
) -> None:
    run = submitted(rclone.laptop)
    rclone.carry()
    path, data = shard(run, "first", range(6))
    put(rclone.worker, path, data)
    put(rclone.laptop, path, data[: len(data) // 2])
    rclone.everything_both_ways()
    assert (rclone.worker / path).read_bytes() == data[: len(data) // 2], (
        "the careless way did no harm: nothing is shown"
    )
    assert [counted(folder)[0] for folder in (rclone.laptop, rclone.worker)] == [[], []]
    Disk(rclone.worker).write(path, data)
    rclone.carry()
    assert counted(rclone.laptop) == (keys(range(6)), [])


DAMAGES = ["torn", "empty", "flipped", "packed otherwise"]


def damaged(data: bytes, how: str) -> bytes:
    if how == "packed otherwise":
        return zstandard.ZstdCompressor(level=19).compress(zstandard.ZstdDecompressor().decompress(data))
    return {"torn": data[: len(data) // 2], "empty": b""}.get(how, bytes([*data[:20], data[20] ^ 1, *data[21:]]))


@pytest.mark.slow
def test_two_contents_at_one_path_count_no_item_twice_whichever_of_them_wins(
    pair: SyncthingPair, tmp_path: Path
) -> None:
    laptop, worker = pair.laptop, pair.worker
    run = submitted(laptop)
    pair.wait_in_sync()
    pair.stop("laptop")
    losers, whole, torn = {}, list[str](), 0
    for number, (how, newer) in enumerate((how, newer) for how in DAMAGES for newer in ("laptop", "worker")):
        path, data = shard(run, f"attempt-{number}", range(5 * number, 5 * number + 5))
        bad = damaged(data, how)
        put(laptop, path, bad, second=2 if newer == "laptop" else 1)  # Syncthing keeps the newer one under its name
        put(worker, path, data, second=2 if newer == "worker" else 1)
        losers[path] = data if newer == "laptop" else bad
        counts = newer == "worker" or how == "packed otherwise"
        whole += keys(range(5 * number, 5 * number + 5)) if counts else []
        torn += not counts
    pair.start("laptop")
    pair.wait_in_sync()
    for folder in (laptop, worker):
        copies = {path: list((folder / path).parent.glob("*.sync-conflict-*")) for path in losers}
        assert {path: [one.read_bytes() for one in found] for path, found in copies.items()} == {
            path: [content] for path, content in losers.items()
        }, "Syncthing made no conflict copies, so the test shows nothing"
        found, refused = counted(folder)
        assert (found, len(refused)) == (whole, torn)
    told = hybrid(tmp_path / "home", "doctor", laptop).stdout
    assert [path.name for path in laptop.glob("**/*.sync-conflict-*") if path.name not in told] == []


class TwoFolders:
    """The `hybrid` command on a laptop and on GPU machines: each has a folder and a home of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.laptop = root, root / "laptop"
        self.whole = Place(root, root / "whole")  # the same without faults, and the files of the tasks
        self.script = root / "script.json"
        self.calls_file = root / "calls"
        self.data = [f"--set={kind}={root / kind}.json" for kind in ("challenges", "solutions")]
        self.workers: list[subprocess.Popen[str]] = []

    def submit(self, *how: str) -> None:
        how = how or ("--backend=scripted", f"--model={self.script}")
        for command in (["init", self.laptop], ["run", "remote", "seal-eval", *self.data, *how]):
            done = hybrid(self.root / "home-laptop", *command)
            assert done.returncode == 0, done.stderr

    def worker(self, home: str, folder: Path, *how: str) -> subprocess.Popen[str]:
        """A worker that shows signs of life every second and closes shards quickly, so that tests are short."""
        quick = ["--side=gpu", "--beat=1", "--shard-seconds=0.3", "--linger=120"]
        command = [sys.executable, "-m", "hybrid", "worker", str(folder), *quick, *how]
        own = os.environ | {"HYBRID_HOME": str(self.root / home)}
        process = subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True)
        self.workers.append(process)
        return process

    def scripted_worker(self, home: str, folder: Path, *how: str) -> subprocess.Popen[str]:
        """One that answers from the script, and counts its calls."""
        options = ["--backend-option=delay_ms=100", f"--backend-option=calls={self.calls_file}"]
        return self.worker(home, folder, f"--model={self.script}={self.script}", *options, *how)

    def kill(self, process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
        """SIGKILL the worker at that moment; it has to be still at work."""
        wait_until(lambda: when() or process.poll() is not None, 240, "the moment to kill the worker")
        process.kill()
        ended(process, -signal.SIGKILL)

    def fetch_until_done(self) -> None:
        def fetched() -> bool:
            done = hybrid(self.root / "home-laptop", "fetch", "seal")
            assert done.returncode in {0, 4}, done.stderr
            return done.returncode == 0

        wait_until(fetched, 240, "every item on the laptop", pause=1.0)

    def status(self) -> tuple[int, int, int]:
        """The exit code on the laptop, how many items are done, and how many of those it received and verified."""
        told = hybrid(self.root / "home-laptop", "status", "seal", "--json")
        standing = json.loads(told.stdout)
        assert standing["total"] == ITEMS, told.stderr
        return told.returncode, standing["done"], standing["received"]

    def calls(self) -> list[str]:
        return self.calls_file.read_text().split() if self.calls_file.exists() else []

    def kept(self, *places: Path) -> set[str]:
        """The keys in shards that verify, in folders, spools or both."""
        runs = [run for place in places for run in place.glob("**/runs/*") if run.name.startswith("seal-eval-")]
        found = [(run.parent.parent, path) for run in runs for path in run.glob("answer/*/*/shard-*.zst")]
        return {key for root, path in found for key in keys_of(path, path.relative_to(root).as_posix())}

    def records_without_faults(self) -> list[dict[str, object]]:
        assert self.whole.run().returncode == 0
        return records_in(self.whole.folder)


def records_in(folder: Path) -> list[dict[str, object]]:
    """The records of the only outputs.json in a folder."""
    (path,) = folder.glob("results/*/outputs.json")
    return list(json.loads(path.read_text())["records"])


FEW = ["--limit=2", "--set=permute_n=0"]
ONE_ROW = "--backend-option=rows=1"  # no answer depends on which others are computed beside it


def keys_of(path: Path, name: str) -> set[str]:
    try:
        return {record["key"] for record in verify_shard(name, path.read_bytes()).records}
    except BadData:  # torn by the kill, or on its way: nothing that may be relied on
        return set()


@pytest.fixture
def two_folders(tmp_path: Path) -> Iterator[TwoFolders]:
    made = TwoFolders(tmp_path)
    yield made
    for process in made.workers:
        process.kill()
        process.communicate(timeout=240)


def ended(process: subprocess.Popen[str], code: int) -> None:
    """Wait for the end of a worker, which has to come with `code`."""
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == code, stderr


@pytest.mark.slow
def test_a_worker_killed_on_its_machine_goes_on_there_and_redoes_what_was_in_flight_only(
    two_folders: TwoFolders, sync: SyncProgram
) -> None:
    two_folders.submit()
    sync.carry()
    with sync.running():
        process = two_folders.scripted_worker("home-gpu", sync.worker, "--once")
        two_folders.kill(process, lambda: len(two_folders.calls()) >= 15)
        before, safe = two_folders.calls(), two_folders.kept(sync.worker, two_folders.root / "home-gpu")
        assert safe
        process = two_folders.scripted_worker("home-gpu", sync.worker, "--once")
        two_folders.fetch_until_done()
        ended(process, 0)
    after = two_folders.calls()[len(before) :]
    print(f"{len(before)} calls, {len(safe)} safe, killed, {len(after)} calls, {len(set(before) & set(after))} redone")
    assert not safe & set(after), "an item of a finished shard was asked again"
    assert len(set(before) & set(after)) <= 1, "the answers of the open shard were in its journal"
    assert two_folders.status() == (0, ITEMS, ITEMS)
    assert records_in(two_folders.laptop) == two_folders.records_without_faults()
    assert list(two_folders.root.glob("home-gpu/spool/**/shard-*")) == [], "what is acknowledged is freed"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rclone", "syncthing"])
def test_a_lost_machine_costs_what_was_not_carried_yet_and_a_new_one_ends_the_run(
    two_folders: TwoFolders, kind: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    two_folders.submit()
    with syncing(kind, two_folders.laptop, first, tmp_path / "own-first") as sync:
        sync.carry()
        with sync.running():
            slow = "--backend-option=delay_ms=500"  # it has to be at work still when something has arrived
            process = two_folders.scripted_worker("home-first", first, "--once", slow)
            two_folders.kill(process, lambda: len(two_folders.kept(two_folders.laptop)) >= 5)
    shutil.rmtree(first)
    shutil.rmtree(tmp_path / "home-first")
    before, arrived = two_folders.calls(), two_folders.kept(two_folders.laptop)
    assert two_folders.status() == (4, len(arrived), 0)
    with syncing(kind, two_folders.laptop, second, tmp_path / "own-second") as sync:
        sync.restore()
        with sync.running():
            process = two_folders.scripted_worker("home-second", second, "--run=seal-eval")
            two_folders.fetch_until_done()
            ended(process, 0)
    after = two_folders.calls()[len(before) :]
    redone = set(before) & set(after)
    print(f"{len(before)} calls, {len(arrived)} arrived, lost, {len(after)} calls, {len(redone)} redone")
    assert not arrived & set(after), "an item that had arrived was asked again"
    assert redone == set(before) - arrived
    assert two_folders.status() == (0, ITEMS, ITEMS)
    assert records_in(two_folders.laptop) == two_folders.records_without_faults()


@pytest.fixture(scope="module")
def answered_here(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> list[dict[str, object]]:
    """The records of the run below when all of it is done on one machine."""
    alone = TwoFolders(tmp_path_factory.mktemp("alone"))
    here = ["--backend=transformers", f"--model={tiny_llama}", ONE_ROW, f"--folder={alone.root / 'folder'}"]
    done = hybrid(alone.root / "home", "run", "local", "seal-eval", *alone.data, *FEW, *here)
    assert done.returncode == 0, done.stderr
    return records_in(alone.root / "folder")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rclone", "syncthing"])
def test_a_real_model_answers_through_the_carrier_as_it_does_here(
    two_folders: TwoFolders, kind: str, tmp_path: Path, tiny_llama: Path, answered_here: list[dict[str, object]]
) -> None:
    with syncing(kind, two_folders.laptop, tmp_path / "worker", tmp_path / "own") as sync:
        two_folders.submit("--backend=transformers", "--model=tiny", *FEW)
        sync.carry()
        with sync.running():
            process = two_folders.worker("home-gpu", sync.worker, "--once", f"--model=tiny={tiny_llama}", ONE_ROW)
            two_folders.fetch_until_done()
            ended(process, 0)
    assert len(answered_here) == 12
    assert records_in(two_folders.laptop) == answered_here
