"""What training keeps: whole or not there, whatever happens to the parts; carried after records, freed when carried."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.canonical import encode
from hybrid.doctor.findings import Finding
from hybrid.doctor.walk import FolderWalk
from hybrid.errors import BadData, HybridError, Temporary
from hybrid.folder import spool as spooling
from hybrid.folder import tensors
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.medium import Disk
from hybrid.folder.names import TensorName, allowed
from hybrid.folder.runs import MARK, Run, join_folder, submit
from hybrid.folder.shards import FORMAT, ShardWriter
from hybrid.folder.spec import ModelSpec
from hybrid.folder.spool import Spool, is_shard
from hybrid.folder.tensors import RunTensors, is_tensors, pack_tensors, verify_part
from hybrid.machine.clock import SystemClock
from hybrid.protocols import Inputs
from hybrid.records import Completion, Record
from tests.simulator import SETTLE, Actor, Faults, World
from tests.simulator.disk import Files

NAME, OTHER = "a" * 64, "b" * 64
SMALL = 100
MODEL = {"name": "m", "digest": "0" * 64, "about": {}}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "PART", SMALL)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    inputs = Inputs({"t": {}}, {"t/0": "x"}, {})
    folder = join_folder(tmp_path / "folder", make=True)
    return submit(folder, "sums", {}, inputs, models={"": ModelSpec("scripted", "m", "0" * 64)})


def content(number: int, size: int = 250) -> bytes:
    return random.Random(number).randbytes(size)


def parts(root: Path) -> list[Path]:
    return sorted(root.glob("runs/*/tensors/*/*/*/part-*"))


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 10 * SMALL])
def test_what_is_kept_is_read_back(tmp_path: Path, size: int) -> None:
    kept = RunTensors("r", "one", Disk(tmp_path))
    assert kept.newest(NAME) is None
    kept.keep(NAME, 3, content(1, size))
    assert kept.newest(NAME) == (3, content(1, size))
    assert kept.newest(OTHER) is None
    assert all(allowed(part.name) for part in parts(tmp_path))


def test_a_newer_number_takes_the_place_of_this_attempts_older_ones(tmp_path: Path) -> None:
    one, two = (RunTensors("r", attempt, Disk(tmp_path)) for attempt in ("one", "two"))
    two.keep(NAME, 1, content(1))
    for number in (2, 3, 10):
        one.keep(NAME, number, content(number))
    assert {TensorName.parse(part.name).number for part in parts(tmp_path)} == {1, 10}  # type: ignore[union-attr]
    assert two.newest(NAME) == (10, content(10))


def test_of_two_that_differ_every_reader_takes_the_same(tmp_path: Path) -> None:
    for attempt, seed in (("one", 5), ("two", 6), ("three", 7)):
        RunTensors("r", attempt, Disk(tmp_path / attempt)).keep(NAME, 4, content(seed))
    media = [Disk(tmp_path / attempt) for attempt in ("one", "two", "three")]
    lowest = min((content(seed) for seed in (5, 6, 7)), key=lambda data: hashlib.sha256(data).hexdigest())
    for turn in range(3):
        own, *others = media[turn:] + media[:turn]
        assert RunTensors("r", "x", own, tuple(others)).newest(NAME) == (4, lowest)


def test_no_cut_or_changed_part_is_taken(tmp_path: Path) -> None:
    kept = RunTensors("r", "one", Disk(tmp_path))
    RunTensors("r", "two", Disk(tmp_path)).keep(NAME, 1, content(1))
    kept.keep(NAME, 2, content(2))
    for part in parts(tmp_path)[:3]:
        whole = part.read_bytes()
        for spoiled in (b"", whole[:-1], whole[:10], whole + b"x", bytes(len(whole)), b"<html>", whole[:-1] + b"\0"):
            part.write_bytes(spoiled)
            assert kept.newest(NAME) == (1, content(1))
            with pytest.raises(BadData):
                verify_part(str(part), spoiled)
        part.write_bytes(whole)
    assert kept.newest(NAME) == (2, content(2))


def test_a_copy_of_a_part_elsewhere_makes_a_whole_of_a_torn_one(tmp_path: Path) -> None:
    own, folder = Disk(tmp_path / "spool"), Disk(tmp_path / "folder")
    RunTensors("r", "one", own).keep(NAME, 2, content(2))
    RunTensors("r", "one", folder).keep(NAME, 2, content(2))
    parts(tmp_path / "spool")[0].write_bytes(b"torn")
    parts(tmp_path / "folder")[1].unlink()
    assert RunTensors("r", "two", own, (folder,)).newest(NAME) == (2, content(2))
    parts(tmp_path / "folder")[0].unlink()
    assert RunTensors("r", "two", own, (folder,)).newest(NAME) is None


def test_what_cannot_be_kept_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = RunTensors("r", "one", Disk(tmp_path))
    for name, number in (("../../x", 0), ("A" * 64, 0), (NAME, -1), (NAME, 10**9)):
        with pytest.raises(BadData):
            kept.keep(name, number, b"")
    monkeypatch.setattr(tensors, "MOST_PARTS", 2)
    with pytest.raises(BadData, match="250 bytes"):
        kept.keep(NAME, 0, content(1))
    assert not parts(tmp_path)


@pytest.mark.parametrize("call", ["entries", "read"])
def test_one_call_of_a_mount_that_fails_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    RunTensors("r", "first", Disk(tmp_path)).keep(NAME, 7, content(7))
    real, calls = getattr(Disk, call), 0

    def flaky(self: Disk, *asked: object) -> object:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise Temporary("Stale file handle")
        return real(self, *asked)

    monkeypatch.setattr(Disk, call, flaky)
    for failing in range(1, 4):
        calls = 0
        assert RunTensors("r", "second", Disk(tmp_path / "own"), (Disk(tmp_path),)).newest(NAME) == (7, content(7))
        assert calls > failing


def test_a_folder_that_does_not_answer_has_nothing(tmp_path: Path) -> None:
    class Away(Disk):
        def entries(self, place: str) -> list[object]:  # type: ignore[override]
            raise Temporary("away")

    kept = RunTensors("r", "one", Disk(tmp_path / "spool"), (Away(tmp_path),))
    assert kept.newest(NAME) is None
    kept.keep(NAME, 1, b"x")
    assert kept.newest(NAME) == (1, b"x")


KEPT = st.tuples(st.sampled_from(["one", "two"]), st.integers(0, 3), st.integers(0, 3))
DAMAGE = st.tuples(st.integers(0, 30), st.sampled_from(["gone", "torn", "stray"]))


@settings(max_examples=300, deadline=None)
@given(st.lists(KEPT, max_size=8), st.lists(DAMAGE, max_size=6))
def test_newest_is_the_highest_number_that_is_whole(
    kept: list[tuple[str, int, int]], damage: list[tuple[int, str]]
) -> None:
    files, expected = Files(), dict[tuple[str, int, bytes], None]()
    for attempt, number, seed in kept:
        RunTensors("r", attempt, files).keep(NAME, number, content(seed))
        expected = {one: None for one in expected if one[0] != attempt or one[1] >= number}
        expected[attempt, number, content(seed)] = None
    for place, what in damage:
        if files.held:
            path = sorted(files.held)[place % len(files.held)]
            if what == "gone":
                del files.held[path]
            elif what == "torn":
                files.held[path] = files.held[path][:-1]
            else:
                files.held[path.replace("/part-", "/copy of part-")] = b"other"
    wholes = {
        (number, data)
        for _, number, data in expected
        if all(
            any(
                files.held.get(f"runs/r/tensors/{NAME}/{attempt}/{part.batch}/{part}") == piece
                for attempt, *same in expected
                if same == [number, data]
            )
            for part, piece in pack_tensors(number, data)
        )
    }
    best = min(wholes, key=lambda one: (-one[0], hashlib.sha256(one[1]).hexdigest()), default=None)
    assert RunTensors("r", "reader", files).newest(NAME) == best


KEEPING = """
import sys
from pathlib import Path
from hybrid.folder import tensors
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.medium import Disk
tensors.PART = 100
kept = tensors.RunTensors("r", sys.argv[2], Disk(Path(sys.argv[1])))
begin = (kept.newest("a" * 64) or (0, b""))[0] + 1
for number in range(begin, begin + 100_000):
    kept.keep("a" * 64, number, bytes([number % 256]) * 450)
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_last_that_was_kept(tmp_path: Path) -> None:
    chance, last = random.Random(1), 0
    for life in range(12):
        command = [sys.executable, "-c", KEEPING, str(tmp_path), f"life{life}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(2)]
            time.sleep(0.05 * chance.random())
            process.send_signal(signal.SIGKILL)
            told = int([*lines, *process.stdout.read().split()][-1])
        found = RunTensors("r", "reader", Disk(tmp_path)).newest(NAME)
        assert found is not None
        assert told > last
        assert found[0] in (told, told + 1)
        assert found[1] == bytes([found[0] % 256]) * 450
        last = found[0]


def test_a_full_disk_is_told_and_the_older_ones_stay(tmp_path: Path) -> None:
    code = (
        "import resource; from hybrid.errors import Temporary\n"
        + KEEPING.partition("begin =")[0]
        + "kept.keep('a' * 64, 1, b'x' * 90)\nresource.setrlimit(resource.RLIMIT_FSIZE, (95, 95))\n"
        "try:\n    kept.keep('a' * 64, 2, b'y' * 450)\nexcept Temporary as error:\n    print(error.message)\n"
        "print(kept.newest('a' * 64) == (1, b'x' * 90))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "one"], capture_output=True, text=True, timeout=240, check=True
    )
    assert "no room left for" in done.stdout
    assert done.stdout.endswith("True\n")


class RecordingFolder:
    """A folder that records the order of writes, and takes `seconds` of its clock for each part of tensors."""

    def __init__(self, disk: Disk, seconds: float = 0.0) -> None:
        self._disk, self.seconds, self.time, self.written = disk, seconds, 0.0, list[str]()

    def __getattr__(self, name: str) -> object:
        return getattr(self._disk, name)

    def now(self) -> float:
        return self.time

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        self._disk.write(path, data, heal=heal)
        self.written.append("tensors" if is_tensors(path) else "shard" if is_shard(path) else path)
        self.time += self.seconds * is_tensors(path)


def shard(spool: Spool, run: Run, seq: int, adapter: str = "") -> None:
    """Write a shard with one record, which may name an adapter that was trained."""
    header = {"format": FORMAT, "version": 1, "run": run.id, "stage": "policy", "attempt": "one", "model": MODEL}
    writer = ShardWriter(spool, f"{run.place}/policy/one", header, seconds=60, first_seq=seq)
    key = f"{seq:064x}"
    trained = {"trained": {"adapter": adapter}} if adapter else {}
    writer.add(Record(key, "t", "t/0", {}, 0, Completion(key, text="x", finish="stop", **trained)))  # type: ignore[arg-type]
    writer.close()


def test_records_go_before_gigabytes_of_tensors(run: Run, tmp_path: Path) -> None:
    folder = RecordingFolder(Disk(tmp_path / "folder"), seconds=spooling.TENSORS_SECONDS / 4)
    spool = Spool(Disk(tmp_path / "spool"), folder)  # type: ignore[arg-type]
    kept = RunTensors(run.id, "one", spool, (folder,))  # type: ignore[arg-type]
    kept.keep(NAME, 1, content(1, 20 * SMALL))
    shard(spool, run, 0)
    spool.carry(folder)  # type: ignore[arg-type]
    assert folder.written == ["shard", *["tensors"] * 5]
    shard(spool, run, 1)
    spool.carry(folder)  # type: ignore[arg-type]
    assert folder.written[6] == "shard"
    for _ in range(4):
        spool.carry(folder)  # type: ignore[arg-type]
    assert not spool.waiting
    assert not parts(tmp_path / "spool"), "carried and not freed"
    assert kept.newest(NAME) == (1, content(1, 20 * SMALL))


def test_a_newer_checkpoint_is_carried_in_place_of_an_older_one(run: Run, tmp_path: Path) -> None:
    folder, spool = RecordingFolder(Disk(tmp_path / "folder")), Spool(Disk(tmp_path / "spool"), SystemClock())
    kept = RunTensors(run.id, "one", spool, (folder,))  # type: ignore[arg-type]
    for number in range(5):
        kept.keep(NAME, number, content(number))
    assert kept.newest(NAME) == (4, content(4))
    spool.carry(folder)  # type: ignore[arg-type]
    assert len(folder.written) == 3
    assert RunTensors(run.id, "two", Disk(tmp_path / "folder")).newest(NAME) == (4, content(4))


def test_a_worker_removes_what_its_newer_checkpoints_have_replaced(run: Run, tmp_path: Path) -> None:
    with closing(IsolatedFolder(tmp_path / "folder", seconds=60)) as folder:
        spool = Spool(Disk(tmp_path / "spool"), SystemClock())
        mine, others = (
            RunTensors(run.id, name, store) for name, store in (("one", spool), ("two", Disk(tmp_path / "folder")))
        )
        others.keep(NAME, 0, content(0))
        adapter = content(9, 3 * SMALL)
        mine.keep(hashlib.sha256(adapter).hexdigest(), 0, adapter)
        for number in range(1, 6):
            mine.keep(NAME, number, content(number))
            spool.carry(folder)
            found = {parsed.number for path in parts(tmp_path / "folder") if (parsed := TensorName.parse(path.name))}
            assert found == {0, number, max(1, number - 1)}
        assert others.newest(NAME) == (5, content(5))
        assert RunTensors(run.id, "two", Disk(tmp_path / "folder")).newest(hashlib.sha256(adapter).hexdigest())


def test_checkpoints_that_cannot_be_removed_are_removed_later(run: Run, tmp_path: Path) -> None:
    class Stubborn(RecordingFolder):
        refuses = True

        def remove(self, path: str) -> None:
            if self.refuses:
                raise Temporary("not now")
            self._disk.remove(path)

    folder, spool = Stubborn(Disk(tmp_path / "folder")), Spool(Disk(tmp_path / "spool"), SystemClock())
    mine = RunTensors(run.id, "one", spool)
    for number in range(4):
        mine.keep(NAME, number, content(number))
        spool.carry(folder)  # type: ignore[arg-type]
    assert len(parts(tmp_path / "folder")) == 4 * 3
    folder.refuses = False
    mine.keep(NAME, 4, content(4))
    spool.carry(folder)  # type: ignore[arg-type]
    assert len(parts(tmp_path / "folder")) == 2 * 3


def test_a_record_goes_after_the_adapter_that_it_names(run: Run, tmp_path: Path) -> None:
    folder = RecordingFolder(Disk(tmp_path / "folder"), seconds=spooling.TENSORS_SECONDS)
    spool, adapter = Spool(Disk(tmp_path / "spool"), folder), content(9, 3 * SMALL)  # type: ignore[arg-type]
    digest = hashlib.sha256(adapter).hexdigest()
    kept = RunTensors(run.id, "one", spool, (folder,))  # type: ignore[arg-type]
    kept.keep(NAME, 1, content(1, 5 * SMALL))
    kept.keep(digest, 0, adapter)
    shard(spool, run, 0, digest)
    shard(spool, run, 1)
    spool.carry(folder)  # type: ignore[arg-type]
    assert folder.written == ["shard", "tensors", "tensors"]
    spool.carry(folder)  # type: ignore[arg-type]
    assert folder.written[3:] == ["tensors", "tensors", "shard"]
    assert RunTensors(run.id, "two", Disk(tmp_path / "folder")).newest(digest) == (0, adapter)
    assert len(list((tmp_path / "spool").glob(f"runs/*/tensors/{digest}/*/*/*"))) == 3, "freed before anybody had it"


def test_an_adapter_that_a_mount_has_lost_is_carried_again_until_all_has_arrived(run: Run, tmp_path: Path) -> None:
    folder = RecordingFolder(Disk(tmp_path / "folder"))
    spool, adapter = Spool(Disk(tmp_path / "spool"), folder), content(9)  # type: ignore[arg-type]
    digest = hashlib.sha256(adapter).hexdigest()
    RunTensors(run.id, "one", spool).keep(digest, 0, adapter)
    shard(spool, run, 0, digest)
    spool.carry(folder)  # type: ignore[arg-type]
    parts(tmp_path / "folder")[1].unlink()
    folder.time += spooling.RECHECK
    spool.recheck(folder)  # type: ignore[arg-type]
    spool.carry(folder)  # type: ignore[arg-type]
    assert RunTensors(run.id, "two", Disk(tmp_path / "folder")).newest(digest) == (0, adapter)
    (path,) = spool.unreceipted
    spool.release({path: spooling.verify_shard(path, spool.read(path, 10**6)).sha256})
    folder.time += spooling.RECHECK
    spool.recheck(folder)  # type: ignore[arg-type]
    assert not parts(tmp_path / "spool")


LIES = ("F2", "F3", "F4", "F5", "F6", "F7", "F8", "F12", "F13", "F14", "F25")
BREAKS = {"F7", "F8", "F12", "F14"}
"""With these what was carried may be lost for good, or hidden behind another name: a checkpoint gets no receipt."""


def submitted(actor: Actor) -> Run:
    """A run in the folder, until it gets through."""
    while True:
        with suppress(HybridError):
            actor.folder.write("hybrid.json", encode(MARK) + b"\n")
            inputs = Inputs({"t": {}}, {"t/0": "x"}, {})
            return submit(actor.folder, "sums", {}, inputs, models={"": ModelSpec("sim", "m", "0" * 64)})
        actor.world.advance(60)


@pytest.mark.parametrize("seed", range(60))
def test_in_a_world_that_lies_a_reader_gets_something_that_was_kept_or_nothing(seed: int) -> None:
    chance = random.Random(seed)
    rates = {name: chance.choice((0.02, 0.1, 0.3)) for name in LIES if chance.random() < 0.4}
    world = World(seed, Faults(rates))
    gpu, reader, kept = world.actor("gpu"), world.actor("laptop"), dict[int, bytes]()
    run, spool = submitted(reader), Spool(gpu.disk, gpu.clock)
    mine = RunTensors(run.id, "one", spool, (gpu.folder,))
    theirs = RunTensors(run.id, "two", reader.disk, (reader.folder,))
    for number in range(1, 12):
        data = content(number, chance.randrange(5 * SMALL))
        with suppress(HybridError):
            mine.keep(NAME, number, data)
            kept[number] = data
        for _ in range(3):
            with suppress(HybridError):
                spool.carry(gpu.folder)
            world.advance(60)
        for some in (mine, theirs):
            found = some.newest(NAME)
            assert found is None or kept.get(found[0]) == found[1]
    world.calm()
    world.wait(SETTLE)
    submitted(reader)  # what went into the void is said again
    for _ in range(3):
        world.wait(SETTLE)
        spool.carry(gpu.folder)
    world.wait(SETTLE)
    assert not spool.waiting
    found = theirs.newest(NAME)
    assert found is None or kept.get(found[0]) == found[1]
    if BREAKS.isdisjoint(rates):
        assert found == max(kept.items(), default=None)


def findings_in(run: Run) -> list[Finding]:
    return list(FolderWalk(run.folder, SystemClock()).findings())


def test_doctor_knows_the_names_and_explains_what_is_torn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid.doctor import file_check

    monkeypatch.setattr(file_check, "PART", SMALL)
    root = Path(str(run.folder))
    RunTensors(run.id, "one", Disk(root)).keep(NAME, 1, content(1))
    assert findings_in(run) == []
    first, second, third = parts(root)
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(bytes(SMALL))
    third.unlink()
    (first.parent / "notes.txt").write_text("x")
    told = {(one.kind, one.path.rpartition("/")[2]) for one in findings_in(run)}
    assert told == {
        ("torn", first.name),
        ("torn", second.name),
        ("gap", "000000001"),
        ("unknown", "notes.txt"),
    }


def test_a_version_that_its_writer_replaces_while_it_is_read_is_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = RunTensors("r", "one", Disk(tmp_path))
    kept.keep(NAME, 1, content(1))

    class Replaced(Disk):
        def read(self, path: str, limit: int) -> bytes:
            if "/000000001/" in path:
                kept.keep(NAME, 2, content(2))  # removes what was listed
            return super().read(path, limit)

    assert RunTensors("r", "two", Replaced(tmp_path)).newest(NAME) is None
    assert not caplog.records
    assert RunTensors("r", "two", Replaced(tmp_path)).newest(NAME) == (2, content(2))
