"""A run of our own that was exported in another tool's format has the same scores when that file is graded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.formats import open_any
from tests.support.graded_runs import OUTPUTS, exported, graded_run
from tests.support.in_process import Hybrid


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """outputs.json of a graded run."""
    return graded_run(tmp_path)


def summary(hybrid: Hybrid, path: Path, place: Path, *options: str) -> dict[str, Any]:
    """The summary of grading a file."""
    done = hybrid("grade", path, "-o", place, "--json", *options)
    assert done.code in (0, 4), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["summary"]
    return found


def test_a_log_of_inspect_has_the_scores_texts_and_failures(hybrid: Hybrid, outputs: Path, tmp_path: Path) -> None:
    log = exported(hybrid, outputs, "inspect")
    before = summary(hybrid, outputs, tmp_path / "a.json", "--grader", "exact")
    for options in ((), ("--grader", "exact")):
        after = summary(hybrid, log, tmp_path / "b.json", *options)
        assert (after["score"], after["n"], after["questions"]) == (before["score"], before["n"], before["questions"])
    read = {(one.question, one.sample): one for one in open_any(log).records()}
    for one in OUTPUTS:
        again = read[one.question, one.sample]
        assert (again.text, again.error is None) == (one.text, one.error is None)
        if one.text is not None:
            assert (again.finish, again.tokens, again.thought) == (one.finish, one.tokens, one.thought)


def test_samples_of_lm_eval_have_the_scores(hybrid: Hybrid, outputs: Path, tmp_path: Path) -> None:
    place = exported(hybrid, outputs, "lm-eval")
    (rows,) = place.rglob("samples_*.jsonl") if place.is_dir() else place.parent.rglob("samples_*.jsonl")
    before = summary(hybrid, outputs, tmp_path / "a.json", "--grader", "exact")
    assert summary(hybrid, rows, tmp_path / "b.json")["score"] == pytest.approx(before["score"])


def test_a_batch_has_the_texts(hybrid: Hybrid, outputs: Path) -> None:
    read = list(open_any(exported(hybrid, outputs, "openai-batch")).records())
    assert {one.text for one in read} == {one.text for one in OUTPUTS}
    assert sum(one.error is not None for one in read) == 3
