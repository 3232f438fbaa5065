"""outputs.json at its limits: huge lines, full disks, folders that refuse, and memory that stays flat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid.canonical import MAX_RECORD
from hybrid.errors import CannotRun, Temporary
from hybrid.outputs import open_outputs, write_outputs
from hybrid.records import Output
from tests.support.small_disks import mounted


def output(number: int, text: str) -> Output:
    return Output(f"k{number}", f"t{number:06}", f"t{number:06}/0", {}, 0, text, None, "yes")


LONG = """
import sys
from hybrid.errors import BadData
from hybrid.outputs import open_outputs
try:
    print(len(list(open_outputs(sys.argv[1]).records())))
except BadData as error:
    print("refused:", error.message[:200])
status = open("/proc/self/status").read()  # ru_maxrss would count the parent of this process too
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.parametrize(
    ("name", "before"),
    [
        (
            "outputs.json",
            b'{"format":"hybrid/outputs","version":1,\n"run":{"id":"x"},\n"models":[],\n"tasks":{\n},\n"records":[\n{"text":"',
        ),
        (
            "pretty.json",
            b'{"format": "hybrid/outputs", "version": 1, "run": {}, "models": [], "tasks": {}, "records": [{"text": "',
        ),
        ("first.json", b'{"'),
        ("some.jsonl", b'{"text":"'),
    ],
)
def test_a_line_of_a_gigabyte_is_refused_in_little_memory(tmp_path: Path, name: str, before: bytes) -> None:
    path = tmp_path / name
    with path.open("wb") as stream:
        stream.write(before)
        stream.truncate(len(before) + 2**30)  # a hole: a gigabyte of zero bytes that takes no room
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    said, peak = done.stdout.splitlines()
    assert said.startswith(f"refused: {path}")
    assert int(peak) < 300


HEAD = b'{"format":"hybrid/outputs","version":1,\n"run":{},\n"models":[],\n"tasks":{\n},\n"records":[\n{"text":"'


@pytest.mark.slow
def test_a_line_of_a_gigabyte_of_letters_through_a_pipe_is_refused_in_little_memory(tmp_path: Path) -> None:
    feeder = (
        f"import sys\nout = sys.stdout.buffer\nout.write({HEAD!r})\nfor _ in range(1024): out.write(b'x' * 2**20)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    feed = subprocess.Popen([sys.executable, "-c", feeder], stdout=subprocess.PIPE)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LONG, "-"],
            stdin=feed.stdout,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
            env=environment,
        )
    finally:
        feed.stdout.close()  # type: ignore[union-attr]
        feed.kill()
        feed.wait()
    said, peak = done.stdout.splitlines()
    assert said.startswith("refused: standard input")
    assert "more than the" in said
    assert int(peak) < 300


@pytest.mark.slow
def test_records_just_within_the_limit_are_read_in_every_layout(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    large = output(0, "x" * (MAX_RECORD - 1000))
    write_outputs(path, {}, [], {}, [large])
    assert list(open_outputs(path).records()) == [large]
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1))
    assert list(open_outputs(path).records()) == [large]


def test_a_full_disk_is_temporary_and_leaves_nothing(full_disk: Path) -> None:
    path = full_disk / "outputs.json"
    with pytest.raises(Temporary, match=r"no room left for .*outputs\.json"):
        write_outputs(path, {}, [], {}, (output(n, "x" * 1000) for n in range(5000)))
    assert list(full_disk.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(full_disk: Path) -> None:
    path = full_disk / "outputs.json"
    write_outputs(path, {}, [], {}, [output(0, "old")])
    before = path.read_bytes()
    with pytest.raises(Temporary):
        write_outputs(path, {}, [], {}, (output(n, "x" * 1000) for n in range(5000)))
    assert [entry.name for entry in full_disk.iterdir()] == ["outputs.json"]
    assert path.read_bytes() == before


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", "1m") as place:
        yield place


def test_a_folder_without_permission_is_said(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("needs a user who is refused something: root is not")
    tmp_path.chmod(0o500)
    with pytest.raises(CannotRun, match="no permission"):
        write_outputs(tmp_path / "outputs.json", {}, [], {}, [])


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Any:
        yield output(0, "first")
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_outputs(tmp_path / "outputs.json", {}, [], {}, broken())
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_flat_in_the_number_of_records(tmp_path: Path) -> None:
    peaks = []
    for rows in (2_000, 40_000):
        path = tmp_path / f"{rows}.json"
        write_outputs(path, {}, [], {}, (output(n, "x" * 200) for n in range(rows)))
        done = subprocess.run([sys.executable, "-c", FLAT, str(path)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 15


FLAT = """
import sys
from hybrid.outputs import open_outputs
for _ in open_outputs(sys.argv[1]).records():
    pass
status = open("/proc/self/status").read()  # ru_maxrss would count the parent of this process too
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""
