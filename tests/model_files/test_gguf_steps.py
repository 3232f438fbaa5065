"""A GGUF converted in steps: the result equals a conversion in one step, and a kill costs one step."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs transformers, which is not installed")
pytest.importorskip("gguf", reason="needs gguf, which is not installed")

from safetensors import safe_open

from hybrid.errors import CannotRun
from hybrid.model_files import gguf_parts, gguf_steps
from hybrid.model_files.gguf import as_folder
from tests.conftest import ROOT
from tests.support.small_gguf import header, write_model

pytestmark = pytest.mark.filterwarnings("ignore")
STEP = 1000
"""Parameters in a step: a block of the small model has 10,304, so each block is a step, and the rest another."""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where converted models are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hybrid" / "models"


def weights(files: Iterable[Path]) -> dict[str, Any]:
    """Every tensor in some files, as nested lists; no name may be in two files."""
    found: dict[str, Any] = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                assert name not in found
                found[name] = tensors.get_tensor(name).tolist()
    return found


def described(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if "model" not in file.name}


@pytest.mark.parametrize("without", [[], ["output.weight"]])
def test_steps_make_the_model_that_the_library_makes_of_the_whole(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, without: list[str]
) -> None:
    (path,) = write_model(tmp_path / "m", without=without)
    whole = as_folder(path).rename(tmp_path / "whole")
    assert [file.name for file in whole.glob("model*")] == ["model.safetensors"]
    monkeypatch.setattr(gguf_steps, "STEP_PARAMETERS", STEP)
    stepped = as_folder(path)
    files = sorted(stepped.glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert weights(files) == weights([whole / "model.safetensors"])
    assert described(stepped) == described(whole)
    index = json.loads((stepped / "model.safetensors.index.json").read_text())
    assert {name: {file} for name, file in index["weight_map"].items()} == {
        name: {file.name for file in files if name in weights([file])} for name in weights(files)
    }
    assert list(models.iterdir()) == [stepped]


KILLED = """
import sys
from pathlib import Path
from hybrid.model_files import gguf, gguf_steps
gguf_steps.STEP_PARAMETERS = int(sys.argv[2])
keep = gguf_steps.Conversion._keep
def stop(conversion, draft, place):
    keep(conversion, draft, place)
    if place.name.startswith("00002"):
        print("two are kept", flush=True)
        sys.stdin.read()
gguf_steps.Conversion._keep = stop
gguf.as_folder(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_kill_costs_one_step_and_a_damaged_step_is_made_again(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_model(tmp_path / "m")
    whole = weights(as_folder(path).rename(tmp_path / "whole").glob("*.safetensors"))
    command = [sys.executable, "-c", KILLED, str(path), str(STEP)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        assert process.stdout.readline() == b"two are kept\n"
        process.kill()
    (kept,) = models.glob("*.steps")
    first, second = (place / "model.safetensors" for place in sorted(kept.iterdir()))
    data = bytearray(second.read_bytes())
    data[-1] ^= 1
    second.write_bytes(data)
    numbers = first.stat().st_ino, second.stat().st_ino
    monkeypatch.setattr(gguf_steps, "STEP_PARAMETERS", STEP)
    with second.open("rb"):  # its number is not given to another file meanwhile
        folder = as_folder(path)
    files = sorted(folder.glob("*.safetensors"))
    assert weights(files) == whole
    assert (files[0].stat().st_ino == numbers[0], files[1].stat().st_ino == numbers[1]) == (True, False)
    assert not kept.exists()


def test_a_process_that_was_first_and_cleared_the_steps_away_has_done_the_work_of_both(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_model(tmp_path / "m")
    folder = as_folder(path)
    first = folder.rename(tmp_path / "first")
    join = gguf_steps.Conversion._join

    def late(conversion: Any, count: int) -> None:
        first.rename(folder)
        shutil.rmtree(conversion._steps_folder)
        join(conversion, count)

    monkeypatch.setattr(gguf_steps.Conversion, "_join", late)
    assert as_folder(path) == folder
    assert list(models.iterdir()) == [folder]


def test_weights_that_no_step_has_are_named(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_steps, "STEP_PARAMETERS", STEP)
    (path,) = write_model(tmp_path / "m", without=["blk.1.attn_q.weight"])
    with pytest.raises(CannotRun, match=r"it lacks model\.layers\.1\.self_attn\.q_proj\.weight"):
        as_folder(path)
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("left", [0.02, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_told_as_such(tmp_path: Path, left: float) -> None:
    (path,) = write_model(tmp_path / "m")
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data))])
    with pytest.raises(CannotRun, match=r"cut short|damaged") as caught:
        as_folder(path)
    assert "fetch" in caught.value.hint
    assert "llamacpp" not in caught.value.hint


def test_a_part_of_a_gguf_holds_the_bytes_of_its_tensors(tmp_path: Path) -> None:
    (path,) = write_model(tmp_path / "m")
    whole = gguf_parts.contents(path)
    *parts, _ = gguf_parts.split_tensors(whole.tensors, STEP)
    gguf_parts.write_subset(whole, parts[0], tmp_path / "part.gguf")
    part, data = gguf_parts.contents(tmp_path / "part.gguf"), path.read_bytes()
    assert (part.metadata, [one.name for one in part.tensors]) == (whole.metadata, [one.name for one in parts[0]])
    held = (tmp_path / "part.gguf").read_bytes()
    for one, other in zip(part.tensors, parts[0], strict=True):
        assert held[one.start :][: 4 * one.parameters] == data[other.start :][: 4 * other.parameters]


@pytest.mark.parametrize(
    "data",
    [header({}, 1), header({"general.alignment": (4, bytes(4))}), header({}, 1 << 40), header({}, 3) + bytes(99)],
)
def test_a_table_of_tensors_that_lies_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(CannotRun, match="damaged"):
        gguf_parts.contents(tmp_path / "m.gguf")
