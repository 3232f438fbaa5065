"""The main job on a real model: killed, continued, graded. No item of a finished shard is computed again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybrid.folder.medium import Disk
from hybrid.folder.runs import run_ids
from hybrid.folder.shards import MAX_FILE, shard_paths, verify_shard

pytestmark = pytest.mark.slow

LONG = ["run", "local", "seal-eval", "--preset", "demo", "--shard-seconds", "0.5", "--json"]
RUN = [*LONG, "--set", "limit=2"]


def hybrid(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hybrid", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=500)


def heed_ctrl_c() -> None:
    """A shell that starts the tests in the background makes its children deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def keys(cwd: Path) -> set[str]:
    folder = Disk(cwd / "hybrid-folder")
    paths = [path for run in run_ids(folder) for path in shard_paths(folder, f"runs/{run}/answer")]
    shards = (verify_shard(path, folder.read(path, MAX_FILE)) for path in paths)
    return {record["key"] for shard in shards for record in shard.records}


def test_a_killed_run_goes_on_with_a_real_model_and_is_graded(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hybrid", *RUN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if json.loads(line)["event"] == "shard":
                break
        first.kill()
    time.sleep(0.1)
    safe = keys(tmp_path)
    assert safe
    second = hybrid(*RUN, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    events = [json.loads(line) for line in second.stdout.splitlines()]
    fresh = {event["key"] for event in events if event["event"] == "item"}
    assert not fresh & safe
    assert len(fresh | safe) == events[0]["total"]
    document = json.loads(Path(tmp_path, events[-1]["outputs"]).read_text())
    assert sorted(record["key"] for record in document["records"]) == sorted(fresh | safe)
    assert all(record["text"] is not None and record["tokens"][1] > 0 for record in document["records"])
    graded = hybrid("grade", events[-1]["run"], "--json", cwd=tmp_path)
    assert graded.returncode == 0, graded.stderr
    summary = json.loads(graded.stdout)["summary"]
    assert (summary["n"], summary["ungraded"]["count"]) == (2, 0)
    assert set(summary["controls"]) == {"copy-input", "most-frequent-grid"}
    page = hybrid("report", events[-1]["run"], cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert Path(tmp_path, page.stdout.strip()).stat().st_size > 10_000


def test_ctrl_c_stops_a_real_model_at_its_next_token(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hybrid", *LONG]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509
    ) as first:
        assert first.stdout is not None
        assert first.stderr is not None
        next(line for line in first.stdout if json.loads(line)["event"] == "item")
        first.send_signal(signal.SIGINT)
        asked = time.monotonic()
        first.stdout.read()
        words = first.stderr.read()
        assert first.wait(timeout=240) == 4, words
    assert time.monotonic() - asked < 60
    assert "run the same command again to go on" in words
    assert keys(tmp_path)
