"""A folder that cannot be written, or has no room: what needs neither is delivered, and the rest is told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hybrid.machine import home
from tests.support.in_process import Hybrid
from tests.support.run_folder import RunFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    made = RunFolder(tmp_path)
    monkeypatch.setenv("HYBRID_FOLDER", str(made.folder))
    made.shard(*range(6))
    return made


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """`mount` with these arguments, of which the last is where; taken away at the end."""
    mounted: list[Path] = []

    def run(*arguments: object) -> None:
        if subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount")
        mounted.append(Path(str(arguments[-1])))

    yield run
    for one in reversed(mounted):
        subprocess.run(["umount", "-l", str(one)], check=False, capture_output=True)


def test_outputs_of_a_read_only_folder_are_delivered_elsewhere(
    place: RunFolder, hybrid: Hybrid, mount: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mount("--bind", place.folder, place.folder)
    mount("-o", "remount,bind,ro", place.folder)
    run, file = place.run.id, tmp_path / "outputs.json"
    default = hybrid("fetch", run)
    assert (default.code, default.stdout) == (7, "")
    assert "write to another place: -o FILE" in default.stderr
    assert list(home.received_of(place.folder).rglob("shard-*")), "what could be read is safe here"
    named = hybrid("fetch", run, "-o", file)
    assert (named.code, named.stdout) == (7, f"{file}\n")
    assert "what is here could not be acknowledged: no permission" in named.stderr
    assert "the workers keep their copies until this is fetched again where the folder can be written" in named.stderr
    assert len(json.loads(file.read_text())["records"]) == 6
    out = hybrid("fetch", run, "-o", "-")
    assert (out.code, out.stdout) == (7, file.read_text())
    assert "outputs.json is not renewed: no permission" in caplog.text
    for where in ("-", tmp_path / "grades.json"):
        graded = hybrid("grade", run, "-o", where)
        assert graded.code == 0, graded.stderr
    assert json.loads((tmp_path / "grades.json").read_text())["format"] == "hybrid/grades"
    assert hybrid("grade", run).code == 7


def test_what_goes_to_standard_output_needs_no_room_in_the_folder(
    place: RunFolder, hybrid: Hybrid, mount: Callable[..., None]
) -> None:
    results = place.folder / "results"
    results.mkdir()
    mount("-t", "tmpfs", "-o", "size=4k", "tmpfs", results)
    with suppress(OSError), (results / "full").open("wb") as stream:
        stream.write(bytes(4096))
    run = place.run.id
    assert hybrid("fetch", run).code == 5
    fetched = hybrid("fetch", run, "-o", "-")
    assert (fetched.code, len(json.loads(fetched.stdout)["records"])) == (0, 6), fetched.stderr
    graded = hybrid("grade", run, "-o", "-")
    assert (graded.code, json.loads(graded.stdout)["format"]) == (0, "hybrid/grades"), graded.stderr
