"""A real Slurm of one node on this machine: its controller and its node daemon, without root's files or services."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

import pytest

from tests.support.fleet import until
from tests.support.ports import free_port

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def daemon(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"needs Slurm, which is not installed: {name}")
    return found


@contextmanager
def slurm(root: Path) -> Iterator[dict[str, str]]:
    """The environment in which `sbatch` and `scontrol` reach the cluster."""
    programs = [daemon("slurmctld"), daemon("slurmd")]
    host = os.uname().nodename.split(".")[0]
    for name in ("state", "spool"):
        (root / name).mkdir(parents=True)
    values = {"host": host, "user": getuser(), "root": root, "controller": free_port(), "node": free_port()}
    (root / "slurm.conf").write_text(CONFIGURATION.format(**values))
    environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}
    running = []
    try:
        for program in programs:
            with (root / f"{Path(program).name}.log").open("wb") as log:
                command = [program, "-D", "-f", environment["SLURM_CONF"]]
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=root))
        until(lambda: "idle" in told(["sinfo", "-h", "-o", "%T"], environment), "the node")
        yield environment
    finally:
        for process in running:
            process.terminate()
            process.wait(240)


def told(command: list[str], environment: dict[str, str]) -> str:
    """What a command of Slurm prints; nothing when it fails."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False).stdout
