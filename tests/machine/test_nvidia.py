"""What nvidia-smi says of the GPUs, and what keeps programs built for CUDA from using one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybrid.machine.nvidia import Gpu, gpus, hidden
from tests.support.nvidia import nvidia_smi


def listed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Gpu]:
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return gpus()


def test_every_gpu_is_listed_and_what_is_not_known_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ("Tesla T4, 10, 15360, 3, 580.82.07, 7.5", "NVIDIA H200, [N/A], [N/A], [N/A], 580.82.07, 9.0")
    found = listed(monkeypatch, nvidia_smi(tmp_path, *rows))
    assert found == [
        Gpu("Tesla T4", 10, 15360, 3, "580.82.07", (7, 5)),
        Gpu("NVIDIA H200", None, None, None, "580.82.07", (9, 0)),
    ]
    assert str(found[0]) == "Tesla T4 (driver 580.82.07, compute capability 7.5)"


def test_an_old_nvidia_smi_without_capabilities_is_asked_again_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = "Tesla K80, 0, 11441, 0, 418.67"
    assert listed(monkeypatch, nvidia_smi(tmp_path, row, knows_capability=False)) == [
        Gpu("Tesla K80", 0, 11441, 0, "418.67")
    ]


def test_a_machine_whose_nvidia_smi_fails_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert listed(monkeypatch, nvidia_smi(tmp_path)) == []


@pytest.mark.parametrize(
    ("driver", "cuda", "old"),
    [("580.82.07", "13.0", False), ("575.1", "13.0", True), ("575.1", "12.8", False), ("", "13.0", False)],
)
def test_a_driver_is_too_old_by_the_version_of_cuda_that_a_program_was_built_for(
    driver: str, cuda: str, *, old: bool
) -> None:
    assert Gpu("T4", driver=driver).driver_too_old(cuda) is old


def test_gpus_older_than_a_t4_are_too_old() -> None:
    assert [Gpu("", capability=one).too_old() for one in ((6, 0), (7, 0), (7, 5), (12, 0), None)] == [
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(("value", "is_hidden"), [("", True), ("-1", True), ("0", False), (None, False)])
def test_gpus_are_hidden_by_an_empty_list_of_devices(
    monkeypatch: pytest.MonkeyPatch, value: str | None, *, is_hidden: bool
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert hidden() is is_hidden
