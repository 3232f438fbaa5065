"""Federations on a virtual clock and with a split model: limits, resuming, and what each costs."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid.errors import BadData, CannotRun, UsageError
from hybrid.loops import Lab
from hybrid.metrics import RoundMetrics
from hybrid.settings import build
from pipelines.atlas.client_models import ClientModel
from pipelines.atlas.pipeline import Atlas
from tests.support import small_federation

FEW = "clients=4", "samples=12", "dev=8"
CLOCK = ("devices=cpu-2gb,laptop-8gb,gpu-16gb",)


pytestmark = pytest.mark.slow


def made(lab: Lab, method: str, *settings: str) -> Any:
    return small_federation.made(lab, method, *FEW, *settings)


def results(lab: Lab, method: str, *settings: str) -> list[RoundMetrics]:
    return small_federation.results(lab, method, *FEW, *settings)


def learned(records: list[RoundMetrics]) -> list[dict[str, float]]:
    return [{name: one.metrics[name] for name in ("accuracy", "loss", "train_loss")} for one in records]


def test_a_clock_that_waits_for_all_changes_no_figure_and_tells_the_time(lab: Lab, monkeypatch: Any) -> None:
    reliable(monkeypatch)
    plain, timed = results(lab, "flexlora"), results(lab, "flexlora", *CLOCK)
    assert learned(timed) == learned(plain)
    assert learned(results(lab, "flexlora", *CLOCK, "arrivals=buffered", "buffer=4")) == learned(plain)
    assert learned(results(lab, "flexlora", *CLOCK, "arrivals=deadline", "round_seconds=1e6")) == learned(plain)
    seconds = [one.metrics["virtual_seconds"] for one in timed]
    assert 0 < seconds[0] < seconds[1]
    assert "virtual_seconds" not in plain[0].metrics


def test_the_clock_of_full_models_runs_longer_and_changes_no_figure(lab: Lab, monkeypatch: Any) -> None:
    reliable(monkeypatch)
    timed = results(lab, "fedavg", *CLOCK)
    assert learned(timed) == learned(results(lab, "fedavg"))
    seconds = [one.metrics["virtual_seconds"] for one in timed]
    assert 0 < seconds[0] < seconds[1]
    assert seconds[1] > results(lab, "fedavg-lora", *CLOCK)[1].metrics["virtual_seconds"], "an adapter is smaller"
    late = results(lab, "fedavg", *CLOCK, "arrivals=deadline", f"round_seconds={seconds[0] / 2}")
    assert any(one.metrics["late"] for one in late)
    assert all(one.metrics["clients"] + one.metrics["late"] == 4 for one in late)
    first, second = made(lab, "fedavg", *CLOCK), made(lab, "fedavg", *CLOCK)
    first.round(0)
    second.load(first.state())
    assert second.round(1).to_text() == timed[1].to_text()


def test_centralised_training_takes_the_time_of_the_server(lab: Lab) -> None:
    timed = results(lab, "centralised", *CLOCK)
    first, second = (one.metrics["virtual_seconds"] for one in timed)
    assert second == 2 * first > 0
    assert learned(timed) == learned(results(lab, "centralised"))


def reliable(monkeypatch: Any) -> None:
    """Devices that never drop out."""
    from dataclasses import replace

    from pipelines.atlas import timed_federation
    from pipelines.atlas.virtual_clock import DEVICES

    monkeypatch.setattr(timed_federation, "DEVICES", {name: replace(one, dropout=0) for name, one in DEVICES.items()})


@pytest.mark.parametrize("method", ["fedavg-lora", "flora", "ffa", "atlas"])
def test_a_buffered_federation_goes_on_to_the_bit_and_learns_from_stale_updates(lab: Lab, method: str) -> None:
    settings = (*CLOCK, "arrivals=buffered", "buffer=1", "rounds=4")
    whole = results(lab, method, *settings)
    assert [one.metrics["clients"] for one in whole] == [1] * 4
    assert max(one.metrics["staleness"] for one in whole) > 0
    first, second = made(lab, method, *settings), made(lab, method, *settings)
    for number in range(2):
        first.round(number)
    second.load(first.state())
    assert [second.round(number).to_text() for number in (2, 3)] == [one.to_text() for one in whole[2:]]
    first.close()
    second.close()


@pytest.mark.parametrize("method", ["flexlora", "fedavg-lora"])
def test_a_state_whose_clients_began_with_other_models_is_refused(lab: Lab, method: str) -> None:
    settings = (*CLOCK, "arrivals=buffered", "buffer=1", "rounds=2")
    federation = made(lab, method, *settings)
    federation.round(0)
    member, model = next((one, of) for one, of in federation._begins.items() if one in federation.clock.computing)
    lower = ClientModel({name: one.first(1) for name, one in model.update.items()}, model.head)
    headless = ClientModel(model.update, {name: one[:1] for name, one in model.head.items()})
    for other, why in ((lower, "does not have its ranks"), (headless, "the head of member")):
        federation._begins[member] = other
        again = made(lab, method, *settings)
        with pytest.raises(BadData, match=why):
            again.load(federation.state())
        again.close()
    federation.close()


def test_who_misses_the_deadline_is_late_and_the_round_is_shorter(lab: Lab) -> None:
    whole = results(lab, "flexlora", *CLOCK)
    seconds = whole[0].metrics["virtual_seconds"]
    found = results(lab, "flexlora", *CLOCK, "arrivals=deadline", f"round_seconds={seconds / 2}")
    assert any(one.metrics["late"] for one in found)
    assert found[-1].metrics["virtual_seconds"] < whole[-1].metrics["virtual_seconds"]
    assert all(one.metrics["clients"] + one.metrics["late"] <= 4 for one in found)


def test_a_split_model_learns_the_same_and_costs_its_traffic(lab: Lab) -> None:
    method = "flora"
    plain, split = results(lab, method), results(lab, method, "split_after=1")
    assert learned(split) == learned(plain)
    assert learned(results(lab, method, "split_after=2")) == learned(plain), "all blocks are on the client"
    first = split[0].metrics
    assert first["split_up_bytes"] == first["split_down_bytes"] > 0
    assert first["split_error"] == 0
    more = first["upload_bytes"] - plain[0].metrics["upload_bytes"]
    rows = sum(one["samples"] for name, one in split[0].groups.items() if name.startswith("client-"))
    assert more == pytest.approx(first["split_up_bytes"] + 8 * rows, abs=4)
    assert "split_up_bytes" not in plain[0].metrics
    small = results(lab, method, "split_after=1", "wire=int8")[0].metrics
    assert small["split_up_bytes"] < 0.3 * first["split_up_bytes"]
    assert 0 < small["split_error"] < 0.02


def test_a_split_takes_virtual_time_for_its_traffic(lab: Lab) -> None:
    plain, split = results(lab, "flexlora", *CLOCK), results(lab, "flexlora", *CLOCK, "split_after=1")
    assert split[0].metrics["virtual_seconds"] > plain[0].metrics["virtual_seconds"]


@pytest.mark.parametrize(
    "settings",
    [
        ("devices=phone",), ("arrivals=buffered",), (*CLOCK, "arrivals=buffered", "buffer=5"),
        (*CLOCK, "arrivals=buffered", "participants=2"), ("split_after=1", "methods=fedavg"),
        (*CLOCK, "arrivals=buffered", "methods=fedavg"),
        (*CLOCK, "exchange=folder"), ("split_after=-1",), (*CLOCK, "arrivals=deadline", "round_seconds=0"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_each_other_are_refused(settings: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        build(Atlas, [*small_federation.SMALL, *FEW, *settings])


def test_a_whole_step_where_all_pull_alike_is_the_exact_average(lab: Lab) -> None:
    mira = results(lab, "mira", "tasks=polarity", "sharpness=0", "smoothing=1")
    average = results(lab, "flexlora", "tasks=polarity")
    for one, other in zip(mira, average, strict=True):
        for name in ("loss", "train_loss", "aggregation_error"):
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-4)


def test_a_stack_begins_with_more_ranks_than_the_server_keeps(lab: Lab) -> None:
    found = results(lab, "flora", "rank=4,8", "server_rank=2")
    assert 0 < found[0].metrics["aggregation_error"] < 1


def test_a_cut_after_more_blocks_than_there_are_is_refused_before_a_round(lab: Lab) -> None:
    with pytest.raises(CannotRun, match="split_after=3: the model has 2 blocks"):
        results(lab, "flexlora", "split_after=3")


def test_a_rank_above_the_width_of_a_layer_is_refused_before_a_round(lab: Lab) -> None:
    with pytest.raises(CannotRun, match="rank=65 is above the width 64 of ") as caught:
        results(lab, "local", "rank=4,65")
    assert caught.value.hint == "--set rank=64 or less"
    assert results(lab, "local", "rounds=1", "clients=2"), "the model is as it was"
