"""`hybrid worker --ray` on a real Ray of two nodes on this machine, each of which claims to have a GPU."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import BadData, CannotRun, Missed, NotFinished, Temporary, UsageError
from hybrid.worker import ray_cluster
from hybrid.worker.ray_actor import RayWorker
from hybrid.worker.ray_cluster import Member
from tests.support.fleet import until
from tests.support.in_process import Hybrid
from tests.support.ports import free_port
from tests.support.real_machines import ITEMS, Machine, Machines

PATIENCE = 240
SWITCHES = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
SEES_A_LOST_NODE_SOON = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}


@contextmanager
def started(machine: Machine, name: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node of a Ray cluster on this machine, with the environment of `machine`."""
    log = machine.root / f"{name}.log"
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--node-ip-address=127.0.0.1"]
    resources = ["--num-gpus=1", "--num-cpus=1", "--object-store-memory=100000000", "--include-log-monitor=false"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, *resources, *options], env=machine.environment | SWITCHES | SEES_A_LOST_NODE_SOON,
            cwd=machine.root, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def cluster_of_two(machine: Machine) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a cluster, and its node that is not the head."""
    if find_spec("ray") is None:
        pytest.skip("needs ray, which is not installed")
    sockets = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: it holds the paths of sockets
    port = free_port()
    address = f"127.0.0.1:{port}"
    head = ["--head", f"--port={port}", "--include-dashboard=false", "--no-monitor", f"--temp-dir={sockets}"]
    head.append(f"--ray-client-server-port={free_port()}")
    try:
        with started(machine, "head", *head):
            until(lambda: listens(port), "the head", PATIENCE)
            with started(machine, "node", f"--address={address}") as node:
                logs = [machine.root / "head.log", machine.root / "node.log"]
                until(lambda: all(b"Ray runtime started" in log.read_bytes() for log in logs), "Ray", PATIENCE)
                yield address, node
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def workers(folder: Path) -> dict[int, int]:
    """Process id of each worker on `folder` that an actor has started -> that of the actor."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"worker" in words and str(folder).encode() in words and not any(b"guard.py" in one for one in words):
                guard = parent(int(entry.name))
                if b"guard.py" in Path(f"/proc/{guard}/cmdline").read_bytes():
                    found[int(entry.name)] = parent(guard)
    return found


