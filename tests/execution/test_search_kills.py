"""Searches whose every completion is a process's last: no answer is lost, no call repeated, the tree is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tree_search import SearchRun

LEVELS = int(os.environ.get("HYBRID_TEST_LEVELS", "4"))
"""Of the tree that is killed at each of its completions: 60 of 4 levels, 124 of 5."""


def texts(levels: int) -> int:
    """Texts of a tree; each has an embedding."""
    return 2 * (2**levels - 1)


def lives_of(search: SearchRun, command: list[str]) -> list[dict[str, Any]]:
    """What became of each life of the command, which was killed at its first completion, until none was left."""
    side = search.laptop
    told = [str(search.folder), str(side.home), str(side.calls_file), "stories", "search", json.dumps(command)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_searches", *told],
        env={**side.environment, "PYTHONPATH": f"{search.packages}:{Path.cwd()}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    found = json.loads(done.stdout)
    assert found["lives"][-1]["code"] == 0, found["said"]
    return list(found["lives"])


def check(lives: list[dict[str, Any]], count: int) -> None:
    """Every life but the last recorded what it finished, and nothing that was recorded is asked again."""
    known, asked = set[str](), list[str]()
    for life in lives:
        assert known.isdisjoint(life["calls"]), "a finished call was repeated"
        assert len(set(life["calls"]) - set(life["recorded"])) <= 1, "at most the call that the model was at is lost"
        assert known <= set(life["recorded"])
        known, asked = set(life["recorded"]), asked + life["calls"]
    assert len(lives) == 2 * count + 1, "each life had one completion"
    assert len(set(asked)) == count


@pytest.mark.slow
def test_a_tree_killed_at_every_completion_repeats_no_call_and_is_the_same(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = SearchRun(tmp_path / "whole"), SearchRun(tmp_path / "killed")
    settings = ("--set=trees=1", f"--set=levels={LEVELS}", "--shard-seconds=60")
    assert whole.laptop.run(*whole.local(whole.laptop, *settings)).returncode == 0
    check(lives_of(killed, killed.local(killed.laptop, *settings)), texts(LEVELS))
    assert killed.records() == whole.records()


@pytest.mark.slow
def test_a_worker_killed_at_every_completion_repeats_no_call(tmp_path: Path) -> None:
    search = SearchRun(tmp_path)
    run = search.submit("--set=trees=1", "--set=levels=3")
    check(lives_of(search, search.worker(search.laptop, "--shard-seconds=60")), texts(3))
    assert search.laptop.run("fetch", run, "--json").returncode == 0
    assert len(str(search.records()[0]["text"]).split()) == 7
