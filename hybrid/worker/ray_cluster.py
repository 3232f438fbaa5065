"""`hybrid worker --ray`: one worker a GPU of a Ray cluster. Ray places the actors and starts again those that died."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.errors import BadData, CannotRun, HybridError, Missed, NotFinished, Temporary, UsageError
from hybrid.machine import home
from hybrid.machine.late_imports import import_object
from hybrid.machine.signals import interrupt_on_termination, noted_signals
from hybrid.machine.terminal import clean_line, count_of
from hybrid.worker.ray_actor import RayWorker

WAIT_SECONDS = 1.0
PATIENCE_SECONDS = 20.0
"""Seconds after which it is said that Ray has not placed all workers yet."""
LONGEST = 1000
CONNECT_SECONDS = 10.0
START = "start one on this machine: ray start --head; on each other one: ray start --address=HEAD:6379"
SEVERITY = (HybridError, BadData, CannotRun, UsageError, Temporary, Missed, NotFinished)
"""The error of several workers is that of the first kind here that one of them ended with."""

Runs = Mapping[str, str]
"""Run -> the sha256 of its run.json."""


@dataclass(slots=True)
class Member:
    """A worker of the cluster, as the driver knows it."""

    name: str
    actor: Any
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What to start: `workers` of them (None: one a GPU), each `hybrid worker FOLDER *arguments`."""

    address: str
    workers: int | None
    folder: Path
    arguments: Sequence[str]
    deadline: float | None = None


def work_on_cluster(cluster: Cluster, runs: Runs, say: Callable[[str], None]) -> None:
    """Run workers on the cluster until all have ended. `runs` is what this machine sees in the folder.

    Ctrl-C, SIGTERM and SIGHUP stop all workers in order, a second signal at once. Raises CannotRun when a node does not
    see the folder, Temporary when there is no cluster, and the error of the workers that did not end with 0.
    """
    ray = connected(cluster.address)
    try:
        interrupt_on_termination(signal.SIGINT)  # ray.init has set a handler of its own
        with noted_signals() as stopped:
            members = _members(ray, cluster)
            say(f"{count_of(len(members), 'worker')} on the Ray cluster at {cluster.address}")
            if _placed(ray, members, runs, stopped, say):
                _watch(ray, members, stopped, say)
        _raise_worst(members)
    finally:
        ray.shutdown()


