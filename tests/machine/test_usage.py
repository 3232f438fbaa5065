"""The load of a machine over time: means and highest values, bounded in size, and untrusted when it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hybrid.canonical import decode, encode
from hybrid.machine.usage import MAX_PERIODS, METRICS, Usage, UsageLog


def read(log: UsageLog) -> Usage:
    found = Usage.from_json(decode(encode(log.to_json()), what="a report"))
    assert found
    return found


def test_a_period_has_the_mean_and_the_highest_and_energy_is_summed() -> None:
    log = UsageLog()
    log.gpus, log.gpu_memory_total = 1, 40960
    for at, power in ((5.0, 100.0), (10.0, 300.0), (65.0, 200.0)):
        log.add(at, {"power": power, "cpu": None, "memory": 7.0}, 36.0)
    log.add(200.0, {"memory": 9.0}, 36.0)  # the GPU could not be read
    log.add(4000.0, {"power": 500.0}, 3800.0)  # the machine was asleep meanwhile: no energy is made up
    found = read(log)
    assert found.at == [0, 60, 180, 3960]
    assert found.means == {"power": [200, 200, None, 500], "memory": [7, 7, 9, None]}
    assert found.highest["power"] == [300, 200, None, 500]
    assert (found.gpus, found.gpu_memory_total, found.energy_wh) == (1, 40960, pytest.approx(1 + 3 + 2))
    assert found.last("power") == 500
    assert found.last("memory") == 9
    assert found.last("gpu_busy") is None
    assert found.to_json() == log.to_json()


def test_a_week_has_the_size_of_some_hours_and_loses_no_mean() -> None:
    log, step = UsageLog(), 30.0
    values = [float(number % 100) for number in range(7 * 24 * 120)]
    for number, value in enumerate(values):
        log.add(number * step, dict.fromkeys(METRICS, value), step)
    found = read(log)
    assert MAX_PERIODS / 2 < len(found.at) <= MAX_PERIODS
    assert found.period == 60 * 2**6
    size = round(found.period / step)
    for number in (0, 1, 50):
        part = values[number * size : (number + 1) * size]
        assert found.means["cpu"][number] == pytest.approx(sum(part) / len(part), abs=0.051)
        assert found.highest["cpu"][number] == max(part)
    assert len(encode(log.to_json())) < 16_000


@pytest.mark.parametrize(
    "hostile",
    [
        None,
        [],
        {},
        {"period": 60},
        {"period": 0, "at": []},
        {"period": "60", "at": [0]},
        {"period": 1e400, "at": [0]},
        {"period": 60, "at": [1, 0]},
        {"period": 60, "at": [0, 0]},
        {"period": 60, "at": [True]},
        {"period": 60, "at": [-1]},
        {"period": 60, "at": "0123"},
    ],
)
def test_what_is_no_report_is_none(hostile: Any) -> None:
    assert Usage.from_json(hostile) is None


def test_members_of_the_wrong_type_or_size_are_left_out() -> None:
    metrics = {
        "power": {"mean": [1, None, "x"], "max": [float("nan"), -1, 5]},
        "cpu": {"mean": [1], "max": [1]},
        "memory": [1, 2, 3],
        "gpu_busy": {"mean": [1, 2, 3]},
        "\x1b[31m": {"mean": [1, 2, 3], "max": [1, 2, 3]},
    }
    found = Usage.from_json({"period": 60, "at": [0, 1, 2], "gpus": [], "energy_wh": "all", "metrics": metrics})
    assert found
    assert (found.means, found.highest) == ({"power": [1, None, None]}, {"power": [None, None, 5]})
    assert (found.gpus, found.energy_wh) == (None, None)
    long = {"period": 60, "at": [*range(10**5)], "metrics": {"cpu": {"mean": [1] * 10**5, "max": [2] * 10**5}}}
    cut = Usage.from_json(long)
    assert cut
    assert len(cut.at) == len(cut.means["cpu"]) == MAX_PERIODS
    assert len(json.dumps(cut.to_json())) < 16_000
