"""Real learning: SmolLM2-135M solves rules after training that it does not solve before, by a clear margin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TASKS = "flip-0,top-0"


def hybrid(cwd: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "hybrid", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_on_a_task_lifts_its_score_over_the_untrained_model(tmp_path: Path) -> None:
    settings = ["--preset", "demo", "--set", f"tasks={TASKS}", "--backend", "transformers"]
    hybrid(tmp_path, "run", "local", "seal-ttt", *settings, "-o", "trained.json")
    hybrid(tmp_path, "grade", "trained.json")
    summary = json.loads((tmp_path / "trained.grades.arc.json").read_text())["summary"]
    assert summary["n"] == 2
    assert summary["figures"]["pass2"]["mean"] >= 0.75
    low, high = summary["controls"]["base"]["gain_interval"]
    assert 0 < low <= high
    records = json.loads((tmp_path / "trained.json").read_text())["records"]
    told = [record["trained"] for record in records if record.get("trained")]
    assert len({one["adapter"] for one in told}) == 2
    assert all(one["loss"][0] > 4 * one["loss"][-1] and one["skipped"] == 0 for one in told)
    report = hybrid(tmp_path, "report", "trained.json", "-o", "report.html")
    assert "trained 6 steps on 12 texts" in Path(tmp_path, report.strip()).read_text()
