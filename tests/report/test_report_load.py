"""The report draws the load of the workers' machines from their last heartbeats."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hybrid.folder.medium import Disk
from hybrid.folder.notes import pack_note
from hybrid.machine.usage import UsageLog
from tests.support.in_process import Hybrid
from tests.support.report_runs import in_rounds

FIRST, LATER = "20260101t000000z-00000001", "20260101t001000z-00000002"


def load(minutes: int, power: float | None) -> Any:
    log = UsageLog()
    log.gpus = None if power is None else 1
    for number in range(minutes * 2):
        log.add(30.0 * number, {"gpu_busy": 50.0 * (number % 2) if power else None, "power": power, "cpu": 90.0}, 30)
    return log.to_json()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hybrid: Hybrid) -> Path:
    """A folder with a run that is done, without what this machine measured of itself, as if it had no GPU."""
    monkeypatch.setattr("hybrid.machine.meter.gpu_reader", lambda: None)
    ran = hybrid("run", "local", "in-rounds", *in_rounds(tmp_path, monkeypatch))
    assert ran.code == 0, ran.stderr
    (measured,) = (tmp_path / "folder").glob("results/*/load")
    measured.rename(tmp_path / "measured")
    return tmp_path / "folder"


def beat(folder: Path, attempt: str, number: int, **body: Any) -> None:
    (run,) = (path.name for path in (folder / "runs").iterdir())
    Disk(folder).write(*pack_note(run, "beat", attempt, number, {"state": "working", **body}))


def report(folder: Path, hybrid: Hybrid) -> str:
    done = hybrid("report", folder)
    assert done.code == 0, done.stderr
    return Path(done.stdout.strip()).read_text()


def part(page: str) -> str:
    found = re.search(r'<section id="section-load">.*?</section>', page, re.DOTALL)
    assert found
    return found[0]


def test_utilization_power_and_energy_are_drawn_by_worker(folder: Path, hybrid: Hybrid) -> None:
    assert 'id="section-load"' not in report(folder, hybrid)
    beat(folder, FIRST, 0, usage=load(3, 400.0))
    beat(folder, FIRST, 1, usage=load(60, 120.0))
    beat(folder, LATER, 0, usage=load(30, 60.0))
    page = report(folder, hybrid)
    shown = part(page)
    titles = re.findall(r"<figcaption><b>(.*?)</b>", shown)
    assert titles == ["GPU utilization, %", "GPU power, W", "CPU, % of one core"]
    rows = {row[0]: row[1] for row in re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', shown)}
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", row) for name, row in rows.items()}
    assert cells[FIRST] == ["60 min", "1", "25 %", "120 W", "120 Wh", "90 %"]
    assert cells[LATER] == ["30 min", "1", "25 %", "60 W", "30 Wh", "90 %"]
    assert cells["together"][4] == "150 Wh"
    assert shown.count("minute 59") >= 2  # of the first worker
    assert "minute 39" in shown  # the other began ten minutes later, and measured for half an hour
    assert page.count("stroke-dasharray: 8 4") == 1  # the style of curves and of this part is there once
    assert page == report(folder, hybrid)


def test_a_machine_without_a_gpu_shows_the_rest_and_hostile_loads_end_nothing(folder: Path, hybrid: Hybrid) -> None:
    beat(folder, FIRST, 0, usage=load(3, None))
    hostile = {"<script>alert(1)</script>": 1}
    column = {"mean": [1, "<b>", None], "max": [None, None, 1e14]}
    beat(folder, "worker", 0, usage={"period": 1e14, "at": [0, 1, 2], "gpus": hostile, "metrics": {"cpu": column}})
    beat(folder, LATER, 0, usage=hostile)
    shown = part(report(folder, hybrid))
    assert re.findall(r"<figcaption><b>(.*?)</b>", shown) == ["CPU, % of one core"]
    assert "GPU" not in re.findall(r"<thead>(.*?)</thead>", shown)[0], "what nobody measured has no column"
    assert json.dumps(LATER) not in shown
    assert "<script>" not in shown
    assert "together" not in shown


def test_what_run_local_measured_of_its_machine_is_drawn(folder: Path, hybrid: Hybrid) -> None:
    place = next(folder.glob("results/*")) / "load"
    shutil.copytree(folder.parent / "measured", place)
    (measured,) = place.glob("*.json")
    shown = part(report(folder, hybrid))
    assert f"{measured.stem} (run local)" in shown
    assert re.findall(r"<figcaption><b>(.*?)</b>", shown) == ["CPU, % of one core", "memory of the process, MiB"]
    (place / "other.json").write_text('{"format":"hybrid/load","version":1,"run":"another","usage":{}}')
    measured.write_bytes(measured.read_bytes()[:-9])
    assert 'id="section-load"' not in report(folder, hybrid), "damaged, and of another run"
