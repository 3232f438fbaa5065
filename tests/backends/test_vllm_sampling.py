"""vLLM writes for policies what the model that is trained writes; one engine in a process of its own says it."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def said(vllm_says: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = vllm_says["policies"]["value"]
    return found


def test_vllm_writes_what_each_policy_would_write_before_a_step_and_after_it(said: dict[str, Any]) -> None:
    assert said["name"].startswith("vllm 0.")
    before, after = said["rounds"]
    for one in (before, after):
        assert one["same"] == [True, True]  # the greedy ones
        assert one["apart"] < 0.01
        assert one["distinct"] > 2
    assert before["apart_of_other"] < 0.01  # adapters begin with zero updates
    assert after["apart_of_other"] > 0.05, "each adapter is that of its slot, and the present one"


def test_vllm_draws_the_same_with_the_same_seeds_and_stops_where_the_trained_model_stops(said: dict[str, Any]) -> None:
    assert said["again"]
    theirs, ours = said["stopped"]
    assert theirs == ours
    assert theirs[2], "it ended before max_tokens"


def test_vllm_has_one_adapter_a_slot_however_often_they_were_trained_and_none_at_the_end(said: dict[str, Any]) -> None:
    assert said["held"] == [2, 2]
    assert said["left"] == [0, 0]


def test_a_vllm_that_dies_while_it_samples_is_told_and_keeps_no_requests(said: dict[str, Any]) -> None:
    code, message, unfinished = said["dead"]
    assert code == 5
    assert "vLLM stopped: EngineDeadError" in message
    assert not unfinished


def test_a_start_of_vllm_that_failed_asks_no_more_of_the_next_one(said: dict[str, Any]) -> None:
    assert said["starts"] == [[2, 8], [3, 16], [2, 8]], "the last loop needs no start"


def test_vllm_refuses_policies_without_adapters_or_with_too_large_ones(said: dict[str, Any]) -> None:
    full, large = said["refused"]
    assert full[0] == large[0] == 7
    assert "with rank=0 all parameters" in full[1]
    assert "--set rank=32" in full[2]
    assert "not of rank 513" in large[1]
    assert "vLLM takes 2,048 tokens" in said["long"]
