"""Runs code in fresh processes with different hash seeds: its result must not depend on the order of sets of texts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def printed_by_hash_seed(code: str, *seeds: str) -> set[str]:
    """What `code` prints in a process for each PYTHONHASHSEED of `seeds`: one text when it does not depend on it."""
    return {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in seeds
    }
