"""`hybrid sync` with the real rclone: each file from its writer, nothing deleted, faults told and healed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from hybrid.folder.medium import Disk
from hybrid.folder.names import new_attempt
from hybrid.folder.notes import pack_note
from hybrid.folder.rclone import Carrier
from hybrid.folder.runs import join_folder
from hybrid.folder.shards import pack
from tests.support.in_process import Hybrid
from tests.support.processes import children
from tests.support.real_machines import Machine
from tests.support.small_disks import mounted
from tests.support.sync_programs import program, wait_until

RUN = "runs/sums-0123456789ab"
OF_LAPTOP = [f"{RUN}/run.json", f"{RUN}/inputs-0.json.zst", f"{RUN}/acks/reader-1/000/ack-0", "models/layers/ab/part-1"]
OF_WORKER = [f"{RUN}/answer/w/000/shard-0", f"{RUN}/beats/w/000/beat-0", f"{RUN}/tensors/t/w/0/part-0", "wheels/x.whl"]


class Places:
    """A laptop's folder, a GPU machine's, and a remote between them."""

    def __init__(self, root: Path, hybrid: Hybrid) -> None:
        self.laptop, self.gpu, self.remote, self._hybrid = root / "laptop", root / "gpu", root / "remote", hybrid
        join_folder(self.laptop, make=True)
        for path in OF_LAPTOP:
            Disk(self.laptop).write(path, path.encode())
        Disk(self.laptop).write("results/r/outputs.json", b"of the laptop alone")

    def sync(self, side: str, *more: str, code: int = 0) -> str:
        done = self._hybrid("sync", f":local:{self.remote}", getattr(self, side), f"--side={side}", *more)
        assert done.code == code, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def places(tmp_path: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch) -> Places:
    program("rclone")
    (tmp_path / "rclone.conf").touch()
    monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))
    return Places(tmp_path, hybrid)


def below(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_files_go_from_their_writer_to_the_other_side(places: Places) -> None:
    assert "is not a folder of hybrid" in places.sync("gpu", code=5)
    assert not places.gpu.exists()
    said = places.sync("laptop")
    assert "sent 5 files (1 ack, 1 hybrid, 1 inputs, 1 part, 1 run;" in said
    places.sync("gpu")
    for path in OF_WORKER:
        Disk(places.gpu).write(path, path.encode())
    Disk(places.gpu).write(f"{RUN}/answer/w/000/shard-1.abc.partial", b"half")
    assert "sent 4 files (1 beat, 1 part, 1 shard, 1 x;" in places.sync("gpu")
    told = json.loads(places.sync("laptop", "--json").splitlines()[-1])
    assert sorted(told["received"]) == sorted(OF_WORKER)
    assert told["error"] == ""
    whole = {path: path.encode() for path in (*OF_LAPTOP, *OF_WORKER)}
    assert {path: data for path, data in below(places.laptop).items() if path in whole} == whole
    assert {path: data for path, data in below(places.gpu).items() if path in whole} == whole
    assert set(below(places.remote)) == {*whole, "hybrid.json"}
    assert "sent nothing; received nothing" in places.sync("laptop")


@pytest.mark.slow
def test_what_workers_publish_reaches_the_other_workers(places: Places) -> None:
    first, second = (f"{RUN}/segments/0123456789abcdef/0000/000000/segment-{one}" for one in "12")
    places.sync("laptop")
    places.sync("gpu")
    Disk(places.gpu).write(first, b"of this machine")
    Disk(places.remote).write(second, b"of another machine")
    places.sync("gpu")
    (places.gpu / second).write_bytes(b"torn")
    places.sync("gpu")
    assert below(places.remote)[first] == b"of this machine"
    assert below(places.remote)[second] == b"of another machine", "a torn copy does not go back"
    assert set(below(places.gpu)) >= {first, second}
    places.sync("laptop")
    assert set(below(places.laptop)) >= {first, second}


@pytest.mark.slow
def test_workers_that_publish_for_each_other_know_of_each_other(places: Places) -> None:
    """Friends who share a swarm divide its nodes by their heartbeats; a run whose workers share nothing needs none."""
    run, alone = RUN.removeprefix("runs/"), "sums-ba9876543210"
    (beat, whole), (torn, later) = (pack_note(run, "beat", "other", number, {}) for number in (0, 1))
    name, records = pack({}, [b"{}"], 0)
    shard, state = f"{RUN}/rounds/other/000/{name}", f"{RUN}/tensors/t/other/0/part-0"
    places.sync("laptop")
    places.sync("gpu")
    Disk(places.gpu).write(f"{RUN}/segments/0123456789abcdef/0000/000000/segment-1", b"of this machine")
    carrier = Carrier(places.gpu, f":local:{places.remote}", "gpu")
    there = {beat: whole, shard: records, state: b"state", torn: later[: len(later) // 2]}
    for path, data in [*there.items(), pack_note(alone, "beat", "other", 0, {})]:
        Disk(places.remote).write(path, data)
    assert sorted(carrier.round().received.paths) == sorted((beat, shard, torn))
    here = below(places.gpu)
    assert here.items() >= {beat: whole, shard: records}.items()
    assert not {torn, state} & set(here)
    assert not [path for path in here if alone in path]
    (places.remote / torn).write_bytes(later)
    assert carrier.round().error is None
    assert below(places.remote)[torn] == below(places.gpu)[torn] == later, "a torn copy does not go back"


@pytest.mark.slow
def test_what_a_worker_on_the_laptop_writes_reaches_the_gpu_machine_and_is_never_sent_back(places: Places) -> None:
    own, of_gpu = new_attempt(on_laptop=True), new_attempt()
    verdicts = [f"{RUN}/judged/{own}/000/shard-0", f"{RUN}/beats/{own}/000/beat-0", f"{RUN}/tensors/t/{own}/0/part-0"]
    answers = f"{RUN}/answer/{of_gpu}/000/shard-0"
    for path in verdicts:
        Disk(places.laptop).write(path, path.encode())
    places.sync("laptop")
    places.sync("gpu")
    Disk(places.gpu).write(answers, b"answers")
    (places.gpu / verdicts[0]).write_bytes(b"torn")
    places.sync("gpu")
    places.sync("laptop")
    assert below(places.laptop).items() >= {**{path: path.encode() for path in verdicts}, answers: b"answers"}.items()
    assert below(places.remote)[verdicts[0]] == verdicts[0].encode(), "a torn copy does not go back"
    places.sync("gpu")
    assert below(places.gpu)[verdicts[0]] == verdicts[0].encode()


@pytest.mark.slow
def test_torn_and_deleted_files_come_back_from_their_writer(places: Places) -> None:
    for path in OF_WORKER:
        Disk(places.laptop).write(path, path.encode())
    for place in (places.gpu, places.remote):
        shutil.copytree(places.laptop, place, ignore=shutil.ignore_patterns("results"))
    torn = {places.laptop: OF_WORKER[0], places.gpu: OF_LAPTOP[0], places.remote: OF_LAPTOP[1]}
    for place, path in torn.items():
        (place / path).write_bytes(b"to")
    (places.gpu / OF_LAPTOP[3]).write_bytes(b"to")
    gone = {places.laptop: OF_LAPTOP[2], places.gpu: OF_WORKER[2]}
    for place, path in gone.items():
        (place / path).unlink()
    for side in ("gpu", "laptop", "gpu"):
        places.sync(side)
    for place in (places.laptop, places.gpu, places.remote):
        for path in (*OF_LAPTOP, *OF_WORKER):
            assert (place / path).read_bytes() == path.encode()


def test_one_run_alone(places: Places) -> None:
    Disk(places.laptop).write("runs/other-0123456789ab/run.json", b"other")
    places.sync("laptop", f"--run={RUN.partition('/')[2]}")
    assert set(below(places.remote)) == {"hybrid.json", *OF_LAPTOP[:3]}


def test_what_cannot_be_synced_is_refused(
    places: Places, hybrid: Hybrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ("drive", "-x:y", "s3://bucket/x"):
        assert hybrid("sync", "--", wrong, places.laptop).code == 2
    assert hybrid("sync", ":local:/x", "s3://bucket/x").code == 2
    done = hybrid("sync", "nosuchremote:x", places.laptop, "--side=laptop")
    assert (done.code, "rclone does not know nosuchremote:x" in done.stderr) == (7, True), done.stderr
    assert "no run is called 'typo-1' in" in places.sync("laptop", "--run=typo-1", code=5)
    (places.remote / "hybrid.json").write_text('{"format":"somebody else"}')
    assert "another mark" in places.sync("laptop", code=6)
    fake = tmp_path / "bin" / "rclone"
    fake.parent.mkdir()
    monkeypatch.setenv("PATH", str(fake.parent))
    assert "rclone is not installed" in places.sync("laptop", code=7)
    fake.write_text("#!/bin/sh\necho rclone v1.40\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    assert "rclone 1.40" in places.sync("laptop", code=7)


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_next_round_goes_on(places: Places, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "256k") as small:
        places.remote = small / "remote"
        Disk(places.laptop).write(f"{RUN}/references-0", bytes(400_000))
        assert "no room left" in places.sync("laptop", code=5)
        (places.laptop / f"{RUN}/references-0").write_bytes(b"small")
        places.sync("laptop")
        assert (places.remote / f"{RUN}/references-0").read_bytes() == b"small"


@pytest.mark.slow
def test_a_killed_rclone_costs_one_round_and_ctrl_c_ends_cleanly(places: Places, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "laptop", places.laptop)
    Disk(places.laptop).write(f"{RUN}/references-0", content := os.urandom(3_000_000))
    machine.environment["RCLONE_BWLIMIT"] = "1M"
    process = machine.start("sync", f":local:{places.remote}", "--side=laptop", "--every=1s", "--json")

    def is_killed() -> bool:
        for one in children(process.pid, b"checksum") if any(places.remote.rglob("references-0*")) else ():
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
                return True
        return False

    wait_until(is_killed, 240, "rclone copies")
    assert process.stdout
    errors = [json.loads(process.stdout.readline())["error"]]
    while (not any(errors) or errors[-1]) and len(errors) < 100:
        errors.append(json.loads(process.stdout.readline())["error"])
    process.send_signal(signal.SIGINT)
    assert "stopped; nothing is lost" in process.communicate(timeout=240)[1]
    assert "rclone was ended by signal 9" in "".join(errors)
    assert process.returncode == 0
    assert (places.remote / RUN / "references-0").read_bytes() == content


KILLED_ONCE = """#!/bin/sh
if [ "$KILLED" ] && mkdir "$KILLED/$1" 2>/dev/null; then kill -9 $$; fi
exec {rclone} "$@"
"""


@pytest.mark.slow
def test_an_rclone_that_is_killed_at_the_start_costs_one_try_of_each_step(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, killed = tmp_path / "bin" / "rclone", tmp_path / "killed"
    for place in (fake.parent, killed):
        place.mkdir()
    fake.write_text(KILLED_ONCE.format(rclone=program("rclone")))
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    machine = Machine(tmp_path, "gpu", places.gpu)
    machine.environment["KILLED"] = str(killed)
    process = machine.start("sync", f":local:{places.remote}", str(places.gpu), "--side=gpu", "--every=1s")
    try:
        wait_until((killed / "cat").exists, 240, "a look at the remote, which is not there yet")
        places.sync("laptop")
        wait_until((places.gpu / RUN / "run.json").exists, 240, "the run on the GPU machine")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=240)
    assert {one.name for one in killed.iterdir()} == {"version", "cat", "copy"}
    assert said.count("waiting: rclone was ended by signal 9") == 3, said
    monkeypatch.setenv("KILLED", str(tmp_path / "bin"))
    assert "rclone was ended by signal 9" in places.sync("laptop", code=5), "once alone, it is told"


@pytest.mark.slow
def test_what_is_damaged_at_the_remote_stays_on_the_laptop_which_tells_of_it(places: Places) -> None:
    name, data = pack({}, [b"{}"], 0)
    shard = f"{RUN}/answer/w/000/{name}"
    places.sync("laptop")
    Disk(places.remote).write(shard, data[: len(data) // 2])
    carrier = Carrier(places.laptop, f":local:{places.remote}", "laptop")
    assert carrier.round().received.paths == [shard]
    assert (places.laptop / shard).read_bytes() == data[: len(data) // 2]
    assert carrier.round().received.paths == [], "it does not come in every round"
