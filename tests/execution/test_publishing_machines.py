"""Loops that publish, as real processes with disks of their own: killed, gone on with, and fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybrid.folder.segments import name_of, verify_segment
from hybrid.metrics import RoundMetrics
from tests.support.fleet import until
from tests.support.publishing_loop import MeetingRun
from tests.support.real_machines import Machine

pytestmark = pytest.mark.slow
EVERY = "--backend-option=checkpoint=0"
NODES, ROUNDS = 4, 5


def segments(run: MeetingRun) -> list[Path]:
    return sorted(run.folder.glob("runs/*/segments/*/*/*/segment-*"))


def used(run: MeetingRun) -> dict[tuple[object, int], list[str]]:
    texts = [(one["task"], RoundMetrics.from_text(str(one["text"]))) for one in run.records()]
    return {(task, text.round): text.notes["used"] for task, text in texts}


def test_two_machines_meet_in_the_folder_and_one_is_killed_and_comes_back(tmp_path: Path) -> None:
    run = MeetingRun(tmp_path)
    name = run.submit_loop(f"--set=nodes={NODES}", f"--set=rounds={ROUNDS}", f"--set=quorum={NODES}")
    first, second = (run.side(one) for one in ("first", "second"))
    lasting = first.start(*run.worker(first, EVERY, model=False))
    killed = second.start(*run.worker(second, EVERY, model=False))
    until(lambda: len(segments(run)) >= NODES + 1, "the segments of the first round")
    killed.kill()
    killed.communicate()
    back = second.start(*run.worker(second, EVERY, model=False))
    said = [one.communicate(timeout=240)[1] for one in (lasting, back)]
    assert (lasting.returncode, back.returncode) == (0, 0), said
    done = run.laptop.run("fetch", name, "--rollouts", "--json")
    assert done.returncode == 0, done.stderr
    there = segments(run)
    assert json.loads(done.stdout)["new_segments"] == len(there) >= NODES * ROUNDS
    here = sorted(run.laptop.home.glob("received/*/runs/*/segments/*/*/*/segment-*"))
    assert [one.name for one in here] == [one.name for one in there]
    found = {verify_segment(str(one.relative_to(run.folder)), one.read_bytes()).id for one in there}
    ids = used(run)
    assert set(ids) == {(f"node-{node}", number) for node in range(NODES) for number in range(ROUNDS)}
    for of in ids.values():
        assert len(set(of)) == len(of) >= NODES
        assert found >= set(of)
    assert not [one for one in spooled(first) + spooled(second) if name_of(one.name) is None]
    again = run.laptop.run("fetch", name, "--rollouts", "--json")
    assert json.loads(again.stdout)["new_segments"] == 0


def spooled(side: Machine) -> list[Path]:
    return list((side.home / "spool").glob("*/runs/*/segments/*/*/*/*"))
