"""OpenMP's threads give way on a busy machine: what is set before its library loads, and how many threads there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hybrid.backends.registry import BACKENDS, EMBEDDERS
from hybrid.machine import threads
from hybrid.machine.threads import SPIN_SETTINGS

NAMES = (*SPIN_SETTINGS, "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OMP_DISPLAY_ENV")
WITHOUT_THREADS = ("scripted", "ollama", "openai", "hashed", "none")
ENGINES = [path for name, path in {**BACKENDS, **EMBEDDERS}.items() if name not in WITHOUT_THREADS]
NEEDS = {"llamacpp": "xllamacpp", "classifier": "torch"}


def python(code: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python with these of OpenMP's settings and no others."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | settings
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=True
    )


def settings_at_load(path: str) -> Mapping[str, str]:
    """What stood in the environment of a process when the first library with OpenMP was loaded for `path`."""
    code = f"""
import json, os, sys
def watch(event, arguments):
    if event == "import" and arguments[0].partition(".")[0] in ("torch", "sentence_transformers", "vllm", "xllamacpp"):
        print(json.dumps(dict(os.environ)), flush=True)
        os._exit(0)  # the import itself would take seconds
sys.addaudithook(watch)
from hybrid.machine.late_imports import import_object
import_object({path!r}, needed_for="this test")
"""
    found: dict[str, str] = json.loads(python(code).stdout)
    return {name: found[name] for name in NAMES if name in found}


@pytest.mark.parametrize("path", ENGINES, ids=lambda path: path.partition(":")[0].rpartition(".")[2])
def test_every_engine_finds_the_settings_when_its_library_loads(path: str) -> None:
    name = path.partition(":")[0].rpartition(".")[2]
    library = NEEDS.get(name, name)
    if find_spec(library) is None:
        pytest.skip(f"needs {library}, which is not installed")
    assert settings_at_load(path) == SPIN_SETTINGS


def test_the_users_own_setting_wins() -> None:
    path = "json:loads"
    code = f"""
import json, os
from hybrid.machine.late_imports import import_object
import_object({path!r}, needed_for="this test")
print(json.dumps({{name: os.environ.get(name) for name in {NAMES!r}}}))
"""

    def after(**settings: str) -> dict[str, Any]:
        found = json.loads(python(code, **settings).stdout)
        return {name: value for name, value in found.items() if value is not None}

    assert after() == SPIN_SETTINGS
    assert after(GOMP_SPINCOUNT="7") == {**SPIN_SETTINGS, "GOMP_SPINCOUNT": "7"}
    assert after(KMP_BLOCKTIME="infinite") == {**SPIN_SETTINGS, "KMP_BLOCKTIME": "infinite"}
    assert after(OMP_WAIT_POLICY="active") == {"OMP_WAIT_POLICY": "active"}  # it stands for all runtimes


@pytest.mark.skipif(sys.platform != "linux", reason="needs GNU's OpenMP")
def test_the_runtime_of_openmp_reads_what_was_set() -> None:
    code = """
import ctypes
from hybrid.machine.late_imports import import_object
import_object("json:loads", needed_for="this test")
ctypes.CDLL("libgomp.so.1")
"""
    try:
        shown = python(code, OMP_DISPLAY_ENV="verbose").stderr
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs libgomp: {error.stderr[-100:]}")
    assert f"GOMP_SPINCOUNT = '{SPIN_SETTINGS['GOMP_SPINCOUNT']}'" in shown


def test_a_command_that_loads_nothing_heavy_leaves_the_environment_of_what_it_starts_alone() -> None:
    code = """
import contextlib, os
from hybrid import cli
cli._exit_code(["ollama", "up", "--help"])
print(sorted({"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ)))
"""
    assert python(code).stdout.splitlines()[-1] == "[]"


def test_these_tests_and_what_they_start_have_the_settings() -> None:
    if "OMP_WAIT_POLICY" not in os.environ:
        assert os.environ.keys() >= SPIN_SETTINGS.keys()


# --- how many


def machine(root: Path, groups: str, files: Mapping[str, str]) -> Path:
    """A root with Linux's own files about control groups."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may run on 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {f"{V2}/cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {f"{V2}/cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {f"{V2}/cpu.max": "20000 100000\n"}, 1),
        ("0::/a/b\n", {f"{V2}/a/cpu.max": "300000 100000\n", f"{V2}/a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a/b\n", {f"{V2}/a/cpu.max": "800000 100000\n", f"{V2}/a/b/cpu.max": "400000 100000\n"}, 4),
        ("0::/not/seen/inside\n", {f"{V2}/cpu.max": "500000 100000\n"}, 5),
        ("3:cpu,cpuacct:/\n", {f"{V1}/cpu.cfs_quota_us": "600000\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 6),
        ("3:cpu,cpuacct:/\n", {f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 64),
        ("4:memory:/\n0::/\n", {}, 64),
        ("nonsense\n::\n0\n", {f"{V2}/cpu.max": "x y z\n"}, 64),
        ("0::/\n", {f"{V2}/cpu.max": "100000 0\n"}, 64),
        ("0::/../..\n", {f"{V2}/cpu.max": "100000\n"}, 64),
    ],
)
@pytest.mark.usefixtures("many")
def test_a_container_has_the_cores_that_its_share_pays_for(
    tmp_path: Path, groups: str, files: Mapping[str, str], cores: int
) -> None:
    assert threads.available_cores(machine(tmp_path, groups, files)) == cores


@pytest.mark.usefixtures("many")
def test_without_control_groups_a_process_has_the_cores_that_it_is_bound_to(tmp_path: Path) -> None:
    assert threads.available_cores(tmp_path) == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs the right to bind a process to a core")
def test_a_process_that_is_bound_to_one_core_computes_with_one_thread() -> None:
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from hybrid.machine import threads
print(threads.thread_count())
"""
    assert python(code).stdout == "1\n"


@pytest.mark.parametrize(("said", "number"), [("3", 3), ("5,2", 5), ("", 64), ("0", 64), ("many", 64), ("-2", 64)])
@pytest.mark.usefixtures("many")
def test_the_users_number_of_threads_is_taken(said: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads.thread_count() == number
