"""`hybrid logs`: lines as they arrive, each once, until the run is over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hybrid.commands import logs
from hybrid.folder.notes import pack_note
from hybrid.laptop.remote_runs import cancel
from tests.support.in_process import Hybrid
from tests.support.run_folder import FIRST, SECOND, RunFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    made = RunFolder(tmp_path)
    monkeypatch.setenv("HYBRID_FOLDER", str(made.folder))
    return made


def log(place: RunFolder, number: int, *lines: str, attempt: str = FIRST) -> str:
    """Write a log as a worker does; its path."""
    path, data = pack_note(place.run.id, "log", attempt, number, {"lines": list(lines), "time": ""})
    place.disk.write(path, data)
    return path


@pytest.fixture
def between_looks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Takes what is to happen between the looks at the folder, one step after each look; then comes Ctrl-C."""

    def planned(*steps: Callable[[], object]) -> None:
        left: Iterator[Callable[[], object]] = iter(steps)

        def sleep(seconds: float) -> None:
            assert seconds == logs.FOLLOW_SECONDS
            step = next(left, None)
            if step is None:
                raise KeyboardInterrupt
            step()

        monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))

    return planned


def test_lines_are_shown_as_they_arrive_until_the_run_is_done(
    place: RunFolder, hybrid: Hybrid, between_looks: Callable[..., None]
) -> None:
    log(place, 0, "10:00 begins", "10:01 works")
    between_looks(
        lambda: log(place, 1, "10:02 goes on"),
        lambda: (place.shard(0, 1, 2, 3, 4, 5), log(place, 0, "10:03 ends", attempt=SECOND)),
    )
    done = hybrid("logs", place.run.id, "--follow", "-n", "1")
    lines = [f"{FIRST} 10:01 works", f"{FIRST} 10:02 goes on", f"{SECOND} 10:03 ends"]
    assert (done.code, done.stdout.splitlines()) == (0, lines), "-n is about what was there at the start"


def test_the_exit_code_is_that_of_status(place: RunFolder, hybrid: Hybrid, between_looks: Callable[..., None]) -> None:
    between_looks(lambda: log(place, 0, "10:00 begins"))
    interrupted = hybrid("logs", place.run.id, "--follow")
    assert (interrupted.code, "begins" in interrupted.stdout) == (4, True)
    place.shard(0, 1, 2, 3, 4)
    place.shard(5, error="too-long")
    assert hybrid("logs", place.run.id, "--follow").code == hybrid("status", place.run.id).code == 3
    assert hybrid("cancel", place.run.id).code == 0


def test_a_cancelled_run_is_over(place: RunFolder, hybrid: Hybrid, between_looks: Callable[..., None]) -> None:
    between_looks(lambda: cancel(place.folder, place.run.id), lambda: pytest.fail("it is over"))
    assert hybrid("logs", place.run.id, "--follow").code == 4


def test_a_torn_log_is_shown_once_it_is_whole_and_of_one_written_anew_only_what_is_new(
    place: RunFolder, hybrid: Hybrid, between_looks: Callable[..., None]
) -> None:
    whole = place.folder / log(place, 0, "10:00 one", "10:01 two")
    data = whole.read_bytes()
    whole.write_bytes(data[:20])
    between_looks(
        lambda: whole.write_bytes(data),
        lambda: log(place, 0, "10:00 one", "10:01 two", "10:02 three"),
        whole.unlink,
        lambda: log(place, 1, "10:02 three", "10:03 four"),
        lambda: None,
    )
    done = hybrid("logs", place.run.id, "--follow")
    shown = [line.removeprefix(f"{FIRST} ") for line in done.stdout.splitlines()]
    assert shown == ["10:00 one", "10:01 two", "10:02 three", "10:02 three", "10:03 four"]


def test_a_folder_that_is_away_for_a_while_is_waited_for_and_named_once(
    place: RunFolder, hybrid: Hybrid, between_looks: Callable[..., None]
) -> None:
    away = place.root / "away"
    between_looks(
        lambda: place.folder.rename(away),
        lambda: None,
        lambda: (away.rename(place.folder), log(place, 0, "10:05 back"), place.shard(0, 1, 2, 3, 4, 5)),
    )
    done = hybrid("logs", place.run.id, "--follow")
    assert (done.code, done.stdout) == (0, f"{FIRST} 10:05 back\n")
    assert done.stderr.count("waiting: ") == 1, done.stderr


def test_a_hostile_line_stays_one_line_of_plain_text(place: RunFolder, hybrid: Hybrid) -> None:
    log(place, 0, "10:00 \x1b[2J\nerror: \u202efake", "x" * 5000)
    lines = hybrid("logs", place.run.id).stdout.splitlines()
    assert lines[0] == f"{FIRST} 10:00 \\x1b[2J\\nerror: \\u202efake"
    assert [len(line) for line in lines[1:]] == [logs.MAX_LINE]


def test_a_run_without_a_folder_is_unavailable(place: RunFolder, hybrid: Hybrid) -> None:
    shutil.rmtree(place.folder)
    assert hybrid("logs", place.run.id, "--follow").code == 5