def connected(address: str) -> Any:
    """The library Ray, connected to the cluster. Raises CannotRun, Temporary."""
    if address.startswith("ray://"):
        raise UsageError(
            "Ray's client (ray://) is not supported",
            hint="on a machine of the cluster: hybrid worker --ray auto; from elsewhere: ray job submit",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _refuse_nobody(address)
    ray = import_object("ray", needed_for="hybrid worker --ray")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except ConnectionError as error:
        raise Temporary(
            f"no Ray cluster is found at {address}: {clean_line(str(error), LONGEST)}", hint=START
        ) from error
    except Exception as error:
        raise CannotRun(f"Ray does not connect to {address}: {clean_line(str(error), LONGEST)}") from error
    return ray


def _refuse_nobody(address: str) -> None:
    """Raise Temporary when nothing listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise Temporary(f"no Ray cluster is found at {address}: {error}", hint=START) from error


def _members(ray: Any, cluster: Cluster) -> list[Member]:
    """The actors, which Ray places and starts in the background."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    number = gpus if cluster.workers is None else cluster.workers
    if not number:
        raise UsageError(f"the Ray cluster at {cluster.address} has no GPU", hint="without GPUs: --workers N")
    needs = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    made = ray.remote(**needs, max_restarts=-1, max_task_retries=-1, max_concurrency=4)(RayWorker)
    about = (home.shown(cluster.folder), list(cluster.arguments), cluster.deadline)
    return [Member(f"ray-{one}", made.remote(*about)) for one in range(1, number + 1)]


def _placed(
    ray: Any, members: list[Member], runs: Runs, stopped: Callable[[], bool], say: Callable[[str], None]
) -> bool:
    """Wait until each worker has a node that sees the folder. False when it was stopped before. Raises CannotRun."""
    looks = {member.actor.look.remote(): member for member in members}
    began, told = time.monotonic(), False
    while looks:
        if stopped():
            raise NotFinished("stopped before anything was begun", hint="the same command starts it again")
        ready, _ = ray.wait(list(looks), timeout=WAIT_SECONDS)
        for one in ready:
            member = looks.pop(one)
            found = _result(ray, one, member)
            _refuse_other_folder(member.name, found, runs)
            devices = f", GPU {found['devices']}" if found["devices"] else ""
            member.name = f"{member.name} on {clean_line(str(found['host']), 100)}"
            say(f"{member.name}{devices}: sees the folder")
        if not told and time.monotonic() - began > PATIENCE_SECONDS:
            told = True
            say(f"Ray has not placed {count_of(len(looks), 'worker')} yet: others hold the GPUs, or there are too few")
    return True


def _refuse_other_folder(name: str, found: Mapping[str, Any], runs: Runs) -> None:
    """Raise CannotRun unless a node sees the folder and each run as this machine does."""
    place = f"{name}, on the node {clean_line(str(found['host']), 100)}, "
    hint = "mount the shared folder at the same path on every node, or start `hybrid worker` by hand where it is seen"
    if "error" in found:
        raise CannotRun(f"{place}does not see the folder: {found['error']}", hint=hint)
    if other := [run for run, sha256 in runs.items() if found["runs"].get(run) != sha256]:
        raise CannotRun(f"{place}sees another folder at that path: it lacks the run {other[0]}", hint=hint)


def _watch(ray: Any, members: list[Member], stopped: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Print what the workers print, until all have ended; a signal stops them in order.

    The actor of a worker that has ended is released at once: one whose node was lost may need its GPU.
    """
    works = {member.actor.work.remote(): member for member in members}
    reads = {member.actor.lines.remote(): member for member in members}
    stopping = False
    while works or reads:
        if stopped() and not stopping:
            stopping = True
            say("stopping every worker in order; once more stops at once")
            for member in works.values():
                member.actor.stop.remote()
        ready, _ = ray.wait([*works, *reads], timeout=WAIT_SECONDS)
        for one in ready:
            if one in works:
                member = works.pop(one)
                member.code = int(_result(ray, one, member))
                continue
            member = reads.pop(one)
            _tell(member, _result(ray, one, member), say)
            if member.code is None:
                reads[member.actor.lines.remote()] = member
                continue
            _tell(member, _result(ray, member.actor.lines.remote(), member), say)
            say(f"{member.name}: ended with exit code {member.code}")
            ray.kill(member.actor)


def _tell(member: Member, lines: Sequence[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(f"{member.name}: {line}")


def _result(ray: Any, one: Any, member: Member) -> Any:
    """What a call of an actor returned. Raises CannotRun when Ray cannot run it."""
    try:
        return ray.get(one)
    except ray.exceptions.RayError as error:
        last = (str(error).strip().splitlines() or [""])[-1]
        raise CannotRun(
            f"Ray cannot run {member.name}: {clean_line(last, LONGEST)}",
            hint="each node needs this hybrid in the Python that `ray start` was called with",
        ) from error


def _raise_worst(members: Sequence[Member]) -> None:
    """Raise the error of the worst exit code of the workers; return when all ended with 0."""
    codes = {member.name: member.code for member in members}
    if not any(codes.values()):
        return
    kinds = {kind.exit_code: kind for kind in SEVERITY}
    worst = min((kinds.get(code or 0, CannotRun) for code in codes.values() if code), key=SEVERITY.index)
    words = ", ".join(f"{name}: {code}" for name, code in codes.items())
    raise worst(f"exit codes of the workers: {words}", hint="their lines above say why; `hybrid status` tells more")
