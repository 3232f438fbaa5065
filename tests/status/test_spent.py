"""What a run has taken so far: tokens of all records, time of workers and GPUs, energy, money at prices with a date."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.machine.usage import UsageLog
from hybrid.status.spent import Spent
from hybrid.status.text import detail_lines
from tests.support.run_folder import FIRST, SECOND, CountingDisk, RunFolder

PRICES = """
[[price]]
gpu = "t4"
where = "the \x1b[31muniversity"
usd_per_hour = 0.5
source = "its price list"
read_on = 2026-01-01
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return RunFolder(tmp_path)


def prices(place: RunFolder, text: str = PRICES) -> None:
    (place.root / "home").mkdir(exist_ok=True)
    (place.root / "home" / "prices.toml").write_text(text.replace("\x1b", "\\u001b"))


def used(energy: float, gpus: int = 1) -> dict[str, object]:
    log = UsageLog()
    log.gpus, log.energy = gpus, energy
    log.add(0, {"gpu_busy": 1.0}, 5)
    return log.to_json()  # type: ignore[return-value]


def test_tokens_of_every_record_are_summed_and_no_shard_is_read_twice_for_them(place: RunFolder) -> None:
    assert place.look().spent == Spent()
    place.shard(0, 1, tokens=(900, 50))
    place.shard(1, attempt=SECOND, tokens=(900, 60))  # again: that was paid for, too
    place.shard(2, error="timeout", tokens=(900, 0))
    for _ in range(2):
        disk = CountingDisk(place.folder)
        found = place.look(disk)
        assert (found.spent.prompt_tokens, found.spent.completion_tokens) == (3600, 160)
    assert not [path for path in disk.paths if "shard-" in path]
    assert found.stages[0].to_json()["tokens"] == [3600, 160]
    assert "  spent       3,600 tokens in, 160 out" in "\n".join(detail_lines(found))
    assert found.spent.to_json()["machine_seconds"] is None


def test_the_time_of_gpus_costs_what_the_users_table_says(place: RunFolder) -> None:
    prices(place)
    place.beat(time="2026-01-01T02:00:00Z", usage=used(120.0))
    place.beat(attempt=SECOND, time="2026-01-02T01:30:00Z", usage=used(1000.0, gpus=2))
    place.beat(attempt="20260101t000000z-cpu", time="2026-01-01T01:00:00Z", device="cpu")
    found = place.look()
    assert found.spent.to_json() == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "machine_seconds": 4.5 * 3600,
        "gpu_seconds": {"Tesla T4": 5 * 3600},
        "energy_wh": 1120,
        "usd": 2.5,
        "prices": [{"gpu": "t4", "where": "the \x1b[31muniversity", "usd_per_hour": 0.5, "read_on": "2026-01-01"}],
        "unpriced": [],
    }
    told = "\n".join(detail_lines(found))
    assert "4 h 30 min of 3 workers, 1.12 kWh of their GPUs" in told
    assert "$2.50 if its GPUs are rented: t4 $0.50 an hour at the \\x1b[31muniversity, 2026-01-01" in told


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (PRICES.replace("t4", "h100"), "no price is known of Tesla T4: put one into HYBRID_HOME/prices.toml"),
        ("[[price]", "what it costs is not known: prices.toml: "),
    ],
)
def test_without_a_price_that_is_said_and_nothing_else_is_lost(place: RunFolder, table: str, words: str) -> None:
    prices(place, table)
    place.beat(time="2026-01-01T02:00:00Z")
    found = place.look()
    assert found.spent.usd is None
    told = "\n".join(detail_lines(found))
    assert words in told
    assert "2 h of 1 worker" in told


@pytest.mark.parametrize("time", ["", "soon", "2025-12-31T00:00:00Z", "9999-01-01T00:00:00Z", "2026-01-01T00:00:00"])
def test_a_worker_whose_clock_makes_no_sense_is_not_counted(place: RunFolder, time: str) -> None:
    place.beat(time=time)
    assert place.look().spent == Spent()
    assert FIRST in "\n".join(detail_lines(place.look()))
