"""The load of GPUs: through the real nvidia-ml-py with a stand-in driver library, or from a stand-in nvidia-smi."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid.machine.gpu_load import GpuLoad, gpu_reader
from hybrid.machine.nvidia import gpus
from hybrid.machine.process_load import process_load
from tests.support.nvidia import nvidia_smi
from tests.support.nvml import Nvml, nvml, nvml_library

__all__ = ["nvml", "nvml_library"]
GIB = 1024**3


@pytest.fixture
def driver(nvml: Nvml, nvml_library: Path, monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """This process sees the GPUs: a library of this name is not looked for again once it is loaded."""
    pytest.importorskip("pynvml")
    ctypes.CDLL(str(nvml_library))
    for name, value in nvml.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return nvml


def reader() -> Callable[[], GpuLoad]:
    found = gpu_reader()
    assert found
    return found


def test_utilization_power_and_memory_of_all_own_gpus_are_read(driver: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.shows(("GPU-a", 90, 250_500, 30 * GIB, 40 * GIB), ("GPU-b", 10, 60_000, GIB, 40 * GIB))
    read = reader()
    assert read() == GpuLoad(2, 50, 90, 310.5, 31 * 1024, 80 * 1024)
    driver.shows(("GPU-a", 0, 50_000, GIB, 40 * GIB), ("GPU-b", 2, 60_000, GIB, 40 * GIB))
    assert read() == GpuLoad(2, 1, 2, 110, 2 * 1024, 80 * 1024)
    for chosen in ("1", "GPU-b"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert reader()() == GpuLoad(1, 2, 2, 60, 1024, 40 * 1024)


def test_what_a_gpu_does_not_support_is_none_and_a_driver_that_dies_ends_nothing(
    driver: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.shows(("GPU-a", -1, -1, GIB, 40 * GIB), ("GPU-b", 40, 60_000, -1, -1))
    read = reader()
    assert read() == GpuLoad(2, 40, 40, None, None, None)
    (tmp_path / "gpus.txt").unlink()  # every call fails from now on
    assert read() == GpuLoad(2, None, None, None, None, None)


def test_without_a_driver_nvidia_smi_is_asked_and_one_line_says_why(
    driver: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="hybrid")
    row = "Tesla T4, 10, 15360, 3, 580.82.07, 7.5, GPU-{}, {}"
    place = nvidia_smi(tmp_path / "bin", row.format("a", 35.5), row.format("b", "[N/A]"))
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    assert [gpu.power for gpu in gpus()] == [35.5, None]
    assert reader()() == GpuLoad(2, 3, 3, None, 20, 2 * 15360)
    (line,) = caplog.messages
    assert line == "the load of the GPU is read from nvidia-smi: NVML cannot be read: Driver Not Loaded"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert reader()() == GpuLoad(1, 3, 3, 35.5, 10, 15360)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert reader()() == GpuLoad(1, 3, 3, 35.5, 10, 15360)
    assert "the library nvidia-ml-py is not installed" in caplog.messages[-1]


def test_a_machine_without_a_gpu_is_not_read_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="hybrid")
    monkeypatch.setenv("PATH", str(nvidia_smi(tmp_path / "bin")))
    monkeypatch.delenv("HYBRID_TEST_NVML", raising=False)
    assert gpu_reader() is None
    assert caplog.messages == []


def test_the_load_of_this_process_grows_with_what_it_does_and_counts_its_children() -> None:
    import subprocess

    before = process_load()
    held = bytearray(64 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        after = process_load()
        child.communicate(b"\n")
    assert after.cpu_seconds - before.cpu_seconds >= 0.3
    if before.memory is not None and after.memory is not None:
        assert after.memory - before.memory > 60 * 2**20
        assert process_load().cpu_seconds >= after.cpu_seconds  # the child has ended, and counts still


def test_where_there_is_no_proc_the_process_alone_is_measured(tmp_path: Path) -> None:
    found = process_load(tmp_path)
    assert found.cpu_seconds > 0
    assert found.memory is None
