"""`hybrid worker --gpus`: real processes on a machine whose nvidia-smi is a stand-in that lists two T4s."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid.errors import CannotRun, HybridError, UsageError
from hybrid.machine import nvidia
from hybrid.worker.group import Group, Member, chosen_devices, worst
from tests.support.nvidia import nvidia_smi
from tests.support.processes import children, is_alive
from tests.support.real_machines import ITEMS, Machine, Machines

PATIENCE = 240.0
"""Seconds to wait for what workers do, which other tests slow down."""
T4 = "Tesla T4, 10, 15360, 3, 580.82.07, 7.5, GPU-{}"


def until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def t4s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has three T4s."""
    place = nvidia_smi(tmp_path / "bin", *(T4.format(name) for name in "abc"))
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("t4s")
def test_the_gpus_that_are_asked_for_are_given_one_by_one_or_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_devices("all") == ["0", "1", "2"]
    assert chosen_devices("2,0") == ["2", "0"]
    assert chosen_devices("all", 2) == ["0,1"]
    assert chosen_devices("all", 3) == ["0,1,2"]
    for asked in ("3", "0,0", "x", "0,", "-1"):
        with pytest.raises(UsageError, match="is not one of 0, 1, 2"):
            chosen_devices(asked)
    with pytest.raises(UsageError, match="asks for 4 a worker"):
        chosen_devices("all", 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-c")  # a scheduler gave us these
    assert chosen_devices("all") == ["1", "GPU-c"]
    with pytest.raises(UsageError, match="'0' is not one of 1, GPU-c"):
        chosen_devices("0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(CannotRun, match="CUDA_VISIBLE_DEVICES hides them"):
        chosen_devices("all")


@pytest.mark.usefixtures("t4s")
@pytest.mark.parametrize(("chosen", "own"), [(None, "GPU-a"), ("2", "GPU-c"), ("GPU-b", "GPU-b"), ("9", None)])
def test_a_process_knows_its_own_gpu(monkeypatch: pytest.MonkeyPatch, chosen: str | None, own: str | None) -> None:
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    found = nvidia.own_gpu()
    assert (found and found.uuid) == own


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([0, 0], 0),
        ([4, 0], 0),  # the later one saw the run done
        ([0, 4], 4),
        ([4, 3], 3),
        ([7, 0], 7),
        ([5, 7, 1], 1),
        ([2, 6], 6),
        ([-9, 0], 5),
    ],
)
def test_the_worst_exit_code_counts(codes: list[int], code: int) -> None:
    error = worst([(f"GPU {number}", one) for number, one in enumerate(codes)])
    assert (error.exit_code if error else 0) == code


def group(said: list[str], *programs: str) -> Group:
    """A group whose n-th start runs the n-th program."""
    left = iter(programs)
    members = [Member(str(number)) for number in range(2)]
    return Group(members, lambda: [sys.executable, "-c", next(left)], said.append, pause_s=0.01)


DIES = "import os; os.kill(os.getpid(), 9)"
TELLS = "import os; print('half of it', flush=True); import sys; sys.stderr.write(os.environ['CUDA_VISIBLE_DEVICES'])"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_crashed_worker_is_started_again_and_named() -> None:
    said: list[str] = []
    group(said, DIES, TELLS, TELLS).run()
    assert sum("the worker was ended by SIGKILL; it is started again" in one for one in said) == 1
    assert {"GPU 0: 0", "GPU 1: 1"} <= set(said)
    assert sum(one.endswith("the worker ended with exit code 0") for one in said) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_worker_that_always_crashes_is_given_up() -> None:
    said: list[str] = []
    with pytest.raises(HybridError, match=r"GPU . was ended by SIGKILL, GPU . was ended by SIGKILL") as caught:
        group(said, *[DIES] * 8).run()
    assert caught.value.exit_code == 5
    assert sum("started again" in one for one in said) == 6


class TwoGpus:
    """A machine with two T4s, and the run that it works on."""

    def __init__(self, root: Path) -> None:
        self.machines = Machines(root)
        self.machines.submit()
        self.gpu: Machine = self.machines.side("gpu")
        place = nvidia_smi(root / "bin", *(T4.format(name) for name in "ab"))
        self.gpu.environment["PATH"] = f"{place}{os.pathsep}{os.environ['PATH']}"
        self.gpu.environment.pop("CUDA_VISIBLE_DEVICES", None)

    def start(self) -> subprocess.Popen[str]:
        return self.gpu.start(*self.gpu.worker("--gpus=all", delay_ms=100))

    def at_work(self) -> int:
        """How many workers have begun."""
        return len(list(self.machines.folder.glob("runs/*/beats/*")))


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The workers that a process has started."""
    return children(process.pid, b"--member")


@pytest.mark.slow
def test_two_gpus_share_a_run_and_one_of_them_is_killed(tmp_path: Path) -> None:
    host = TwoGpus(tmp_path)
    host.gpu.holds_after(3)
    process = host.start()
    until(lambda: len(host.gpu.calls()) == 8, "both models work")
    os.kill(workers(process)[0], signal.SIGKILL)
    host.gpu.goes_on()
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, said
    assert re.search(r"GPU [01]: the worker was ended by SIGKILL; it is started again in 2 s", said)
    assert all(re.search(rf"^GPU {number}: worker \S+ on ", said, re.MULTILINE) for number in (0, 1))
    assert len(set(host.gpu.calls())) == ITEMS
    assert host.machines.fetch().returncode == 0
    assert set(host.machines.texts()) == set(host.gpu.calls())


@pytest.mark.slow
def test_one_signal_stops_all_workers_cleanly(tmp_path: Path) -> None:
    host = TwoGpus(tmp_path)
    host.gpu.holds_after(2)
    process = host.start()
    until(lambda: len(host.gpu.calls()) == 6 and host.at_work() == 2, "both models work")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 4, said
    assert "error: the workers: GPU " in said
    assert said.count("the worker ended with exit code 4") == 2
    host.machines.fetch()
    answered = [one for one in host.machines.texts().values() if one is not None]
    assert len(answered) == 4, "each one's open shard is in the folder"


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    host = TwoGpus(tmp_path)
    host.gpu.holds_after(1)
    process = host.start()
    until(lambda: len(host.gpu.calls()) == 4, "both models work")
    left = workers(process)
    assert len(left) == 2
    process.kill()
    process.communicate()
    until(lambda: not any(map(is_alive, left)), "they end")
