"""Whether a machine may have a GPU, by its device files: where it is not known, it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.machine import lean_transformers


@pytest.mark.parametrize(("name", "may"), [("nvidia0", True), ("dxg", True), ("null", False)])
def test_a_machine_has_no_gpu_where_no_device_file_is_that_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, may: bool
) -> None:
    (tmp_path / name).touch()
    monkeypatch.setattr(lean_transformers, "DEVICES", tmp_path)
    assert lean_transformers.may_have_gpu() == may


def test_a_machine_without_device_files_may_have_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_transformers, "DEVICES", tmp_path / "none")
    assert lean_transformers.may_have_gpu()
