"""The report of self-edits: reward curve, reasons of replies that trained nothing, configurations."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from hybrid.grading.grade_file import grade_file
from hybrid.outputs import write_outputs
from hybrid.records import Output
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from pipelines.seal.configurations import PAPER
from pipelines.seal.edit_results import EditResult
from pipelines.seal.grader import SelfEdit

TRUE, FALSE = ((1, 2),), ((2, 1),)
RIGHT, WRONG = ((TRUE,),), ((FALSE,),)
TASK = {"train": [{"input": [[0, 1]], "output": [[1, 0]]}], "test": [{"input": [[2, 1]]}]}
TRAINED = EditResult(
    edit=PAPER.to_json(), reply="<b>{}</b>", attempts=RIGHT, base=WRONG, fixed=RIGHT, random=(WRONG,), steps=250
)
REFUSED = EditResult(edit=None, reply="I think", untrained="no JSON object", attempts=WRONG, base=WRONG, fixed=RIGHT)


def graded(folder: Path, results: dict[str, tuple[EditResult, dict[str, Any]]]) -> Path:
    """A graded run; `results` maps a question to its result and detail."""
    outputs = [
        Output(name, name.partition("@")[0], name, view, 0, result.to_text(), None, [[[1, 2]]])
        for name, (result, view) in sorted(results.items())
    ]
    tasks = {one.task: TASK for one in outputs}
    path = folder / "outputs.json"
    write_outputs(path, {"id": folder.name, "pipeline": "seal-restem"}, [], tasks, outputs)
    grade_file(path, SelfEdit(), "self-edit", folder / "grades.self-edit.json")
    return path


def page(path: Path) -> str:
    return write_report([find_source(path)], path.parent / "r.html").read_text()


@pytest.fixture
def learned(tmp_path: Path) -> str:
    """Three tasks; in round 0 the edits of one are right, in round 1 those of all."""
    results = {}
    for number in (0, 1):
        for task in "abc":
            for n in range(2):
                right = number == 1 or task == "a"
                result = TRAINED if right else dataclasses.replace(TRAINED, attempts=WRONG)
                results[f"{task}@round-{number}-edit-{n:02d}"] = result, {"round": number, "split": "eval"}
    results["a@round-1-edit-02"] = REFUSED, {"round": 1, "split": "eval"}
    return page(graded(tmp_path, results))


def points(html: str, kind: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<path class="arm {kind} dot" d="M([\d.]+) ([\d.]+)h0"/>', html)
    return [(float(x), float(y)) for x, y in found]


def test_the_curve_rises_with_the_reward_and_its_numbers_are_below_it(learned: str) -> None:
    edits = points(learned, "edit")
    assert len(edits) == 2
    assert edits[0][0] < edits[1][0]  # rounds from left to right
    assert edits[0][1] - edits[1][1] == pytest.approx((6 / 7 - 1 / 3) * 150, abs=0.2)  # up is better
    assert [y for _, y in points(learned, "base")] == [160.0, 160.0]
    assert [y for _, y in points(learned, "fixed")] == [10.0, 10.0]
    assert 'class="curve"' in learned
    for number in ("33.3 %", "85.7 %", "round 0", "round 1", "Evaluation tasks"):
        assert number in learned
    assert "Training tasks" not in learned


def test_the_last_round_is_compared_with_the_first_by_task(learned: str) -> None:
    said = re.search(r"Round 1 against round 0 on the evaluation tasks: ([^<]*)", learned)
    assert said is not None
    assert said[1].startswith("+55.6 points")  # means by task: 0.667 - 1, 1 - 0, 1 - 0
    assert "paired by task (3 tasks)." in said[1]
    assert said[1].endswith("every round asked the same model.")  # both name the same policy: nobody may take it for RL


def test_points_of_the_curve_are_not_in_the_table_of_results(learned: str) -> None:
    assert "round-0/eval" not in learned.partition('id="section-seal"')[0]
    assert "Control: the untrained model" in learned


def test_replies_that_trained_nothing_are_counted_by_reason(learned: str) -> None:
    assert "1 of 13 self-edits trained nothing: no JSON object 1" in learned
    assert "Nothing trained: no JSON object" in learned


def test_each_self_edit_is_shown_with_its_configuration_and_escaped_reply(learned: str) -> None:
    assert "basic, size, chain, repeat · output tokens · learning rate 0.0001 · 2 epochs · 250 steps" in learned
    assert "&lt;b&gt;{}&lt;/b&gt;" in learned
    assert "<b>{}" not in learned


def test_a_run_without_rounds_has_reasons_but_no_curve(tmp_path: Path) -> None:
    html = page(graded(tmp_path, {"a@edit-00": (TRAINED, {}), "a@edit-01": (TRAINED, {})}))
    assert "Every one of 2 self-edits was a configuration that could be trained." in html
    assert "against round" not in html
    assert 'class="chart"' not in html


def test_a_single_round_is_a_point_without_a_line(tmp_path: Path) -> None:
    html = page(graded(tmp_path, {"a@round-0-edit-00": (TRAINED, {"round": 0, "split": "train"})}))
    assert len(points(html, "edit")) == 1
    assert 'class="arm edit line"' not in html
    assert "against round" not in html
