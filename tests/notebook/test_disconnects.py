"""The notebooks of Colab and Kaggle in a real kernel with a real worker: again and again, and after a disconnect."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient

from hybrid.folder.medium import Disk
from hybrid.folder.runs import open_run
from tests.notebook.test_notebook import (  # noqa: F401 - fixtures
    Site,
    code_of,
    colab,
    kaggle,
    kernel,
    kernel_output,
    submitted,
    wait_for,
)

TASKS = 8


class Rented:
    """A machine of a site: its own disk, and how the notebook's cells run there."""

    def __init__(self, site: Site, kind: str, name: str, **parameters: Any) -> None:
        self.place = site.root / name
        self.place.mkdir()
        (site.root / "answers.json").write_text(json.dumps({"answers": {}, "default": "1"}))
        self.calls = site.root / "calls"
        options = ["--once", "--linger=0", "--shard-seconds=0.2", f"--model=answers={site.root / 'answers.json'}"]
        options += [f"--backend-option=calls={self.calls}", "--backend-option=delay_ms=150"]
        own = {"LOCAL": str(self.place / "local"), "PYTHON": sys.executable, "OPTIONS": options, **parameters}
        *self.before, self.work, self.end = code_of(site.write(kind))
        self.before.insert(1, "\n".join(f"{name} = {value!r}" for name, value in own.items()))
        self.environment = {"HYBRID_HOME": str(self.place / "home")}

    def begin(self, client: BlockingKernelClient) -> str:
        """Run all cells but the last; the request of the one that works, which goes on."""
        for cell in self.before:
            assert "STOPPED" not in (said := kernel_output(client, client.execute(cell))), said
        return str(client.execute(self.work))

    def run_all(self, client: BlockingKernelClient) -> str:
        """What the cell that works and the last one said."""
        said = kernel_output(client, self.begin(client))
        return said + kernel_output(client, client.execute(self.end))

    def asked(self) -> int:
        return len(self.calls.read_text().split()) if self.calls.exists() else 0


def groups_below(pid: int) -> set[int]:
    """The process groups of what a process has started, of those that still run, without its own."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, parent, group, *_ = stat.read_text().rsplit(")", 1)[1].split()
            if int(parent) == pid:
                found.add(int(group))
    return found - {os.getpgid(pid)}


def records(folder: Path) -> dict[str, str]:
    """Key -> text of the records in the folder."""
    run = open_run(Disk(folder), "")
    return {record["key"]: record["text"] for _, shard in run.shards("answer", []) for record in shard.records}


def done_and_again_nothing_to_do(rented: Rented, site: Site) -> None:
    """The machine finishes the run; all cells once more ask nothing and change no record."""
    with kernel(site.root, rented.environment) as (_, client):
        assert "Done: nothing of this run is left" in rented.run_all(client)
        found, asked = records(site.folder), rented.asked()
        assert len(found) == TASKS
        assert set(found.values()) == {"1"}
        assert "Done: nothing of this run is left" in rented.run_all(client)
        assert (records(site.folder), rented.asked()) == (found, asked)


@pytest.mark.slow
def test_colab_goes_on_after_its_kernel_was_killed_while_the_worker_works(
    tmp_path: Path,
    colab: dict[str, str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", colab["PYTHONPATH"])
    site = Site(tmp_path, submitted(tmp_path / "shared", TASKS))
    rented = Rented(site, "colab", "machine", FOLDER=str(site.folder))
    with kernel(site.root, rented.environment) as (manager, client):
        rented.begin(client)
        wait_for(lambda: rented.asked() >= 3)
        manager.provisioner.process.kill()
    done_and_again_nothing_to_do(rented, site)
    assert rented.asked() <= TASKS + 2  # those that were being answered


@pytest.mark.slow
def test_kaggle_goes_on_with_another_machine_after_the_first_was_lost(
    tmp_path: Path,
    kaggle: dict[str, Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "kaggle_secrets.py").write_text(
        "class UserSecretsClient:\n    def get_secret(self, label):\n"
        "        return {'RCLONE_CONF': '[lab]\\ntype = local\\n'}[label]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(modules))
    site = Site(tmp_path, submitted(tmp_path / "shared", TASKS))
    first, second = (
        Rented(site, "kaggle", name, REMOTE=f"lab:{site.folder}", FOLDER=str(tmp_path / name / "copy"))
        for name in ("first", "second")
    )
    first.work = first.work.replace("wait(60)", "wait(0.2)").replace("--min-age=15s", "--min-age=0s")
    with kernel(site.root, first.environment) as (manager, client):
        first.begin(client)
        wait_for(lambda: len(records(site.folder)) >= 2)
        kernel_process = manager.provisioner.process
        kernel_process.send_signal(signal.SIGSTOP)  # it starts nothing more
        machine = groups_below(kernel_process.pid)
        kernel_process.kill()
        for one in machine:
            with suppress(ProcessLookupError):  # a short copy may have ended by itself
                os.killpg(one, signal.SIGKILL)
    kept = records(site.folder)
    done_and_again_nothing_to_do(second, site)
    assert kept.items() <= records(site.folder).items()
    assert first.asked() <= 2 * TASKS - len(kept)
