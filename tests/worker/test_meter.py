"""What a worker measures of its machine is in its heartbeats, and an idle GPU is a problem that it reports."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hybrid.machine.gpu_load import GpuLoad
from hybrid.machine.meter import Meter
from hybrid.machine.usage import Usage
from hybrid.worker.meter import Watchdog
from tests.support.fleet import until
from tests.support.manual_clock import ManualClock
from tests.support.nvidia import nvidia_smi
from tests.support.nvml import Nvml, nvml, nvml_library
from tests.support.real_machines import Machines

__all__ = ["nvml", "nvml_library"]


def usage(meter: Meter, run: str) -> Usage:
    found = Usage.from_json(meter.report(run)["usage"])
    assert found
    return found


def test_a_sample_counts_for_the_run_that_was_worked_on() -> None:
    clock = ManualClock()
    loads = iter([GpuLoad(1, 50, 50, 100, 1024, 40960), GpuLoad(1, 90, 90, 300, 2048, 40960), *[GpuLoad(*[0] * 6)] * 2])
    meter = Meter(clock, lambda: next(loads))
    for run in ("", "a", "a", "b"):
        clock.time += 36
        meter.sample(run)
    assert meter.report("") == {}
    assert usage(meter, "a").at == [60]
    assert (usage(meter, "a").means["gpu_busy"], usage(meter, "a").highest["gpu_busy"]) == ([45], [90])
    assert usage(meter, "a").energy_wh == 3
    assert usage(meter, "a").gpu_memory_total == 40960
    assert usage(meter, "b").at == [120]
    assert meter.idle_seconds == 72


def watched(load: list[GpuLoad], limit: float) -> Any:
    """A worker that a test moves on, second by second: `seconds(9)`."""
    clock = ManualClock()
    counts = SimpleNamespace(done=0)
    courier = SimpleNamespace(troubles={})
    worker: Any = SimpleNamespace(clock=clock, courier=courier, session=SimpleNamespace(counts=counts))
    meter = Meter(clock, lambda: load[0])
    watchdog = Watchdog(worker, meter, limit)

    def seconds(number: int) -> dict[str, str]:
        for _ in range(number):
            clock.time += 1
            meter.sample("run")
            watchdog.look()
        return dict(courier.troubles)

    return SimpleNamespace(seconds=seconds, counts=counts, worker=worker)


IDLE, BUSY, UNKNOWN = GpuLoad(1, 0, 0, 50, 0, 1), GpuLoad(2, 45, 90, 50, 0, 1), GpuLoad(1, None, None, None, None, None)


def test_an_idle_gpu_without_a_finished_item_is_a_problem_until_one_is_finished() -> None:
    load = [IDLE]
    now = watched(load, 60)
    assert now.seconds(60) == {}
    assert now.seconds(12) == {"the GPU": "idle for 1 min, and no item was finished for 1 min"}
    now.counts.done += 1
    assert now.seconds(60) == {}
    assert now.seconds(1) == {"the GPU": "idle for 2 min, and no item was finished for 1 min"}
    load[0] = BUSY
    assert now.seconds(1) == {}
    load[0] = IDLE
    assert now.seconds(61)
    now.worker.session = None  # it waits for others: that is no fault of the GPU
    assert now.seconds(1) == {}


@pytest.mark.parametrize("load", [BUSY, UNKNOWN])
def test_a_gpu_that_works_or_cannot_be_read_is_no_problem(load: GpuLoad) -> None:
    assert watched([load], 60).seconds(100) == {}


@pytest.mark.slow
def test_a_worker_reports_what_its_machine_does_and_that_its_gpu_is_idle(tmp_path: Path, nvml: Nvml) -> None:
    pytest.importorskip("pynvml")
    machines = Machines(tmp_path)
    run = machines.submit("--limit=1", "--set=views=", "--set=permute_n=0")
    worker = machines.side("gpu")
    place = nvidia_smi(tmp_path / "bin", "Tesla T4, 1024, 15360, 0, 580.82.07, 7.5, GPU-a, 72.0")
    worker.environment |= {**nvml.environment, "PATH": f"{place}{os.pathsep}{os.environ['PATH']}"}
    nvml.shows(("GPU-a", 0, 72_000, 1024**3, 40 * 1024**3))
    worker.holds_after(0)
    process = worker.start(*worker.worker("--beat=1", "--idle-alarm=1s"))
    until(lambda: any('"the GPU": "idle for' in json.dumps(note) for note in beats(machines, run)), "it is told")
    worker.goes_on()
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    assert re.search(r"the GPU is idle, and no item was finished, for \d+ (s|min)", said), said
    status = json.loads(machines.laptop.run("status", run, "--json").stdout)
    (attempt,) = status["attempts"]
    assert attempt["state"] in ("ended", "new")
    seconds = status["spent"]["gpu_seconds"]["Tesla T4"]  # also after it has ended
    assert status["spent"]["usd"] > 0
    measured = Usage.from_json(attempt["usage"])
    assert measured
    assert (measured.gpus, measured.gpu_memory_total) == (1, 40 * 1024)
    assert {name: measured.last(name) for name in ("gpu_busy", "power", "gpu_memory")} == {
        "gpu_busy": 0,
        "power": 72,
        "gpu_memory": 1024,
    }
    assert 72 * 0.5 / 3600 < (measured.energy_wh or 0) < 72 * (seconds + 60) / 3600, "no other unit"
    assert (measured.last("memory") or 0) > 20


def beats(machines: Machines, run: str) -> list[dict[str, Any]]:
    from hybrid.folder.medium import Disk
    from hybrid.folder.notes import read_notes

    return [dict(note) for _, note in read_notes(Disk(Path(machines.folder)), run, "beat", refused=[])]
