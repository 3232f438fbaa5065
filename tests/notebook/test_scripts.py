"""The scripts for ssh, SkyPilot and Slurm: run by bash, an OpenSSH server, a Slurm of one node.

A stand-in takes the place of the Python that has hybrid, as in the tests of notebooks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from hybrid.errors import UsageError
from hybrid.notebook.scripts import SCRIPTS, SUFFIX
from tests.notebook.test_notebook import TEXT, TOKEN, Site, invoke, stand_in, submitted  # noqa: F401
from tests.support.fleet import until
from tests.support.slurm import slurm, told
from tests.support.ssh_server import ssh_server

PATIENCE = 240


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, submitted(tmp_path / "shared"))


def script(site: Site, kind: str, *options: str, **parameters: object) -> str:
    """The script, with its parameters edited as its user may do."""
    path = site.root / f"script{SUFFIX[kind]}"
    made = invoke(kind, site.run.id, f"--folder={site.folder}", f"--out={path}", *options)
    assert made.strip() == str(path)
    indent = "  " if kind == "skypilot" else ""
    lines = path.read_text().splitlines(keepends=True)
    for name, value in {"LOCAL": str(site.root / "local"), **parameters}.items():
        place, *_ = [number for number, line in enumerate(lines) if line.startswith(f"{indent}{name} = ")]
        lines[place] = f"{indent}{name} = {value!r}\n"
    path.write_text("".join(lines))
    return path.read_text()


class Place:
    """Where the script for ssh is started: through the prefix `ssh HOST`, or by bash here."""

    def __init__(self, text: str, root: Path, prefix: Sequence[str], environment: dict[str, str]) -> None:
        self.text, self.log = text, root / "place"
        self.command, self.environment = [*prefix, "bash", "-s"], {**os.environ, **environment}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments], input=self.text, capture_output=True, text=True, env=self.environment,
            timeout=PATIENCE, check=False,
        )  # fmt: skip

    def said(self) -> str:
        return "".join(path.read_text() for path in self.log.glob("*/log"))


def starts_goes_on_and_stops(place: Place) -> None:
    """What the script for ssh does, wherever it runs."""
    assert "it does not run" in place("status").stdout
    begun = place("start", "--until", "5h")
    assert begun.returncode == 0, begun.stderr
    assert "started as process" in begun.stdout
    until(lambda: "asleep" in place.said(), "the worker")
    assert "--side gpu --until 5h" in place.said()
    again = place()
    assert (again.returncode, "it runs already" in again.stdout) == (0, True)
    assert place.said().count("called: -m hybrid worker") == 1
    assert "it runs: process" in place("status").stdout
    assert "asleep" in place("status").stdout
    stopped = place("stop")
    assert (stopped.returncode, "it does not run" in stopped.stdout) == (0, True)
    assert "Not finished" in stopped.stdout
    assert place("start").returncode == 0
    until(lambda: place.said().count("asleep") == 2, "the second worker")
    assert place("stop").returncode == 0
    assert place("begin").returncode == 2


def test_the_script_for_ssh_runs_once_goes_on_and_stops_in_order(site: Site, stand_in: str) -> None:  # noqa: F811
    environment = {"SLEEPS": "yes", "HYBRID_PLACE": str(site.root / "place"), "HYBRID_PYTHON": sys.executable}
    starts_goes_on_and_stops(Place(script(site, "ssh", PYTHON=stand_in), site.root, (), environment))


@pytest.mark.slow
def test_a_real_ssh_server_starts_a_worker_that_outlives_the_connection(site: Site, stand_in: str) -> None:  # noqa: F811
    environment = {"SLEEPS": "yes", "HYBRID_PLACE": str(site.root / "place"), "HYBRID_PYTHON": sys.executable}
    text = script(site, "ssh", PYTHON=stand_in)
    with ssh_server(site.root / "server", environment) as prefix:
        place = Place(text, site.root, prefix, {})
        assert "started as process" in place().stdout
        until(lambda: "asleep" in place.said(), "the worker")
        assert "it runs already" in place().stdout
        assert "Not finished" in place("stop").stdout


def run_here(site: Site, kind: str, text: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script, or the command of a task file, run by bash."""
    code = str(yaml.safe_load(text)["run"]) if kind == "skypilot" else text
    found = {**os.environ, "HYBRID_PYTHON": sys.executable, **environment}
    return subprocess.run(
        ["bash", "-c", code, "script", *arguments], capture_output=True, text=True, cwd=site.root, env=found,
        timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["skypilot", "slurm"])
def test_the_exit_code_of_the_worker_is_that_of_the_script(site: Site, stand_in: str, kind: str) -> None:  # noqa: F811
    text = script(site, kind, PYTHON=stand_in)
    for code, words in ((0, "Done"), (4, "Not finished"), (5, "Something is away"), (137, "ended from outside")):
        done = run_here(site, kind, text, CODE=str(code))
        assert done.returncode == code, done.stderr
        assert words in done.stdout
    assert "again" in done.stdout
    assert " cell" not in done.stdout
    missing = run_here(site, kind, script(site, kind, FOLDER=str(site.root)))
    assert missing.returncode == 7
    assert "STOPPED: " in missing.stdout
    assert "start this script again" in missing.stdout
    assert "Traceback" not in missing.stdout + missing.stderr


