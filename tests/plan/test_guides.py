"""The guides' tables by their own formulas, to the printed digit, and what is true beside them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.seal.guide import adapter_parameters
from tests.support.in_process import Hybrid


def tables_of(hybrid: Hybrid, pipeline: str) -> list[dict[str, Any]]:
    done = hybrid("plan", pipeline, "--guide", "--json")
    assert done.code == 0
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert all(len(row) == len(table["columns"]) for table in found for row in table["rows"])
    return found


def test_a_swarm_needs_three_times_the_memory_that_the_guide_says(hybrid: Hybrid) -> None:
    memory, nodes = tables_of(hybrid, "sapo")
    assert memory["rows"] == [
        ["GPT-2", "6.5", "5.8", "15.4", "17.3"],
        ["Qwen2.5-0.5B", "16.0", "15.9", "46.7", "51.8"],
    ]
    its_code = {row[0]: row[2] for row in nodes["rows"]}
    assert its_code == {"t4": "0", "l4": "1", "v100-32": "1", "a100-40": "2", "a100-80": "4"}


def test_the_memory_of_two_phase_training_to_the_printed_digit(hybrid: Hybrid) -> None:
    rows = {row[0]: row[1] for row in tables_of(hybrid, "cvfp")[0]["rows"]}
    assert [rows[name] for name in ("weights", "adam", "contexts", "activations", "total")] == [
        "349", "698", "293", "4,102", "5,441",
    ]  # fmt: skip
    assert rows["missing there: all logits of phase 2, one copy"] == "19,172"  # 18.7 GiB
    assert rows["missing there: one matrix of all pairs"] == "38,147"  # 37 GiB


def test_federated_traffic_and_times(hybrid: Hybrid) -> None:
    times, traffic, _ = tables_of(hybrid, "atlas")
    assert [row[1] for row in traffic["rows"]] == ["1,277", "1,294"]
    assert traffic["rows"][1][2] == "17.7"
    for row in times["rows"]:
        assert float(row[3]) == pytest.approx(float(row[4]), rel=0.02)  # its speed explains its own run ...
        assert float(row[1]) > 15 * float(row[2])  # ... and not the minutes that it promises for its defaults


def test_seconds_of_creative_scenarios(hybrid: Hybrid) -> None:
    (table,) = tables_of(hybrid, "branch")
    assert table["rows"][-1][:3] == ["all", "49", "49 to 147"]


@pytest.mark.parametrize("pipeline", ["seal-ttt", "seal-self-edit", "seal-restem"])
def test_seal_on_small_gpus(hybrid: Hybrid, pipeline: str) -> None:
    seconds, adapters = tables_of(hybrid, pipeline)
    assert [row[2] for row in seconds["rows"]] == ["25.0", "5.2", "1.6"]
    assert seconds["rows"][1][4] == "104%"
    assert [row[2:5] for row in adapters["rows"]] == [
        ["19", "10", "77"], ["38", "19", "153"], ["153", "77", "612"], ["306", "153", "1,225"],
    ]  # fmt: skip
    assert adapter_parameters(128) == 76_546_048


def test_a_pipeline_without_a_guide_says_so(hybrid: Hybrid) -> None:
    done = hybrid("plan", "qa-eval", "--guide")
    assert done.code == 2
    assert "there is no guide to 'qa-eval'" in done.stderr


def test_what_is_not_known_costs_not_nothing(hybrid: Hybrid) -> None:
    done = hybrid("plan", "qa-eval", "--limit", "1", "--model", "llama9", "--gpu", "t4")
    assert done.code == 7
    assert "t4: nothing is planned for it" in done.stdout
    assert "money" not in done.stdout
    assert "neither memory nor time is planned of 'llama9'" in done.stderr
