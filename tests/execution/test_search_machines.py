"""Searches as real processes: killed and resumed, on several machines, two at work on one tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybrid.folder.medium import Disk
from hybrid.folder.runs import open_run
from tests.support.fleet import until
from tests.support.tree_search import MODULE, TEXTS, SearchRun


@pytest.fixture
def search(tmp_path: Path) -> SearchRun:
    return SearchRun(tmp_path)


def recorded(search: SearchRun) -> set[str]:
    run = open_run(Disk(search.folder), "stories")
    return {record["key"] for _, shard in run.shards("search", []) for record in shard.records}


@pytest.mark.slow
def test_a_plugin_of_one_file_is_searched_and_killed_at_its_completions(tmp_path: Path) -> None:
    assert len(MODULE.strip().splitlines()) <= 65
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = SearchRun(tmp_path / "whole"), SearchRun(tmp_path / "killed")
    assert whole.laptop.run(*whole.local(whole.laptop)).returncode == 0
    assert len(whole.laptop.calls()) == len(set(whole.laptop.calls())) == TEXTS
    side, known = killed.laptop, set[str]()
    side.holds_after(5)
    for _ in range(4):
        calls, before = len(side.calls()), len(killed.shards())
        process = side.start(*killed.local(side, delay_ms=120))
        until(lambda least=calls + 5: len(side.calls()) >= least, "five more calls")  # type: ignore[misc]
        until(lambda least=before + 1: len(killed.shards()) >= least, "a shard of them")  # type: ignore[misc]
        process.kill()
        process.communicate()
        assert known.isdisjoint(side.calls()[calls:]), "no recorded call is repeated"
        known = recorded(killed)
    status = side.run("status", "--json")
    summary = json.loads(status.stdout)
    assert (status.returncode, summary["so_far"], summary["eta_seconds"]) == (4, True, None), status.stdout
    assert "items so far: which come next depends on the answers" in side.run("status", summary["run"]).stdout
    calls = len(side.calls())
    side.goes_on()
    done = side.run(*killed.local(side))
    assert done.returncode == 0, done.stderr
    assert known.isdisjoint(side.calls()[calls:])
    assert [one["text"] for one in killed.records()] == [one["text"] for one in whole.records()]


@pytest.mark.slow
def test_two_workers_share_one_search_and_agree(search: SearchRun) -> None:
    run = search.submit("--set=trees=2", "--set=levels=4")
    sides = [search.side(name) for name in ("one", "two")]
    for side in sides:
        side.holds_after(0)
    processes = [side.start(*search.worker(side, delay_ms=150)) for side in sides]
    until(lambda: all(side.calls() for side in sides), "both are at work")
    for side in sides:
        side.goes_on()
    said = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    calls = [set(side.calls()) for side in sides]
    assert len(calls[0] | calls[1]) == 2 * 2 * 15
    assert all(calls), "both did some of it"
    fetched = search.laptop.run("fetch", run, "--json")
    assert fetched.returncode == 0, fetched.stderr
    assert [len(str(one["text"]).split()) for one in search.records()] == [15, 15]
    assert search.laptop.run("status", run).returncode == 0
