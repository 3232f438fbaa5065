"""Workers that start on one machine at the same moment: none takes another one for dead."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import filelock
import pytest

from hybrid.worker.process import alive, has_ended


def test_a_worker_that_is_about_to_lock_its_file_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system stops it just when it has made the file, and another one starts meanwhile."""
    seen: list[set[str]] = []

    def start_another() -> None:
        with alive(tmp_path, "b-2") as gone:
            seen.append(set(gone))

    other, acquire = Thread(target=start_another), filelock.FileLock.acquire

    def late(lock: filelock.BaseFileLock, *how: Any, **more: Any) -> Any:
        if Path(lock.lock_file).stem == "a-1" and not other.ident:
            Path(lock.lock_file).touch()
            other.start()
            other.join(0.5)  # it waits for its turn
        return acquire(lock, *how, **more)

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    with alive(tmp_path, "a-1") as gone:
        other.join(240)
        assert gone == set()
        assert not has_ended(tmp_path, "a-1")
    assert seen == [set()]
    assert has_ended(tmp_path, "a-1")


def test_a_killed_worker_is_known_to_be_dead_to_who_starts(tmp_path: Path) -> None:
    (tmp_path / "a-1.lock").touch()
    with alive(tmp_path, "b-2") as gone:
        assert gone == {"a-1"}
