"""A laptop and workers that meet in an object store alone: real processes, if possible a real server, a dead worker."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real_machines import ITEMS, Machine, Machines
from tests.support.s3_servers import BUCKET, KEY_ID, SECRET, environment, served_by_best
from tests.support.sync_programs import wait_until

pytest.importorskip("obstore", reason="needs obstore: pip install '.[s3]'")
URL = f"s3://{BUCKET}/team/runs"


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    with served_by_best(tmp_path / "server" / "data") as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        (tmp_path / "machines").mkdir()
        yield Machines(tmp_path / "machines", URL)


def run(machine: Machine, *arguments: str, code: int = 0) -> str:
    done = machine.run(*arguments)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_through_a_store_survives_a_killed_worker(machines: Machines, tmp_path: Path) -> None:
    id = machines.submit()
    laptop, gpu = machines.laptop, machines.side("gpu")
    gpu.holds_after(8)
    killed = gpu.start(*gpu.worker("--beat=1", delay_ms=120, shard_seconds=0.1))
    wait_until(lambda: "; 0 of 42 items" not in run(laptop, "fetch", id, code=4), 240, "a shard arrives")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    safe = len(gpu.calls())
    other = machines.side("other")
    said = run(other, *other.worker("--beat=1"))  # what the killed one held is free after seconds, not after minutes
    assert f"on {URL}," in said
    assert len(other.calls()) < ITEMS, "what was in the store is not done again"
    assert safe + len(other.calls()) >= ITEMS
    assert "42 of 42" in run(laptop, "status", id)
    run(laptop, "fetch", id)
    (outputs,) = (laptop.home / "stores").glob("*/results/*/outputs.json")
    assert len({one["key"] for one in json.loads(outputs.read_text())["records"]}) == ITEMS
    run(laptop, "grade", id, "--grader", "arc")
    assert Path(run(laptop, "report", id).split("\n")[0]).is_file()
    assert f"{URL}\n" in run(laptop, "doctor")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert KEY_ID.encode() not in content, path
            assert SECRET.encode() not in content, path