def beating(machines: Machines) -> list[Path]:
    """A folder of heartbeats for each worker that has begun to work."""
    return list(machines.folder.glob("runs/*/beats/*"))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def last_of(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate(timeout=PATIENCE)[1].splitlines()


@pytest.mark.slow
def test_a_worker_on_every_gpu_of_a_cluster(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    run = machines.submit()
    machine = machines.side("cluster")
    machine.environment |= SWITCHES
    with cluster_of_two(machine) as (address, node):
        _one_ctrl_c_stops_all(machines, machine, address)
        machine.environment["RAY_ADDRESS"] = address
        _the_worker_of_a_lost_node_is_started_elsewhere(machines, machine, node, run)


def _one_ctrl_c_stops_all(machines: Machines, machine: Machine, address: str) -> None:
    machine.holds_after(2)
    process = machine.start(*machine.worker(f"--ray={address}", "--workers=2", delay_ms=100, shard_seconds=0.5))
    until(lambda: len(workers(machines.folder)) == 2 and len(machine.calls()) == 6, "two workers", PATIENCE)
    process.send_signal(signal.SIGINT)
    said = last_of(process)
    assert process.returncode == 4, said
    assert any("stopping every worker in order" in line for line in said)
    assert re.search(r"ray-1 on \S+: 4, ray-2 on \S+: 4$", said[-2])
    assert workers(machines.folder) == {}


def _the_worker_of_a_lost_node_is_started_elsewhere(
    machines: Machines, machine: Machine, node: subprocess.Popen[bytes], run: str
) -> None:
    """Where both nodes had one GPU, it is started when the other worker has ended."""
    before = len(beating(machines))
    process = machine.start(*machine.worker("--ray=auto", delay_ms=100, shard_seconds=0.5))
    until(lambda: len(beating(machines)) == before + 2, "two workers at work", PATIENCE)
    os.killpg(node.pid, signal.SIGKILL)
    machine.goes_on()
    said = last_of(process)
    assert process.returncode == 0, said
    assert "2 workers on the Ray cluster at auto" in said
    begun = [line.split(": worker ") for line in said if ": worker 20" in line]
    assert sorted({name.split(" on ")[0] for name, _ in begun}) == ["ray-1", "ray-2"]
    assert len(begun) == 3, said
    assert sum("Ray has started it again, on " in line for line in said) == 1
    assert sum("ended with exit code 0" in line for line in said) == 2
    assert any(f"{run}: done" in line for line in said)
    known = {path.name for path in beating(machines)}
    assert [attempt for _, attempt in begun[:2] if attempt.split()[0] not in known] == []  # the third finds all done
    assert machines.fetch().returncode == 0
    assert len(machines.texts()) == ITEMS


def test_a_node_that_does_not_see_the_folder_is_refused(tmp_path: Path) -> None:
    found = RayWorker(str(tmp_path), [], None).look()
    assert "is not a folder of hybrid" in str(found["error"])
    with pytest.raises(CannotRun, match=f"ray-1, on the node {found['host']}, does not see the folder") as refused:
        ray_cluster._refuse_other_folder("ray-1", found, {"seal-eval-1": "aa"})
    assert "at the same path on every node" in refused.value.hint


def test_a_node_with_another_folder_at_the_path_is_refused() -> None:
    found = {"host": "gpu-7", "devices": "0", "runs": {"seal-eval-1": "aa"}}
    ray_cluster._refuse_other_folder("ray-1", found, {"seal-eval-1": "aa"})
    for runs in ({"seal-eval-1": "bb"}, {"seal-eval-2": "aa"}):
        with pytest.raises(CannotRun, match="gpu-7, sees another folder"):
            ray_cluster._refuse_other_folder("ray-1", found, runs)


@pytest.mark.parametrize(
    ("codes", "kind"),
    [((3, 0), Missed), ((4, 3), Missed), ((4, 0), NotFinished), ((6, 7), BadData), ((-9, 0), CannotRun)],
)
def test_the_worst_exit_code_of_the_workers_is_that_of_the_command(codes: tuple[int, ...], kind: type) -> None:
    members = [Member(f"ray-{number}", None, code) for number, code in enumerate(codes)]
    with pytest.raises(kind, match=f"ray-0: {codes[0]}, ray-1: {codes[1]}"):
        ray_cluster._raise_worst(members)


def test_workers_that_all_ended_with_0_are_no_error() -> None:
    ray_cluster._raise_worst([Member("ray-1", None, 0)])


def test_wrong_options_of_a_cluster_are_told(hybrid: Hybrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    assert hybrid("init", folder).code == 0
    assert (done := hybrid("worker", folder, "--workers=2")).code == UsageError.exit_code
    assert "--ray" in done.stderr
    assert (done := hybrid("worker", folder, "--ray=ray://head:10001")).code == UsageError.exit_code
    assert "ray job submit" in done.stderr
    nobody = f"127.0.0.1:{free_port()}"
    assert (done := hybrid("worker", folder, f"--ray={nobody}")).code == Temporary.exit_code
    assert f"no Ray cluster is found at {nobody}" in done.stderr
    monkeypatch.setitem(sys.modules, "ray", None)
    assert (done := hybrid("worker", folder, "--ray=auto")).code == CannotRun.exit_code
    assert ".[ray]" in done.stderr


def test_the_options_of_the_command_reach_the_workers(hybrid: Hybrid, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "folder"
    assert hybrid("init", folder).code == 0
    seen: list[ray_cluster.Cluster] = []
    monkeypatch.setattr("hybrid.commands.cluster.work_on_cluster", lambda cluster, runs, say: seen.append(cluster))
    options = ["--side=gpu", "--once", "--max-idle=90.0", "--model=a=/x", "--model=b=/y", "--beat=5.0"]
    assert hybrid("worker", folder, "--ray=auto", "--workers=3", "--until=1h", *options).code == 0
    assert sorted(seen[0].arguments) == sorted(options)
    assert seen[0].deadline is not None
    assert (seen[0].folder, seen[0].workers, seen[0].address) == (folder, 3, "auto")
