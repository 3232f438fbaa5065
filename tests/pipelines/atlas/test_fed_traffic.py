"""The benchmark of bytes compares each way of sending with whole updates of the same method, and with nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

WHOLE, LESS = "hetlora fp32", "hetlora topk 0.1"


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    return importlib.import_module("fed_traffic")


def test_a_way_of_sending_is_run_with_the_one_it_is_compared_with(traffic: Any) -> None:
    assert traffic.chosen([LESS]) == [WHOLE, LESS]
    assert traffic.chosen([]) == list(traffic.WAYS)


def test_a_way_of_sending_that_there_is_not_is_refused(
    traffic: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fed_traffic.py", "--data", "x", "--only", f"{LESS},hetlora top"])
    with pytest.raises(SystemExit, match="2"):
        traffic.main()
    assert "hetlora top: no way of sending; there are fedavg-lora fp32, " in capsys.readouterr().err


def test_whole_updates_have_no_difference_to_themselves_and_one_seed_no_interval(traffic: Any) -> None:
    whole = {seed: traffic.Ended(0.8 + seed / 100, 4.0, 4.0, 9.0) for seed in range(3)}
    less = {seed: traffic.Ended(0.7 + seed / 50, 1.0, 4.0, 9.0) for seed in range(3)}
    assert traffic.row(WHOLE, whole, whole).keys() == {"way", "accuracy", "up", "down", "rank", "seeds"}
    beside = traffic.row(LESS, less, whole)
    low, high = beside["interval"]
    assert beside["minus_whole"] == pytest.approx(-0.09)
    assert low < -0.09 < high
    assert "interval" not in traffic.row(LESS, {0: less[0]}, whole)
    result = traffic.result({WHOLE: whole, LESS: less}, 1.0)
    assert result.keys() >= {"name", "peer", "ratio", "goal", "met"}
    assert result["ratio"] == {LESS: 4.0}