def test_slurm_queues_a_job_again_whose_time_is_nearly_up(site: Site, stand_in: str) -> None:  # noqa: F811
    """The signal of `--signal=B:USR1`, and a stand-in for `scontrol`."""
    text = script(site, "slurm", PYTHON=stand_in)
    assert "#SBATCH --signal=B:USR1@300\n" in text
    assert "#SBATCH --requeue\n" in text
    (site.root / "scontrol").write_text('#!/bin/sh\necho "scontrol: $*"\n')
    (site.root / "scontrol").chmod(0o700)
    path = f"{site.root}{os.pathsep}{os.environ['PATH']}"
    for number, queued in ((signal.SIGUSR1, True), (signal.SIGTERM, False)):
        found = {**os.environ, "HYBRID_PYTHON": sys.executable, "PATH": path, "SLEEPS": "yes", "SLURM_JOB_ID": "77"}
        command = ["bash", "-c", text, "script"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=found, cwd=site.root) as process:
            assert process.stdout
            said = ""
            while "asleep" not in said:
                said += process.stdout.readline()
            process.send_signal(number)
            said += process.stdout.read()
        assert process.returncode == 4, said
        assert "Not finished" in said
        assert ("scontrol: requeue 77" in said) is queued


@pytest.mark.slow
def test_a_real_slurm_runs_the_script_and_queues_it_again(site: Site, stand_in: str) -> None:  # noqa: F811
    path = site.root / "script.sbatch"
    script(site, "slurm", PYTHON=stand_in)
    with slurm(site.root / "slurm") as environment:
        environment |= {"SLEEPS": "yes", "HYBRID_PYTHON": sys.executable}
        tested = subprocess.run(
            ["sbatch", "--test-only", str(path)], env=environment, capture_output=True, text=True, check=False
        )
        assert tested.returncode == 0, tested.stderr
        place = ["sbatch", "--parsable", f"--chdir={site.root}", "--time=10", str(path), "--until", "5h"]
        job = told(place, environment).strip()
        log = site.root / f"{site.run.id}-{job}.log"
        until(lambda: log.exists() and "asleep" in log.read_text(), "the worker")
        assert "--side gpu --until 5h" in log.read_text()
        told(["scancel", "--signal=USR1", "--batch", job], environment)  # as --signal=B:USR1@300 does
        until(lambda: "Restarts=1" in told(["scontrol", "show", "job", job], environment), "another place in the queue")
        assert "Not finished" in log.read_text()
        assert "the job is queued again" in log.read_text()
        told(["scancel", job], environment)


def test_the_task_file_is_what_skypilot_reads(tmp_path: Path) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared", backend="vllm", model="org/name"))
    task = yaml.safe_load(script(site, "skypilot", "--at=s3://bucket/shared/folder"))
    code = task.pop("run")
    assert task == {
        "name": site.run.id,
        "resources": {
            "accelerators": {"T4": 1, "L4": 1, "A10G": 1, "A100": 1, "H100": 1},
            "use_spot": True,
            "job_recovery": {
                "strategy": "EAGER_NEXT_REGION", "max_restarts_on_errors": 3, "recover_on_exit_codes": [5],
            },
        },
        "file_mounts": {"~/hybrid-folder": {"source": "s3://bucket/shared/folder", "mode": "MOUNT_CACHED"}},
        "secrets": {"HF_TOKEN": ""},
    }  # fmt: skip
    assert "FOLDER = '~/hybrid-folder'" in code
    assert "ASK_HF_TOKEN = True" in code
    assert "file_mounts" not in yaml.safe_load(script(site, "skypilot"))


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_holds_no_secret_and_nothing_of_the_data_and_is_the_same_again(
    site: Site, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    path = site.root / f"script{SUFFIX[kind]}"
    script(site, kind)
    assert TOKEN not in path.read_text()
    assert TEXT not in path.read_text()
    invoke(kind, site.run.id, f"--folder={site.folder}", f"--out={path}")
    before = path.read_bytes()
    invoke(kind, site.run.id, f"--folder={site.folder}", f"--out={path}")
    assert path.read_bytes() == before
    if kind != "skypilot":
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    path.write_text("a letter")
    with pytest.raises(UsageError, match="holds something else"):
        invoke(kind, site.run.id, f"--folder={site.folder}", f"--out={path}")


def test_a_folder_with_odd_signs_in_its_name_is_text_and_not_code(tmp_path: Path, stand_in: str) -> None:  # noqa: F811
    folder = tmp_path / "it's $(touch gone) `x`: {a}\nHYBRID_PROGRAM"
    site = Site(tmp_path, submitted(folder))
    for kind in ("skypilot", "slurm"):
        path = tmp_path / f"odd{SUFFIX[kind]}"
        invoke(kind, site.run.id, f"--folder={folder}", f"--out={path}")
        text = path.read_text().replace("PYTHON = ''", f"PYTHON = {stand_in!r}")
        done = run_here(site, kind, text)
        assert done.returncode == 0, done.stdout
    assert not (tmp_path / "gone").exists()
