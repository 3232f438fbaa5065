"""What was planned of a run stands beside what it has taken: on the GPU of its workers, from its spec alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.commands.watch_screen import Look, rows_of
from hybrid.folder.runs import open_run
from hybrid.status.planned import Planner, device_of
from tests.support.in_process import Hybrid
from tests.support.run_folder import SECOND, RunFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A folder with a run whose model is known by its name: nothing of it is here."""
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return RunFolder(tmp_path, backend="vllm", model="llama3.1-8b")


def test_status_sets_the_plan_of_the_workers_gpu_beside_what_was_measured(place: RunFolder, hybrid: Hybrid) -> None:
    place.beat(time="2026-01-01T00:30:00Z", gpu={"name": "NVIDIA L4"})
    place.shard(0, 1, tokens=(300, 20))
    told = hybrid("status", "--folder", place.folder, place.run.id).stdout
    assert "  planned     on l4: 6 items, " in told
    most = sum(item.request.sampling.max_tokens for item in place.items)
    assert f" tokens in, at most {most:,} out" in told
    assert " of one l4, $" in told
    assert "  spent       600 tokens in, 40 out" in told
    found = json.loads(hybrid("status", "--folder", place.folder, place.run.id, "--json").stdout)
    planned, spent = found["planned"], found["spent"]
    assert (planned["device"], planned["items"], planned["most_completion_tokens"]) == ("l4", 6, most)
    assert 0 < planned["seconds"][0] < planned["seconds"][1]
    assert spent["usd"] == pytest.approx(planned["usd_per_hour"] / 2, abs=1e-4)
    listed = json.loads(hybrid("status", "--folder", place.folder, "--json").stdout)
    assert listed["planned"] is None  # of many runs it would take long


def test_a_plan_is_made_once_and_only_for_a_device_that_is_known(
    place: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, planner = open_run(place.disk, place.run.id), Planner()
    place.beat(gpu={"name": "Quantum 1"})
    assert planner.of(run, place.look().attempts) is None
    place.beat(attempt=SECOND, gpu={"name": "Tesla T4"})
    status = place.look()
    assert device_of(status.attempts) == "Tesla T4"
    plan = planner.of(run, status.attempts)
    assert plan
    monkeypatch.setattr("hybrid.status.planned.predicted", lambda run, device: pytest.fail("made again"))
    assert planner.of(run, status.attempts) is plan
    shown = [row.plain for row in rows_of(Look([replace(status, planned=plan)], named=True), 120)]
    assert [row for row in shown if row.startswith("planned  on t4: 6 items")]


def test_the_report_sets_the_plan_of_the_gpu_beside_the_wall_time(place: RunFolder, hybrid: Hybrid) -> None:
    place.about["device"] = "NVIDIA L4"
    place.shard(*range(6), tokens=(300, 20))
    assert hybrid("fetch", "--folder", place.folder, place.run.id).code == 0
    page = Path(hybrid("report", "--folder", place.folder, place.run.id).stdout.strip()).read_text()
    row = re.search(r'<th scope="row">planned</th><td>([^<]*)</td>', page)
    assert row
    assert re.fullmatch(r"on l4: 6 items, [\d,]+ tokens in, at most [\d,]+ out; .* of one l4, \$.* at \w+", row[1])
