"""Flower in an environment of its own, since its simulation pins another Ray than the tests.

`installed()` makes the environment, which sees torch, transformers and PEFT of the running one; `measured` runs
`federated_flower` there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VERSION = "1.42.0"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}


@contextmanager
def installed() -> Iterator[Path]:
    """The Python of a new environment with Flower, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True, symlinks=True)
        python = Path(folder, "bin/python")
        command = [str(python), "-m", "pip", "install", "-q", f"flwr[simulation]=={VERSION}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        site = next(Path(folder).glob("lib/python3*/site-packages"))
        Path(site, "running.pth").write_text(sysconfig.get_paths()["purelib"])  # behind the environment's own packages
        yield python


def measured(python: Path, model: str, rounds: int, *, keep: bool) -> dict[str, Any]:
    """The figures of the simulation, in processes of its own. Of Flower's long output the last line is read."""
    source = f"from peers.federated_flower import main; main({model!r}, {rounds}, keep={keep})"
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, **QUIET, "HOME": home, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [python, "-c", source], env=environment, cwd=home, check=True, text=True, stdout=subprocess.PIPE
        )
    found: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return found
