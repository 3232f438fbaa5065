"""A real OpenSSH server on a port of this machine, for one user, with keys that are made for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

import pytest

from tests.support.fleet import until
from tests.support.ports import free_port


@contextmanager
def ssh_server(root: Path, environment: Mapping[str, str]) -> Iterator[list[str]]:
    """The command `ssh HOST` that reaches it; what runs there has `environment`."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if server is None or not shutil.which("ssh"):
        pytest.skip("needs OpenSSH: apt install openssh-server openssh-client")
    root.mkdir(parents=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True, timeout=240)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port, log = free_port(), root / "log"
    pairs = " ".join(f'"{name}={value}"' for name, value in environment.items())
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {root}/host", f"AuthorizedKeysFile {root}/user.pub"]
    lines += ["StrictModes no", "UsePAM no", "PidFile none", "PasswordAuthentication no", f"SetEnv {pairs}"]
    (root / "config").write_text("\n".join(lines) + "\n")
    with log.open("wb") as stream:
        process = subprocess.Popen([server, "-D", "-e", "-f", str(root / "config")], stdout=stream, stderr=stream)
    try:
        until(lambda: b"Server listening" in log.read_bytes(), "the server")
        trust = ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={root}/known", "-o", "BatchMode=yes"]
        yield ["ssh", "-q", "-F", "none", *trust, "-i", str(root / "user"), "-p", str(port), f"{getuser()}@127.0.0.1"]
    finally:
        process.terminate()
        process.wait(240)
