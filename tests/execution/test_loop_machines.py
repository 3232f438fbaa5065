"""Loops as real processes: a plugin of one file, killed, gone on with on another machine, shared, never mixed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hybrid.folder.names import TensorName
from tests.support.averaging_loop import MODULE, LoopRun
from tests.support.fleet import until
from tests.support.real_machines import Machine

pytestmark = pytest.mark.slow
EVERY = "--backend-option=checkpoint=0"


def at(side: Machine, log: Path, **more: str) -> Machine:
    side.environment |= {"ROUNDS_LOG": str(log), **more}
    return side


def computed(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def worker(run: LoopRun, side: Machine) -> list[str]:
    return run.worker(side, EVERY, model=False)


def kept_rounds(run: LoopRun) -> list[int]:
    """The numbers of the states in the folder."""
    found = [TensorName.parse(path.name) for path in run.folder.glob("runs/*/tensors/*/*/*/part-*")]
    return [part.number for part in found if part]


def texts(run: LoopRun) -> list[object]:
    return [record["text"] for record in run.records()]


def fetched(run: LoopRun, name: str) -> list[object]:
    done = run.laptop.run("fetch", name, "--json")
    assert done.returncode == 0, done.stderr
    return texts(run)


def test_a_killed_worker_is_replaced_and_only_its_last_round_is_computed_again(tmp_path: Path) -> None:
    assert len(MODULE.strip().splitlines()) <= 100
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = LoopRun(tmp_path / "whole"), LoopRun(tmp_path / "killed")
    done = whole.laptop.run("run", "local", "averaging", "--set=rounds=40")
    assert done.returncode == 0, done.stderr
    assert "loading" not in done.stderr
    assert "no language model is asked" in whole.laptop.run("describe", "averaging").stdout
    assert "pipeline averaging, no language model" in whole.laptop.run("status", "averaging").stdout
    name, log = killed.submit_loop("--set=rounds=40"), tmp_path / "log"
    first, second = at(killed.side("first"), log, HELD_AT="20", HELD_UNTIL="/nowhere"), at(killed.side("second"), log)
    process = first.start(*worker(killed, first))
    until(lambda: max(kept_rounds(killed), default=0) >= 10, "the state of a tenth round in the folder")
    until(lambda: "last round of 'rate 0.0" in first.run("status", name).stdout, "its status")
    assert ": loss " in first.run("status", name).stdout
    assert process.poll() is None
    process.kill()
    process.communicate()
    again = second.run(*worker(killed, second))
    assert again.returncode == 0, again.stderr
    assert fetched(killed, name) == texts(whole)
    assert len(computed(log)) <= 2 * 40 + 11, "it began where the last state in the folder was"


def test_rounds_of_two_machines_that_compute_differently_are_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    run, alone, log = LoopRun(tmp_path), LoopRun(tmp_path / "alone"), tmp_path / "log"
    one_long = ["--set=rates=0.05", "--set=rounds=40"]
    name = run.submit_loop(*one_long)
    first = at(run.side("first"), log, ROUNDS_PAUSE="0.05", HELD_AT="20", HELD_UNTIL="/nowhere")
    process = first.start(*worker(run, first))
    until(lambda: len(list(run.folder.glob("runs/*/rounds/*/*/shard-*"))) >= 2, "two shards in the folder")
    until(lambda: kept_rounds(run), "a state in the folder")
    process.kill()
    process.communicate()
    assert 2 < len(computed(log)) < 40
    (place,) = run.folder.glob("runs/*/tensors")
    shutil.rmtree(place)  # its records arrived, its states did not
    other = at(run.side("other"), log, OTHER_BITS="1e-9")
    done = other.run(*worker(run, other))
    assert done.returncode == 0, done.stderr
    assert "0.05/0" in computed(log)[2:], "it began anew"
    fetch = run.laptop.run("fetch", name, "--json")
    assert fetch.returncode == 0, fetch.stderr
    assert "of another trajectory, computed by another machine, passed over" in fetch.stderr
    alone.laptop.environment["OTHER_BITS"] = "1e-9"
    assert alone.laptop.run("run", "local", "averaging", *one_long).returncode == 0
    assert texts(run) == texts(alone)


def test_two_workers_of_a_machine_share_the_series(tmp_path: Path) -> None:
    run, logs = LoopRun(tmp_path), [tmp_path / "one", tmp_path / "two"]
    name = run.submit_loop("--set=rates=0.01,0.02,0.03,0.04,0.05,0.06")
    sides = [
        at(run.side(log.name), log, HYBRID_HOME=str(tmp_path / "home"), HELD_AT="1", HELD_UNTIL=str(other))
        for log, other in zip(logs, reversed(logs), strict=True)
    ]  # each is at work when the other is
    processes = [
        side.start(*worker(run, side), "--beat=60") for side in sides
    ]  # one that stands still keeps its series
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    rates = [{one.partition("/")[0] for one in computed(log)} for log in logs]
    assert len(rates[0] | rates[1]) == 6
    assert all(rates), "both did some of them"
    assert not rates[0] & rates[1], "a series is advanced by one worker"
    assert len(fetched(run, name)) == 6 * 12
