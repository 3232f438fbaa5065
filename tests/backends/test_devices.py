"""A GPU that torch cannot use is an error before anything is computed; nothing falls back to the CPU silently."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch, which is not installed")

import torch

from hybrid.backends import devices
from hybrid.errors import CannotRun
from tests.support.nvidia import nvidia_smi

NO_GPU = pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine whose torch sees no GPU")


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make this machine's nvidia-smi list a GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def listed(row: str) -> None:
        monkeypatch.setenv("PATH", f"{nvidia_smi(tmp_path, row)}{os.pathsep}{os.environ['PATH']}")

    return listed


@NO_GPU
@pytest.mark.parametrize(
    ("driver", "cuda", "why"),
    [
        ("535.1", "13.0", "torch for CUDA 13.0 needs driver 580 or newer"),
        ("580.1", "13.0", "torch finds no CUDA device"),
        ("580.1", None, "was built without CUDA"),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_no_silent_run_on_the_cpu(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, driver: str, cuda: str | None, why: str
) -> None:
    gpu(f"Tesla T4, 0, 15360, 0, {driver}, 7.5")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(CannotRun, match=f"cannot use the GPU Tesla T4 .*{why}") as caught:
        devices.find_device()
    assert "CUDA_VISIBLE_DEVICES=" in caught.value.hint
    assert devices.find_device("cpu").kind == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.find_device().kind == "cpu"


@pytest.mark.parametrize(
    ("own", "built", "runs"),
    [
        ((7, 5), ["sm_75", "sm_80"], True),
        ((6, 0), ["sm_75", "sm_80"], False),
        ((8, 9), ["sm_75", "sm_86"], True),
        ((10, 3), ["sm_90", "sm_90a"], False),
        ((10, 3), ["sm_90", "compute_90"], True),
    ],
)
def test_code_for_one_gpu_runs_on_later_ones_of_its_major_version_and_ptx_on_all_later_ones(
    monkeypatch: pytest.MonkeyPatch, own: tuple[int, int], built: list[str], *, runs: bool
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: the launch timed out\nmore lines")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "the GPU")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(devices, "capability", lambda: own)
    monkeypatch.setattr(torch, "ones", broken)
    with pytest.raises(CannotRun) as caught:
        devices.try_kernel()
    assert caught.value.message.endswith(
        "the launch timed out" if runs else "({}.{})".format(*own).replace("(", "(compute capability ")
    )
