"""`hybrid grade --junit`: what a CI system reads of it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.support.graded_runs import OUTPUTS, graded_run, said
from tests.support.hostile_texts import PAYLOADS
from tests.support.in_process import Hybrid


def suite(path: Path) -> ET.Element:
    found = ET.parse(path).getroot().find("testsuite")  # noqa: S314 - our own file
    assert found is not None
    return found


def kinds(path: Path) -> dict[str, str]:
    return {case.get("name", ""): next((one.tag for one in case), "passed") for case in suite(path)}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return graded_run(tmp_path, grade=False)


def test_a_unit_passes_fails_is_skipped_or_an_error(outputs: Path, hybrid: Hybrid) -> None:
    path = outputs.parent / "grades.xml"
    assert hybrid("grade", outputs, "--junit", path).code == 0
    wanted = {"t0/0": "failure", "t0/1": "passed", "t1/0": "skipped", "t1/1": "error", "t2/0": "failure"}
    assert kinds(path) == wanted
    head = suite(path)
    assert [head.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["5", "2", "1", "1"]
    assert head.get("name") == "prompts-0123456789ab exact"
    failed, _, skipped, error, _ = list(head)
    assert "reference: yes\nanswer: no" in (failed[0].text or "")
    assert "no reference" in (skipped[0].get("message") or "")
    assert error[0].get("message") == "2 outputs failed (too-long: 2)"


def test_a_threshold_says_from_which_score_on_a_unit_passes(outputs: Path, hybrid: Hybrid) -> None:
    path = outputs.parent / "grades.xml"
    assert hybrid("grade", outputs, "--junit", path, "--threshold", "0.5").code == 0
    assert list(kinds(path).values()).count("passed") == 3
    assert hybrid("grade", outputs, "--junit", path, "--threshold", "0.9").code == 3
    assert list(kinds(path).values()).count("failure") == 2, "the file is written although the threshold is missed"


def test_a_task_is_one_case_with_its_lowest_score(tmp_path: Path, hybrid: Hybrid) -> None:
    grid = [said(n, text, [[1]]) for n, text in enumerate(("1", "1", "2", "2", "1", None))]
    for one in grid:
        one.view = {"transform": "identity", "format": "compact", "train": []}
    path = graded_run(tmp_path, grid, grade=False)
    hybrid("grade", path, "--grader", "arc", "--junit", tmp_path / "x.xml")
    assert kinds(tmp_path / "x.xml") == {"t0": "failure", "t1": "passed"}


@pytest.mark.parametrize("payload", [*PAYLOADS, "]]>&amp;\ufffe\uffff"])
def test_any_text_leaves_the_file_valid(tmp_path: Path, hybrid: Hybrid, payload: str) -> None:
    path = graded_run(tmp_path, [said(0, payload, "no"), said(2, payload, payload)], grade=False)
    assert hybrid("grade", path, "--junit", tmp_path / "x.xml").code == 0
    assert list(kinds(tmp_path / "x.xml").values()) == ["failure", "passed"]
    assert b"\x1b" not in (tmp_path / "x.xml").read_bytes()


def test_only_a_file_of_this_kind_is_replaced_and_that_is_known_before_grading(outputs: Path, hybrid: Hybrid) -> None:
    path = outputs.parent / "mine.xml"
    path.write_text("<project/>")
    done = hybrid("grade", outputs, "--junit", path)
    assert (done.code, "something else" in done.stderr) == (2, True)
    assert path.read_text() == "<project/>"
    assert not (outputs.parent / "grades.exact.json").exists()
    assert hybrid("grade", outputs, "--junit", "-").code == 2
    again = outputs.parent / "grades.xml"
    assert {hybrid("grade", outputs, "--junit", again).code for _ in range(2)} == {0}


def test_outputs_in_any_order_give_the_same_file(tmp_path: Path, hybrid: Hybrid) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name, rows in (("a", OUTPUTS), ("b", OUTPUTS[::-1])):
        hybrid("grade", graded_run(tmp_path / name, rows, grade=False), "--junit", tmp_path / f"{name}.xml")
    assert kinds(tmp_path / "a.xml") == kinds(tmp_path / "b.xml")
