"""Test-time training as real processes: killed while it trains and while it answers, without room, on two machines.

However it is disturbed, it ends in the records of a run that was not, adapters and all, and no pass is trained twice.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import HybridError
from hybrid.folder.medium import Disk
from hybrid.folder.names import TensorName
from hybrid.folder.runs import check_mark
from hybrid.folder.tensors import verify_part
from tests.support.failing_calls import failing_library
from tests.support.fleet import SEEDS, Fleet, records, until
from tests.support.killed_at import killed_at
from tests.support.real_machines import Machine
from tests.support.small_disks import mounted
from tests.support.small_hf_model import headers, write_model

__all__ = ["failing_library"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TASKS = 3
SETTINGS = {
    "most": "6",
    "epochs": "2",
    "rank": "4",
    "permute_n": "0",
    "views": "transpose",
    "max_tokens": "6",
    "warmup": "0",
    "learning_rate": "0.01",
}
OPTIONS = {"device": "cpu", "threads": "1", "checkpoint": "0", "slots": "2", "group": "2"}


class Work:
    """A folder, a random model, small tasks, and the commands on them. A checkpoint is written after every pass."""

    def __init__(self, root: Path, model: Path) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.model = root, model
        pairs = [[{"input": [[n, k]], "output": [[k, n]]} for k in range(3)] for n in range(TASKS)]
        tasks = {f"{n:08x}": {"train": pairs[n], "test": [{"input": [[n, 9]]}]} for n in range(TASKS)}
        self.challenges = root.parent / "challenges.json"  # its name is in the records
        self.challenges.write_text(json.dumps(tasks))
        self.side = Machine(root, "machine", root / "folder")

    def options(self) -> list[str]:
        return [f"--backend-option={name}={value}" for name, value in OPTIONS.items()]

    def run(self, where: str) -> list[str]:
        settings = [f"--set={name}={value}" for name, value in {**SETTINGS, "challenges": self.challenges}.items()]
        return ["run", where, "seal-ttt", "--backend=transformers", f"--model={self.model}", *settings]

    def local(self) -> list[str]:
        return [*self.run("local"), *self.options(), "--shard-seconds=0.1"]

    def worker(self) -> list[str]:
        leave = ["--side=gpu", "--linger=0", "--max-idle=60s", "--beat=1", "--shard-seconds=0.1"]
        return ["worker", f"--model={self.model}={self.model}", *leave, *self.options()]

    def killed(self, side: Machine, arguments: list[str], *at: Any) -> None:
        """Run a command that is killed `at` a call of one of its functions."""
        with side.start(*arguments, prefix=killed_at(*at)) as process:
            said = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL, said

    def done(self, side: Machine, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        finished = side.run(*arguments)
        assert finished.returncode == 0, finished.stderr
        return finished

    def outputs(self) -> bytes:
        (path,) = self.root.glob("folder/results/*/outputs.json")
        return path.read_bytes()

    def records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.outputs())["records"]
        return found

    def states(self) -> dict[str, int]:
        """The groups' states: name -> the highest number, which is how many passes were trained, in whichever process.

        What is kept of a finished adapter has the number 0.
        """
        found: dict[str, int] = {}
        for path in self.root.glob("folder/runs/*/tensors/*/*/*/part-*"):
            part = TensorName.parse(path.name)
            if part and part.number:
                name = path.parts[-4]
                found[name] = max(part.number, found.get(name, 0))
        return found

    def shards(self) -> list[Path]:
        return list(self.root.glob("folder/runs/*/answer/*/*/shard-*"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def model(base: Path) -> Path:
    return write_model(base / "model", headers(), context=4096)


@pytest.fixture(scope="module")
def whole(base: Path, model: Path) -> Work:
    """An undisturbed run."""
    work = Work(base / "whole", model)
    work.done(work.side, work.local())
    assert len(work.states()) == 2  # groups
    assert len({one["trained"]["adapter"] for one in work.records() if one.get("trained")}) == TASKS
    return work


def test_killed_while_it_trains_and_answers_it_ends_in_the_same_outputs(base: Path, model: Path, whole: Work) -> None:
    work = Work(base / "killed", model)
    work.killed(work.side, work.local(), "hybrid.folder.tensors", "RunTensors.keep", "after", 3)
    assert sum(work.states().values()) == 3
    work.killed(work.side, work.local(), "hybrid.folder.shards", "ShardWriter._close_shard", "after", 1)
    assert len(work.shards()) == 1
    work.done(work.side, work.local())
    assert work.outputs() == whole.outputs()
    assert work.states().keys() == whole.states().keys()
    redone = [number - whole.states()[name] for name, number in work.states().items()]
    assert all(0 <= passes <= 2 for passes in redone), "a kill costs one interval at most"


@pytest.mark.parametrize("seed", SEEDS)
def test_training_goes_on_through_a_carrier_that_lies_when_its_machine_is_lost(
    base: Path, model: Path, whole: Work, failing_library: Path, seed: int
) -> None:
    """The first machine is lost while it trains, with its disk; the second is killed while it answers."""
    root = base / f"lying-{seed}"
    work = Work(root, model)
    fleet = Fleet(root, failing_library, seed, lambda name, folder: Machine(root, name, folder))
    assert fleet.laptop("laptop", "init", str(fleet.laptops["laptop"].folder)) == 0
    assert fleet.laptop("laptop", *work.run("remote")) == 0
    try:
        with fleet.at_work():
            arrived = lost_in_training(fleet, work)
            said = killed_in_answers(fleet, work, arrived)
        fleet.sync.settle()
        fleet.start("gpu-2", work.worker())
        assert fleet.ended("gpu-2", fleet.working.pop("gpu-2")) == 0, fleet.said[-20:]
        fleet.sync.settle()
        assert [fleet.laptop(name, "fetch", "seal-ttt") for name in fleet.laptops] == [0, 0]
    finally:
        print(fleet)
    for side in fleet.laptops.values():
        assert records(side.folder) == whole.records()
    assert not fleet.lost(), "acknowledged, and not whole any more"
    assert arrived
    trained = [line for line in said.splitlines() if re.search(r"training \d+ adapters", line)]
    anew = [line for line in trained if "resumed from a checkpoint" not in line]
    assert len(anew) <= len(whole.states()) - len(arrived), "trained anew, though a state had arrived"


def lost_in_training(fleet: Fleet, work: Work) -> dict[str, int]:
    """A machine trains, is stopped until a checkpoint has arrived at the laptop, and is lost.

    Returns the checkpoints.
    """
    first, laptop = fleet.gpus["gpu-1"], fleet.laptops["laptop"]
    until(lambda: is_marked(first.folder), "the mark of the folder at the first machine")
    fleet.works_until("gpu-1", work.worker(), lambda: states(first.folder), "a state in its folder")
    fleet.working["gpu-1"].send_signal(signal.SIGSTOP)
    until(lambda: states(laptop.folder), "a state at the laptop")
    fleet.laptop("laptop", "fetch", "seal-ttt")
    fleet.kill("gpu-1")
    fleet.sync.lose("gpu-1")
    arrived = states(laptop.folder)
    shutil.rmtree(first.home)
    shutil.rmtree(first.folder, ignore_errors=True)
    fleet.note(f"gpu-1 is lost; {sorted(arrived.values())} arrived")
    return arrived


def killed_in_answers(fleet: Fleet, work: Work, arrived: dict[str, int]) -> str:
    """Another machine resumes from what had arrived, meets a failing system call, and is killed. Returns its output."""
    second, kept = fleet.gpus[fleet.add_gpu()], tensors(fleet.laptops["laptop"].folder)
    until(lambda: states(second.folder).items() >= arrived.items(), "the states at the second machine")
    until(lambda: tensors(second.folder) >= kept, "the adapters there that are done, without which no state is of use")
    until(lambda: is_marked(second.folder), "the mark of the folder at the second machine")
    fleet.failing.fail("open,stat", f"{second.folder}/runs/*/answer*", "EIO", times=2)
    fleet.failing.fail("create,write", f"{second.folder}/runs/*/tensors/*", "ENOSPC", times=2)
    first_line = len(fleet.said)
    answers = "runs/*/answer/*/*/shard-*"
    fleet.works_until("gpu-2", [*work.worker(), "-v"], lambda: list(second.folder.glob(answers)), "answers there")
    fleet.kill("gpu-2")
    fleet.laptop("laptop", "fetch", "seal-ttt", killed=fleet.draw.random())
    fleet.laptop("laptop", "fetch", "seal-ttt")
    return "\n".join(fleet.said[first_line:])


def tensors(folder: Path) -> set[str]:
    """The complete tensors of training in a folder."""
    found: set[str] = set()
    for path in folder.glob("runs/*/tensors/*/*/*/part-*"):
        with suppress(OSError, HybridError):
            verify_part(path.as_posix(), path.read_bytes())
            found.add(path.relative_to(folder).as_posix())
    return found


def is_marked(folder: Path) -> bool:
    """Whether the folder has the mark of a shared folder now."""
    with suppress(HybridError):
        check_mark(Disk(folder))
        return True
    return False


def states(folder: Path) -> dict[str, int]:
    """The complete checkpoints in a folder: name -> the highest number."""
    found: dict[str, int] = {}
    for path in folder.glob("runs/*/tensors/*/*/*/part-*"):
        part = TensorName.parse(path.name)
        if part and part.number and part.of == 1:
            with suppress(OSError, HybridError):
                verify_part(path.as_posix(), path.read_bytes())
                found[path.parts[-4]] = max(part.number, found.get(path.parts[-4], 0))
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "280k") as place:
        yield place


def test_without_room_for_a_state_it_stops_with_words_and_goes_on_when_there_is(
    base: Path, model: Path, whole: Work, small_disk: Path
) -> None:
    work = Work(base / "full", model)
    (work.root / "folder").symlink_to(small_disk, target_is_directory=True)
    stopped = work.side.run(*work.local())
    assert stopped.returncode == 5, stopped.stderr
    assert "no room left" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    kept = work.states()
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    work.done(work.side, work.local())
    assert work.records() == whole.records()
    assert kept
    assert work.states() == whole.states(), "no pass was trained twice"
