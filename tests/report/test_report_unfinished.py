"""The report of runs in a folder: unfinished runs are drawn, and date, wall time and tokens are shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hybrid.canonical import encode
from hybrid.commands import report as report_command
from hybrid.execution.timing import timing_of
from hybrid.folder.shards import pack, verify_shard
from hybrid.report.provenance import MIN_SECONDS
from tests.support.in_process import Hybrid
from tests.support.report_runs import in_rounds


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hybrid: Hybrid) -> Path:
    """A folder with one run of two stages, four records each."""
    ran = hybrid("run", "local", "in-rounds", *in_rounds(tmp_path, monkeypatch))
    assert ran.code == 0, ran.stderr
    return tmp_path / "folder"


def shards(folder: Path, stage: str) -> list[Path]:
    return sorted(folder.glob(f"runs/*/{stage}/*/*/shard-*"))


def cells(page: str, name: str) -> list[str]:
    row = re.search(rf'<tr[^>]*><th scope="row">{re.escape(name)}</th>(.*?)</tr>', page)
    assert row, name
    return re.findall(r"<td[^>]*>(.*?)</td>", row[1])


def test_a_run_whose_last_stage_waits_is_drawn_with_its_stages(folder: Path, hybrid: Hybrid) -> None:
    (path,) = shards(folder, "ask")
    shard = verify_shard(str(path), path.read_bytes())
    name, data = pack(shard.header, [encode(record) for record in shard.records[:3]], 0)
    path.with_name(str(name)).write_bytes(data)
    path.unlink()
    done = hybrid("report", folder)
    assert done.code == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.parent.parent == folder / "results"
    page = path.read_text()
    assert "<b>not finished</b>: 0 of 2 stages are done; shown is &#x27;ask&#x27;." in page
    assert cells(page, "ask") == ["4", "3", "0", "1"]
    assert cells(page, "rounds") == ["not known yet: it waits for the stages before it"]
    assert page.count('<pre dir="ltr" tabindex="0">12345</pre>') == 3
    assert page.count("no record of this item has arrived") == 1
    assert "Scores</dt><dd>none: the run is not finished" in page
    assert hybrid("report", folder, "--grader", "exact").code == 4  # grades need the outputs of the last stage


def test_a_run_without_any_record_is_drawn(folder: Path, hybrid: Hybrid) -> None:
    for path in shards(folder, "*"):
        path.unlink()
    done = hybrid("report", folder)
    assert done.code == 0, done.stderr
    assert cells(Path(done.stdout.strip()).read_text(), "ask") == ["4", "0", "0", "4"]


def test_a_run_that_lacks_records_of_its_last_stage_is_drawn(folder: Path, hybrid: Hybrid) -> None:
    for path in shards(folder, "rounds"):
        path.unlink()
    (out,) = folder.glob("results/*/outputs.json")
    out.unlink()
    done = hybrid("report", folder)
    assert done.code == 0, done.stderr
    assert "<b>not finished</b>: 0 of 4 outputs are there so far." in Path(done.stdout.strip()).read_text()


@pytest.mark.parametrize("stage", ["ask", "rounds"])
def test_a_watched_page_is_written_again_with_each_news_until_the_run_is_done(
    folder: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(report_command, "WATCH_SECONDS", 0.05)
    (path,) = shards(folder, stage)
    away = path.rename(folder.parent / path.name)
    (out,) = folder.glob("results/*/outputs.json")
    out.unlink()
    page, first = out.with_name("report.html"), list[str]()

    def arrive() -> None:
        deadline = time.monotonic() + 240
        while not page.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        first.append(page.read_text())
        away.rename(path)

    arriving = threading.Thread(target=arrive)
    arriving.start()
    done = hybrid("report", folder, "--watch")
    arriving.join()
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines() == [str(page)]
    assert 'http-equiv="refresh"' in first[0]
    assert "not finished" in first[0]
    assert 'http-equiv="refresh"' not in page.read_text()
    assert "<b>not finished" not in page.read_text()
    assert hybrid("report", folder, "--watch", "-o", "-").code == 2


def test_date_wall_time_and_tokens_of_all_stages_are_shown(folder: Path, hybrid: Hybrid) -> None:
    (run,) = folder.glob("runs/*")
    attempts = sorted({path.parent.parent.name for path in shards(folder, "*")})
    began = [datetime.strptime(attempt[:16], "%Y%m%dt%H%M%Sz").replace(tzinfo=UTC) for attempt in attempts]
    last = began[0] + timedelta(seconds=40)
    for path in shards(folder, "*"):
        os.utime(path, (began[-1].timestamp() + 1, began[-1].timestamp() + 1))
    early = timing_of(folder, run.name)
    assert early
    if early.seconds < MIN_SECONDS:  # as it is but on a very slow machine
        page = Path(hybrid("report", folder).stdout.strip()).read_text()
        assert cells(page, "tokens a second") == ["run too short"]
    for path in shards(folder, "*"):
        os.utime(path, (last.timestamp(), last.timestamp()))
    timing = timing_of(folder, run.name)
    assert timing
    assert timing.seconds == 40  # two attempts, a stage each, that end at the same time: counted once
    page = Path(hybrid("report", folder).stdout.strip()).read_text()
    assert cells(page, "date") == [f"{began[0]:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"]
    assert cells(page, "wall time") == ["40 s"]
    assert cells(page, "tokens in") == [f"{timing.prompt_tokens:,} (all stages)"]
    assert cells(page, "tokens out") == [f"{timing.completion_tokens:,} (all stages)"]
    assert cells(page, "tokens a second") == [f"{timing.completion_tokens / 40:,.1f} out"]
    assert timing.completion_tokens > 0


def test_outputs_elsewhere_have_their_date_and_a_page_elsewhere_needs_no_room_in_the_results(
    folder: Path, tmp_path: Path, hybrid: Hybrid
) -> None:
    (run,) = folder.glob("runs/*")
    (out,) = folder.glob("results/*/outputs.json")
    moved, page = tmp_path / "mine.json", tmp_path / "mine.html"
    shutil.move(out, moved)
    done = hybrid("report", moved, "--folder", folder, "-o", page)
    assert done.code == 0, done.stderr
    for name in ("date", "wall time", "tokens in", "tokens out"):
        assert cells(page.read_text(), name) != ["not recorded"], name
    shutil.rmtree(folder / "results")
    (folder / "results").write_text("no room here")
    done = hybrid("report", run.name, "--folder", folder, "-o", page)
    assert done.code == 0, done.stderr
    assert cells(page.read_text(), "date") != ["not recorded"]


def test_a_run_is_not_compared_with_itself(folder: Path, hybrid: Hybrid) -> None:
    (run,) = folder.glob("runs/*")
    done = hybrid("report", run, folder)
    assert done.code == 2
    assert "are the same run with the same grades" in done.stderr


def test_values_without_a_record_are_shown_as_not_recorded(tmp_path: Path, hybrid: Hybrid) -> None:
    line = {"key": "a", "task": "t", "question": "t/0", "text": "5"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(line) + "\n")
    page = Path(hybrid("report", tmp_path / "answers.jsonl").stdout.strip()).read_text()
    for name in ("date", "wall time", "tokens a second", "device", "tokens in", "tokens out"):
        assert cells(page, name) == ["not recorded"]
