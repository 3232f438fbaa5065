"""A stand-in for NVIDIA's management library, which the real package nvidia-ml-py loads and calls as on a GPU machine.

What is not seen this way is what a real driver answers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml.c")
NAME = "libnvidia-ml.so.1"


class Nvml:
    """GPUs as a file lists them; `environment` brings a process to see them."""

    def __init__(self, library: Path, path: Path) -> None:
        self._path = path
        places = filter(None, [str(library.parent), os.environ.get("LD_LIBRARY_PATH", "")])
        self.environment = {"LD_LIBRARY_PATH": os.pathsep.join(places), "HYBRID_TEST_NVML": str(path)}

    def shows(self, *gpus: tuple[str, int, int, int, int]) -> None:
        """UUID, utilization in per cent, milliwatts, bytes used and bytes of memory of each GPU; -1: not supported."""
        new = self._path.with_suffix(".new")
        new.write_text("".join(" ".join(map(str, gpu)) + "\n" for gpu in gpus))
        new.replace(self._path)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, compiled once a session."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux: apt-get install gcc")
    made = tmp_path_factory.mktemp("nvml") / NAME
    command = [compiler, "-shared", "-fPIC", "-O1", f"-Wl,-soname,{NAME}", "-o", str(made), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path) -> Nvml:
    """GPUs that a test lists with `shows`."""
    return Nvml(nvml_library, tmp_path / "gpus.txt")
