"""Pipelines of several stages as real processes: on one machine, on two sides, killed between and within stages."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.real_machines import Machine
from tests.support.three_stages import EXPECTED_EDITS, ITEMS, ThreeStageRun

ASKED = ITEMS - len(EXPECTED_EDITS)
"""Calls of the model: none for the derived stage."""


@pytest.fixture
def chain(tmp_path: Path) -> ThreeStageRun:
    return ThreeStageRun(tmp_path)


def until_calls(process: subprocess.Popen[str], side: Machine, count: int) -> None:
    deadline = time.monotonic() + 240
    while process.poll() is None and len(side.calls()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_three_stages_on_one_machine(chain: ThreeStageRun) -> None:
    done = chain.laptop.run(*chain.local(chain.laptop, "--json"))
    assert done.returncode == 0, done.stderr
    assert chain.edits() == EXPECTED_EDITS
    assert len(chain.laptop.calls()) == len(set(chain.laptop.calls())) == ASKED
    assert {str(one["question"]) for one in chain.records()} == {"t0/0@edit", "t1/0@edit", "t2/0@edit"}
    assert [one["reference"] for one in chain.records()] == ["yes"] * 3
    again = chain.laptop.run(*chain.local(chain.laptop))
    assert "nothing was run" in again.stderr
    assert f"all {ITEMS} items" in again.stderr
    status = chain.laptop.run("status", "--json")
    assert (status.returncode, json.loads(status.stdout)["total"]) == (0, ITEMS), status.stdout
    assert chain.laptop.run("doctor").returncode == 0
    graded = chain.laptop.run("grade", json.loads(status.stdout)["run"], "--grader=exact", "--json")
    assert graded.returncode == 0, graded.stderr
    assert json.loads(graded.stdout)["summary"]["n"] == 3


@pytest.mark.slow
def test_failures_of_every_stage_count(chain: ThreeStageRun) -> None:
    script = json.loads((chain.root / "script.json").read_text())
    del script["answers"]["t1 0"], script["answers"]["about said 2 1"]
    (chain.root / "script.json").write_text(json.dumps(script))
    done = chain.laptop.run(*chain.local(chain.laptop))
    assert done.returncode == 3
    assert (
        "failed (1 of 6 in 'sample', 2 of 6 in 'answer')" in done.stderr
    )  # what is asked about a failure is not in the script either
    assert chain.edits()["t1"] == {  # type: ignore[comparison-overlap]
        "sample": [[None, "yes"], ["said 1 1", "yes"]],
        "answer": [[None, "yes"], ["again said 1 1", "yes"]],
    }
    status = chain.laptop.run("status", "--json")
    assert (status.returncode, json.loads(status.stdout)["failed"]) == (3, 3), status.stdout


@pytest.mark.slow
def test_a_worker_does_all_stages_and_the_laptop_fetches(chain: ThreeStageRun) -> None:
    run = chain.submit("--set=trained=true")
    nothing = chain.laptop.run("fetch", run)
    assert nothing.returncode == 4
    assert "the stage 'answer' waits for the stage 'sample': 6 of its 6 items have no record here" in nothing.stderr
    for command in ("status", "grade"):
        early = chain.laptop.run(command, run, *(["--grader=exact"] if command == "grade" else []))
        assert early.returncode == 4, early.stderr
        assert "waits for the stage 'sample'" in early.stdout + early.stderr
    gpu = chain.side("gpu")
    done = gpu.run(*chain.worker(gpu, "--side=gpu"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is loaded, in") == 1, "once for all stages, of which one trains"
    status = chain.laptop.run("status", "--json")
    assert (status.returncode, json.loads(status.stdout)["done"]) == (0, ITEMS), status.stdout
    fetched = chain.laptop.run("fetch", run, "--json")
    assert fetched.returncode == 0, fetched.stderr
    summary = json.loads(fetched.stdout)
    assert (summary["items"], summary["missing"], summary["failed"], summary["waits"]) == (ITEMS, 0, 0, "")
    assert chain.edits() == EXPECTED_EDITS
    assert len(gpu.calls()) == ASKED


@pytest.mark.slow
def test_a_stage_of_the_laptop_in_between_is_waited_for(chain: ThreeStageRun) -> None:
    run = chain.submit("--set=middle=laptop", "--set=last=gpu")
    gpu = chain.side("gpu")
    first = gpu.run(*chain.worker(gpu, "--side=gpu"))
    assert first.returncode == 4, first.stderr
    assert "waits for the laptop side to do the stage 'answer'" in first.stderr
    assert len(gpu.calls()) == 6
    status = chain.laptop.run("status", run)
    assert status.returncode == 4
    assert "edits: waits for the stage 'answer'" in status.stdout
    second = chain.laptop.run(*chain.worker(chain.laptop, "--side=laptop"))
    assert second.returncode == 4, second.stderr
    assert "waits for the gpu side to do the stage 'edits'" in second.stderr
    third = gpu.run(*chain.worker(gpu, "--side=gpu"))
    assert third.returncode == 0, third.stderr
    assert chain.laptop.run("fetch", run).returncode == 0
    assert chain.edits() == EXPECTED_EDITS
    assert (len(gpu.calls()), len(chain.laptop.calls())) == (6, 6)


@pytest.mark.slow
def test_a_derived_stage_needs_no_model_on_its_machine(chain: ThreeStageRun) -> None:
    run = chain.submit("--set=last=laptop")
    gpu = chain.side("gpu")
    assert gpu.run(*chain.worker(gpu, "--side=gpu")).returncode == 4
    last = chain.laptop.run(*chain.worker(chain.laptop, "--side=laptop", model=False))
    assert last.returncode == 0, last.stderr
    assert chain.laptop.run("fetch", run).returncode == 0
    assert chain.edits() == EXPECTED_EDITS


@pytest.mark.slow
def test_a_kill_between_and_within_stages_changes_nothing(tmp_path: Path) -> None:
    whole, killed = ThreeStageRun(tmp_path / "whole"), ThreeStageRun(tmp_path / "killed")
    assert whole.laptop.run(*whole.local(whole.laptop, "--set=trained=true")).returncode == 0
    chance, side = random.Random(20261121), killed.laptop
    for _ in range(6):
        process = side.start(*killed.local(side, "--set=trained=true", delay_ms=30))
        until_calls(process, side, len(side.calls()) + chance.randrange(1, 5))
        time.sleep(0.3 * chance.random())
        process.kill()
        process.communicate()
    done = side.run(*killed.local(side, "--set=trained=true"))
    assert done.returncode == 0, done.stderr
    assert set(side.calls()) == set(whole.laptop.calls())
    assert killed.records() == whole.records()


@pytest.mark.slow
def test_workers_killed_and_continued_on_other_machines_end_in_the_same_records(tmp_path: Path) -> None:
    whole, killed = ThreeStageRun(tmp_path / "whole"), ThreeStageRun(tmp_path / "killed")
    assert whole.laptop.run(*whole.local(whole.laptop)).returncode == 0
    run, chance = killed.submit(), random.Random(7)
    for number in range(8):
        side = killed.side(f"gpu{number % 3}")
        process = side.start(*killed.worker(side, "--side=gpu", delay_ms=50))
        until_calls(process, side, len(side.calls()) + chance.randrange(1, 5))
        time.sleep(0.5 * chance.random())
        process.kill()
        process.communicate()
    last = killed.side("another")
    done = last.run(*killed.worker(last, "--side=gpu", "--max-idle=5m"), timeout=300)
    assert done.returncode == 0, done.stderr
    assert killed.laptop.run("fetch", run).returncode == 0
    assert [one["text"] for one in killed.records()] == [one["text"] for one in whole.records()]
