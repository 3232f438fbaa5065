"""The time of a plan, corrected by what earlier runs took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.plan.counting import PromptTokens
from hybrid.plan.gpus import chosen
from hybrid.plan.measured import Measured, by_measurement
from hybrid.plan.memory import needs_of
from hybrid.plan.shapes import shape_of
from hybrid.plan.speed import answering, seconds_of, work_of
from hybrid.plan.workload import RoleLoad
from tests.conftest import Hybrid

LOAD = RoleLoad("", 1000, PromptTokens(500_000, 700, True, ""), 200_000, sampled=False)


def test_a_run_that_took_three_times_as_long_makes_the_same_work_three_times_as_long() -> None:
    (t4,) = chosen(["t4"])
    shape = shape_of("llama3.2-1b")
    needs = needs_of("transformers", shape, {}, t4, LOAD)
    work = work_of(LOAD)
    ends = [seconds_of("transformers", shape, needs, t4, work, good=good) for good in (True, False)]
    usual = (ends[0] * ends[1]) ** 0.5
    past = Measured(0, 1000, 500_000, 200_000, usual)  # no start among them
    once, thrice = (
        by_measurement("transformers", shape, needs, t4, LOAD, replace(past, seconds=usual * factor))
        for factor in (1, 3)
    )
    assert once.low < usual < once.high
    assert thrice.low == pytest.approx(3 * once.low)
    wide = answering("transformers", shape, needs, t4, LOAD)
    assert once.high / once.low < wide.high / wide.low


def test_answers_are_taken_to_be_as_long_as_they_were() -> None:
    (t4,) = chosen(["t4"])
    shape = shape_of("llama3.2-1b")
    needs = needs_of("vllm", shape, {}, t4, LOAD)
    whole = Measured(0, 100, 50_000, 20_000, 60.0)
    short = Measured(0, 100, 50_000, 2_000, 60.0 * 0.2)
    spans = [by_measurement("vllm", shape, needs, t4, LOAD, past) for past in (whole, short)]
    assert spans[1].high < spans[0].high


def test_a_plan_says_by_which_runs_its_time_is_corrected(
    hybrid: Hybrid, smollm2_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid.plan.past_runs.LEAST_SECONDS", 0.0)
    settings, where = ("--limit", "1", "--set", "max_tokens=2"), ("--folder", str(tmp_path / "folder"))
    before = json.loads(hybrid("plan", "qa-eval", *settings, *where, "--gpu", "cpu", "--json").stdout)
    assert before["gpus"][0]["measured"] is None
    assert hybrid("run", "local", "qa-eval", *settings, *where).code == 0
    after = hybrid("plan", "qa-eval", *where, "--gpu", "cpu,t4", "--json")
    cpu, t4 = json.loads(after.stdout)["gpus"]
    assert cpu["measured"]["records"] == 3
    assert cpu["measured"]["prompt_tokens"] == before["prompt_tokens"]
    assert t4["measured"] is None
    said = hybrid("plan", "qa-eval", *where, "--gpu", "cpu").stdout
    assert "corrected by an earlier run here: 3 records" in said


def test_a_pilot_is_run_here_and_calibrates_this_machine(
    hybrid: Hybrid, smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid.plan.past_runs.LEAST_SECONDS", 0.0)
    done = hybrid("plan", "qa-eval", "--set", "max_tokens=2", "--gpu", "cpu", "--pilot", "1")
    assert done.code == 0
    assert "36 items" in done.stdout
    assert "corrected by an earlier run here: 3 records" in done.stdout
    refused = hybrid("plan", "cvfp", "--preset", "demo", "--gpu", "cpu", "--pilot", "1")
    assert refused.code == 2
    assert "has no setting 'limit'" in refused.stderr
