"""The doctor knows the models in a folder: good ones are good, and what is missing or damaged is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.doctor.findings import Finding
from hybrid.doctor.walk import FolderWalk
from hybrid.folder.medium import Disk
from hybrid.machine.clock import SystemClock
from tests.support.packed_models import files_of, large_parts, packed


def findings_and_good(folder: Disk) -> tuple[list[Finding], int]:
    walk = FolderWalk(folder, SystemClock())
    return list(walk.findings()), walk.good


def test_a_packed_model_is_good(tmp_path: Path) -> None:
    folder, _, _ = packed(tmp_path)
    assert findings_and_good(folder) == ([], len(files_of(folder.root)))


@pytest.mark.parametrize(
    ("how", "kind"), [("missing", "not-here-yet"), ("copy", "conflict-copy"), ("torn", "torn"), ("file", "blocked")]
)
def test_what_is_odd_about_a_model_is_told(tmp_path: Path, how: str, kind: str) -> None:
    folder, _, model = packed(tmp_path)
    part, manifest = folder.root / large_parts(model)[1], folder.root / model.path
    if how == "missing":
        part.unlink()
    elif how == "copy":
        part.with_name(f"{part.stem} (1).bin").write_bytes(part.read_bytes())
    elif how == "torn":
        manifest.write_bytes(manifest.read_bytes()[:50])
    else:
        (folder.root / "models" / "layers" / "00").write_bytes(b"x")
    findings, _ = findings_and_good(folder)
    assert [finding.kind for finding in findings] == [kind]
