"""The spool: what was written while the folder went away is not taken for carried."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.errors import Temporary
from hybrid.folder.medium import Disk
from hybrid.folder.notes import pack_note
from hybrid.folder.runs import join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.folder.spool import Spool
from hybrid.protocols import Inputs
from tests.support.manual_clock import ManualClock


class Dying(Disk):
    """A folder whose mount dies between the look at its mark and a write, and leaves a plain folder."""

    away: Path

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        if not self.away.exists():
            self.root.rename(self.away)
            self.root.mkdir()
        super().write(path, data, heal=heal)


def test_a_note_that_went_into_the_plain_folder_of_a_dead_mount_is_carried_again(tmp_path: Path) -> None:
    root, folder = tmp_path / "folder", Dying(tmp_path / "folder")
    folder.away = tmp_path / "away"
    run = submit(join_folder(root, make=True), "any", {}, Inputs({}, {}, {}), {"": ModelSpec("scripted", "x", "")})
    spool = Spool(Disk(tmp_path / "spool"), ManualClock())
    notes = [pack_note(run.id, "log", "20260101t000000z-00000001", number, {"lines": []}) for number in range(3)]
    for note in notes:
        spool.write(*note)
    with pytest.raises(Temporary, match=r"has no hybrid\.json"):
        spool.carry(folder)
    assert spool.waiting == sorted(path for path, _ in notes)
    assert len([path for path in root.rglob("*") if path.is_file()]) == 1, "no other file follows it"
    root.rename(tmp_path / "plain")
    folder.away.rename(root)
    folder.away.mkdir()
    spool.carry(folder)
    assert spool.waiting == []
    assert all((root / path).is_file() for path, _ in notes)
