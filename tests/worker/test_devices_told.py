"""A GPU that cannot be used ends a command with exit code 7 and the remedy; a model on the CPU is said in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch, which is not installed")

import torch

from hybrid.backends import devices
from hybrid.worker.capability import silent_cpu
from tests.support.in_process import Done, Hybrid
from tests.support.nvidia import nvidia_smi
from tests.support.real_machines import task

NO_GPU = pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine whose torch sees no GPU")
OLD_DRIVER = "Tesla T4, 0, 15360, 0, 535.1, 7.5"

Listed = Callable[..., None]


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listed:
    """A function that makes this machine's nvidia-smi list GPUs; none at first."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def listed(*rows: str) -> None:
        monkeypatch.setenv("PATH", f"{nvidia_smi(tmp_path / 'bin', *rows)}{os.pathsep}{os.environ['PATH']}")

    listed()
    return listed


@pytest.fixture(params=["run local", "worker"])
def command(
    request: pytest.FixtureRequest, hybrid: Hybrid, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Done]:
    """A command that opens a model of `transformers` for two items."""
    for name in ("home", "folder"):
        monkeypatch.setenv(f"HYBRID_{name.upper()}", str(tmp_path / name))
    (tmp_path / "data.json").write_text(json.dumps({"00000001": task(1)}))
    few = [f"--set=challenges={tmp_path / 'data.json'}", "--set=views=transpose", "--set=permute_n=0"]
    model = ["--backend=transformers", f"--model={tiny_llama}"]
    if request.param == "run local":
        return lambda: hybrid("run", "local", "seal-eval", *few, *model)
    assert hybrid("init", tmp_path / "folder").code == 0
    assert hybrid("run", "remote", "seal-eval", *few, "--backend=transformers", "--model=tiny").code == 0
    place = [f"--model=tiny={tiny_llama}", "--run=seal-eval", "--side=gpu", "--linger=0", "--once"]
    return lambda: hybrid("worker", *place)


@NO_GPU
def test_an_old_driver_ends_a_command_with_the_remedy(
    listed: Listed, command: Callable[[], Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(OLD_DRIVER)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    done = command()
    assert done.code == 7, done.stderr
    assert (
        "torch cannot use the GPU Tesla T4 (driver 535.1, compute capability 7.5): torch for CUDA 13.0" in done.stderr
    )
    assert "hint: update the driver, or install torch for an earlier CUDA; on the CPU instead: " in done.stderr


@pytest.mark.parametrize("gpu", [("Tesla P100-PCIE-16GB", (6, 0)), ("Tesla V100-SXM2-16GB", (7, 0))])
def test_a_gpu_without_code_ends_a_command_with_the_remedy(
    command: Callable[[], Done], monkeypatch: pytest.MonkeyPatch, gpu: tuple[str, tuple[int, int]]
) -> None:
    """Torch sees such a GPU, and fails at the first kernel."""
    name, capability = gpu
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])
    monkeypatch.setattr(devices, "capability", lambda: capability)
    done = command()
    assert done.code == 7, done.stderr
    assert f"has no code for the GPU {name} (compute capability {capability[0]}.0)" in done.stderr
    assert "hint: rent a T4 or newer (Kaggle: GPU T4 x2)" in done.stderr


@NO_GPU
@pytest.mark.slow
def test_the_device_is_told_and_a_gpu_worker_on_the_cpu_says_why(listed: Listed, command: Callable[[], Done]) -> None:
    done = command()
    assert done.code in (0, 3), done.stderr
    assert "is loaded on cpu" in done.stderr
    if "worker" in done.stderr:
        why = "on the CPU, though this worker is for the GPU side: nvidia-smi lists no GPU here"
        assert f"the model tiny computes {why}" in done.stderr


def test_why_a_gpu_worker_computes_on_the_cpu(listed: Listed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        silent_cpu("cpu", ["gpu", "laptop"]) == silent_cpu("cpu", ["laptop"]) == silent_cpu("Tesla T4", ["gpu"]) == ""
    )
    assert silent_cpu("cpu", ["gpu"]).endswith("nvidia-smi lists no GPU here")
    listed("Tesla T4, 0, 15360, 0, 580.1, 7.5")
    assert "the backend does not use the GPU Tesla T4 (driver 580.1" in silent_cpu("cpu", ["gpu"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides the GPU Tesla T4" in silent_cpu("cpu", ["gpu"])
