"""`hybrid try`: what a state that a run kept does on this machine, beside what its records say."""

from __future__ import annotations

import json
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from hybrid.folder.medium import Disk
from hybrid.folder.tensors import RunTensors
from hybrid.metrics import RoundMetrics
from hybrid.outputs import open_outputs
from tests.support.in_process import Hybrid

SMALL = [
    f"--set={one}"
    for one in (
        "variants=cvfp,unigram", "documents=3", "pieces=12", "length=12", "vocabulary=300", "width=16", "layers=2",
        "sweeps=2", "epochs=2", "batch=8", "window=6",
    )
]  # fmt: skip


@pytest.fixture
def run(hybrid: Hybrid, tmp_path: Path) -> str:
    """A run that is done, below `tmp_path`."""
    folder = tmp_path / "folder"
    done = hybrid("run", "local", "cvfp", *SMALL, "--folder", folder, "-o", tmp_path / "outputs.json")
    assert done.code == 0, done.stderr
    return str(next((folder / "runs").iterdir()).name)


def test_a_kept_state_is_tried_with_a_prompt(hybrid: Hybrid, run: str, tmp_path: Path) -> None:
    how = ("--folder", tmp_path / "folder", "--series", "cvfp/seed-0")
    whole = json.loads(hybrid("try", run, *how, "--prompt", "ROMEO:", "--json").stdout)
    tried = whole["tried"]
    assert (whole["rounds"], whole["of"], tried["prompt"]) == (4, 4, "ROMEO:")
    last = [RoundMetrics.from_text(one.text or "") for one in open_outputs(tmp_path / "outputs.json").records()][3]
    assert tried["held_out_loss"] == pytest.approx(last.metrics["best"], rel=0.1)  # of a sample
    told = hybrid("try", run, *how).stdout.splitlines()
    assert told[0] == "cvfp/seed-0 after 4 of 4 rounds"
    assert "fixed point: a small change grows" in told[2]
    assert " | " in told[4]


@pytest.mark.parametrize(
    ("more", "code", "named"),
    [
        ((), 2, "there are 2 series; name one with --series"),
        (("--series", "unigram/seed-0"), 2, "is counts, which have no state to try"),
        (("--series", "cvfp/seed-7"), 2, "has no series 'cvfp/seed-7'"),
        (("--series", "cvfp/seed-0", "--prompt", "x" * 10_001), 2, "10,000 are the most"),
        (("--series", "cvfp/seed-0", "--prompt", "caf\udce9"), 2, "the prompt is not UTF-8 from character 4 on"),
    ],
)
def test_what_cannot_be_tried_is_said(
    hybrid: Hybrid, run: str, tmp_path: Path, more: tuple[str, ...], code: int, named: str
) -> None:
    done = hybrid("try", run, *more, "--folder", tmp_path / "folder")
    assert done.code == code
    assert named in done.stderr


def test_without_a_state_it_is_not_finished(hybrid: Hybrid, run: str, tmp_path: Path) -> None:
    for file in (tmp_path / "folder" / "runs" / run / "tensors").rglob("*.bin"):
        file.unlink()
    done = hybrid("try", run, "--series", "cvfp/seed-0", "--folder", tmp_path / "folder")
    assert done.code == 4
    assert "no state of cvfp/seed-0" in done.stderr


@pytest.mark.parametrize("form", [b"of another version %d", None], ids=["no state", "of another model"])
def test_states_that_are_none_do_not_hide_the_good_one(
    hybrid: Hybrid, run: str, tmp_path: Path, form: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    how = ("try", run, "--series", "cvfp/seed-0", "--folder", tmp_path / "folder")
    before = hybrid(*how).stdout.splitlines()
    kept = RunTensors(run, "20260101t000000z-aaaaaaaa", Disk(tmp_path / "folder"))
    for place in (tmp_path / "folder" / "runs" / run / "tensors").iterdir():
        number, good = kept.newest(place.name)  # type: ignore[misc]
        wrong = form or good[: good.index(b"\n") + 1] + b"%d"
        lower = (one for n in count() if sha256(one := wrong % n).digest() < sha256(good).digest())
        kept.keep(place.name, number, next(lower))
    done = hybrid(*how)
    assert done.code == 0
    assert done.stdout.splitlines()[:4] == before[:4]  # the next line tells how fast it was
    assert "the state after round 4 of the loop is passed over" in caplog.text
