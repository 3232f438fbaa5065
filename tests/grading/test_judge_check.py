"""How good a judge is: agreement and its intervals, thresholds, corrected scores, against libraries and simulation."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.contains import Contains
from hybrid.errors import BadData, UsageError
from hybrid.grading import calibration
from hybrid.grading.answers import RULES, best_f1, f1, normal
from hybrid.grading.judge_check import GradedRow, GradedRows, Measured, best_threshold, check
from hybrid.progress import SilentProgress
from hybrid.records import Grade, Output
from hybrid.statistics.agreement import ConfusionTable, KrippendorffAlpha, accuracy, estimate, kappa
from hybrid.statistics.correction import corrected

COUNTS = st.integers(0, 40)


def pairs_of(table: ConfusionTable) -> tuple[list[bool], list[bool]]:
    cells = ((True, True), (True, False), (False, True), (False, False))
    rows = [cell for cell, count in zip(cells, table, strict=True) for _ in range(int(count))]
    return [verdict for verdict, _ in rows], [truth for _, truth in rows]


# --- agreement


@pytest.fixture(scope="module")
def metrics() -> Any:
    return pytest.importorskip("sklearn.metrics")


@pytest.fixture(scope="module")
def agreement() -> Any:
    return pytest.importorskip("nltk.metrics.agreement")


@given(st.builds(ConfusionTable, COUNTS, COUNTS, COUNTS, COUNTS).filter(lambda table: table.n > 0))
def test_kappa_and_accuracy_are_those_of_scikit_learn(metrics: Any, table: ConfusionTable) -> None:
    said, truth = pairs_of(table)
    assert accuracy(table) == pytest.approx(metrics.accuracy_score(truth, said))
    if len({*said, *truth}) > 1:
        assert kappa(table) == pytest.approx(metrics.cohen_kappa_score(truth, said), abs=1e-12)
    else:
        assert kappa(table) == 0.0


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=12))
def test_alpha_is_that_of_nltk(agreement: Any, rows: list[list[bool]]) -> None:
    alpha = KrippendorffAlpha()
    for row in rows:
        alpha.add(row)
    if len({vote for row in rows if len(row) > 1 for vote in row}) < 2:
        assert alpha.value is None
        return
    data = [
        (f"rater {n}", f"row {r}", vote) for r, row in enumerate(rows) if len(row) > 1 for n, vote in enumerate(row)
    ]
    assert alpha.value == pytest.approx(agreement.AnnotationTask(data=data).alpha(), abs=1e-9)


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=5), min_size=1, max_size=12))
def test_alpha_of_marks_is_that_of_nltk_with_the_interval_metric(agreement: Any, rows: list[list[int]]) -> None:
    alpha = KrippendorffAlpha()
    for row in rows:
        alpha.add(row)
    if len({vote for row in rows if len(row) > 1 for vote in row}) < 2:
        assert alpha.value is None
        return
    data = [
        (f"rater {n}", f"row {r}", vote) for r, row in enumerate(rows) if len(row) > 1 for n, vote in enumerate(row)
    ]
    distance = pytest.importorskip("nltk.metrics.distance").interval_distance
    assert alpha.value == pytest.approx(agreement.AnnotationTask(data=data, distance=distance).alpha(), abs=1e-9)


def test_alpha_of_krippendorffs_own_example() -> None:
    """Computing Krippendorff's alpha-reliability (2011), example A: two observers, ten units, alpha 0.095."""
    alpha = KrippendorffAlpha()
    for one, other in zip("0100000000", "1110010100", strict=True):
        alpha.add([one == "1", other == "1"])
    assert alpha.value == pytest.approx(0.095, abs=0.001)


def simulated(rng: random.Random, clusters: int, size: int, spread: float) -> dict[str, list[ConfusionTable]]:
    """Clusters with accuracies of their own, around 0.8."""
    found = {}
    for number in range(clusters):
        good = min(1.0, max(0.0, rng.gauss(0.8, spread)))
        table = ConfusionTable()
        for _ in range(size):
            truth = rng.random() < 0.4
            table = table.plus(ConfusionTable.of(truth if rng.random() < good else not truth, truth))
        found[str(number)] = [table]
    return found


def test_the_interval_of_accuracy_covers_what_it_should_with_clusters() -> None:
    rng, hits, runs = random.Random(7), 0, 300
    for _ in range(runs):
        found = estimate(simulated(rng, 25, 12, 0.1), lambda tables: accuracy(tables[0]))
        hits += found.low <= 0.8 <= found.high
    assert 0.91 <= hits / runs <= 0.99


def test_one_cluster_tells_nothing_of_the_spread() -> None:
    assert estimate({"a": [ConfusionTable(5, 1, 1, 5)]}, lambda tables: kappa(tables[0]))[1:] == (-1.0, 1.0)


def test_more_rows_make_the_interval_narrower() -> None:
    rng = random.Random(3)
    widths = [
        (found := estimate(simulated(rng, n, 10, 0.05), lambda tables: kappa(tables[0]))).high - found.low
        for n in (5, 25, 125)
    ]
    assert all(wide > narrow for wide, narrow in pairwise(widths))


# --- corrected scores


def test_a_perfect_judge_corrects_nothing() -> None:
    found = corrected(0.3, 1000, ConfusionTable(5000, 0, 0, 5000))
    assert found is not None
    assert found.value == pytest.approx(0.3)
    assert found.low < 0.3 < found.high


def test_the_correction_is_that_of_rogan_and_gladen() -> None:
    found = corrected(0.5, 500, ConfusionTable(true_right=80, false_right=30, false_wrong=20, true_wrong=70))
    assert found is not None
    assert found.value == pytest.approx((0.5 + 0.7 - 1) / (0.8 + 0.7 - 1))


@pytest.mark.parametrize(
    "table",
    [
        ConfusionTable(0, 5, 0, 5),
        ConfusionTable(5, 0, 5, 0),
        ConfusionTable(5, 5, 5, 5),
        ConfusionTable(3, 7, 7, 3),
        ConfusionTable(),
    ],
)
def test_a_judge_that_tells_nothing_corrects_nothing(table: ConfusionTable) -> None:
    assert corrected(0.5, 100, table) is None


@pytest.mark.parametrize(("true", "right", "wrong"), [(0.3, 0.85, 0.9), (0.7, 0.7, 0.8), (0.05, 0.9, 0.95)])
def test_the_corrected_interval_covers_the_truth(true: float, right: float, wrong: float) -> None:
    rng, hits, runs = random.Random(11), 0, 400
    for _ in range(runs):
        n = 300
        called = sum(rng.random() < (right if rng.random() < true else 1 - wrong) for _ in range(n))
        found = corrected(called / n, n, ConfusionTable(
            true_right=(tp := sum(rng.random() < right for _ in range(150))), false_wrong=150 - tp,
            true_wrong=(tn := sum(rng.random() < wrong for _ in range(150))), false_right=150 - tn,
        ))  # fmt: skip
        assert found is not None
        hits += found.low <= true <= found.high
    assert hits / runs >= 0.92


# --- words


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("The Normans.", "normans", {"exact", "contained", "words", "f1"}),
        ("They were the Normans of France", "Normans", {"contained", "words"}),
        ("William Hanna", "William Hanna and Joseph Barbera", {"f1"}),
        ("William Hanna, Barbera", "William Hanna and Joseph Barbera", {"words", "f1"}),
        ("catalogue", "cat", set()),
        ("a", "the", {"exact", "f1"}),
    ],
)
def test_rules_need_no_model(answer: str, gold: str, right: set[str]) -> None:
    assert {name for name, rule in RULES.items() if rule(answer, [gold])} == right


@given(st.text(), st.text())
def test_word_f1_is_symmetric_and_bounded(one: str, other: str) -> None:
    assert 0.0 <= f1(one, other) <= 1.0
    assert f1(one, other) == pytest.approx(f1(other, one))
    assert f1(one, one) == 1.0
    assert normal(normal(one)) == normal(one) or "a" in normal(one)


def test_the_best_of_several_references_counts() -> None:
    assert best_f1("blue whale", ["red fox", "the blue whale"]) == 1.0
    assert best_f1("x", []) == 0.0


# --- thresholds


def test_the_threshold_is_the_one_with_the_highest_kappa() -> None:
    rows: list[Measured] = [(0.9, True, "a"), (0.8, True, "a"), (0.7, False, "b"), (0.6, True, "b"), (0.2, False, "c")]
    kappas = {
        limit: kappa(_sum(ConfusionTable.of(value >= limit, truth) for value, truth, _ in rows))
        for limit in (0.9, 0.8, 0.7, 0.6)
    }
    assert best_threshold(rows) == max(kappas, key=lambda limit: kappas[limit])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.just("x")), min_size=1, max_size=30))
def test_no_other_threshold_is_better(rows: list[Measured]) -> None:
    def at(limit: float) -> float:
        return kappa(_sum(ConfusionTable.of(value >= limit, truth) for value, truth, _ in rows))

    assert at(best_threshold(rows)) >= max(at(value) for value, _, _ in rows) - 1e-12


def _sum(tables: Any) -> ConfusionTable:
    total = ConfusionTable()
    for table in tables:
        total = total.plus(table)
    return total


# --- a check as a whole


def rows_file(place: Path, rows: list[Mapping[str, Any]]) -> Path:
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def graded_rows(n: int = 60) -> list[Mapping[str, Any]]:
    """Half right; `contains` is wrong on every tenth row."""
    return [
        {"title": f"t{i % 12}", "question": f"q{i}", "gold": "Rome", "correct": i % 2 == 0,
         "answer": "it is Rome" if (i % 2 == 0) != (i % 10 == 3) else "it is Oslo"}
        for i in range(n)
    ]  # fmt: skip


def test_a_grader_is_held_against_the_rows(tmp_path: Path) -> None:
    rows = GradedRows(rows_file(tmp_path, graded_rows()))
    _, result = check(Contains(), "contains", rows, SilentProgress())
    assert result["rows"] == result["graded"] == 60
    assert result["table"] == {"true_right": 30, "false_right": 6, "false_wrong": 0, "true_wrong": 24}
    assert result["wrong_called_right"] == pytest.approx(0.2)
    assert result["accuracy"][0] == pytest.approx(0.9)
    assert result["rules"]["contained"]["table"] == result["table"]
    assert result["best_rule"] in ("contained", "words")
    assert "cannot be told" in result["worth"] or "not worth" in result["worth"]


@dataclass(frozen=True)
class Oracle:
    """Right on nearly all rows, and silent where it is told to be."""

    wrong: int = 0
    silent: int = 0

    def grade(self, output: Output) -> Grade:
        number = int(output.question.split("/")[1]) - 1
        if number < self.silent:
            return Grade(None, "no idea")
        return Grade(float((number % 2 == 0) != (number < self.silent + self.wrong)))


@pytest.mark.parametrize(
    ("oracle", "said"),
    [
        (Oracle(), "is worth running"),
        (Oracle(wrong=60), "is not worth running: kappa"),
        (Oracle(silent=30), "50 % of the rows got no verdict"),
        (Oracle(silent=60), "gave no verdict at all"),
    ],
)
def test_it_says_whether_a_judge_is_worth_running(tmp_path: Path, oracle: Oracle, said: str) -> None:
    _, result = check(oracle, "oracle", GradedRows(rows_file(tmp_path, graded_rows())), SilentProgress())
    assert said in result["worth"]
    assert result["ungraded"]["count"] == oracle.silent


@dataclass(frozen=True)
class Measuring:
    """Measures the length of the answer, with some noise."""

    threshold: float | None = None
    calibrates = "length"

    def uncalibrated(self) -> Measuring:
        return self

    def grade(self, output: Output) -> Grade:
        number = int(output.question.split("/")[1])
        if number == 7:
            return Grade(None, "not measured")
        return Grade(0.4 + 0.4 * (number % 2 == 1) + 0.1 * math.sin(number))


def test_a_threshold_is_found_on_all_rows_and_its_worth_on_others(tmp_path: Path) -> None:
    rows = GradedRows(rows_file(tmp_path, graded_rows()))
    identity, result = check(Measuring(), "measuring", rows, SilentProgress())
    assert 0.5 < result["threshold"] <= 0.8
    assert result["graded"] == 59
    assert 0.9 < result["accuracy"][0] < 1.0  # of thresholds that did not see the row
    assert "threshold" not in identity["settings"]


def test_rows_are_read_as_often_as_needed_and_up_to_a_limit(tmp_path: Path) -> None:
    rows = GradedRows(rows_file(tmp_path, graded_rows()), limit=5)
    assert [len(list(rows)), len(list(rows.outputs())), len(list(rows.outputs()))] == [5, 5, 5]
    assert isinstance(next(iter(rows)), GradedRow)


def test_rows_without_a_title_are_clusters_of_their_own(tmp_path: Path) -> None:
    rows = [{**row, "title": title} for row, title in zip(graded_rows(3), (None, "", "a"), strict=True)]
    assert [output.task for output in GradedRows(rows_file(tmp_path, rows)).outputs()] == ["1", "2", "a"]


@pytest.mark.parametrize(
    "row",
    [
        "[]", "{}", "7", "not json", '{"question":"q","gold":"g","answer":"a","correct":1}',
        '{"question":"q","gold":{},"answer":"a","correct":true}',
        '{"question":1,"gold":"g","answer":"a","correct":true}',
        '{"question":"q","gold":"g","answer":null,"correct":true}', '{"question":"' + "q" * 1_100_000,
    ],
)  # fmt: skip
def test_a_row_that_is_none_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(graded_rows(1)[0]) + "\n\n" + row + "\n")
    with pytest.raises(BadData, match="line 3"):
        list(GradedRows(path))


def test_no_rows_are_no_check(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no row"):
        check(Contains(), "contains", GradedRows(rows_file(tmp_path, [])), SilentProgress())


def test_a_grader_of_whole_questions_cannot_be_checked_by_rows(tmp_path: Path) -> None:
    class Voting:
        def grade_question(self, question: Any) -> Grade:
            return Grade(1.0)

    with pytest.raises(UsageError, match="whole questions"):
        check(Voting(), "voting", GradedRows(rows_file(tmp_path, graded_rows(1))), SilentProgress())


# --- what is known is shown


def test_a_check_is_kept_for_what_judged_and_for_nothing_else() -> None:
    about = {"models": [{"name": "a", "digest": "d" * 64}]}
    mine = calibration.identity("contains", Contains(), about)
    assert calibration.known(mine) is None
    calibration.keep(mine, {"rows": 3, "worth": "much"})
    assert (calibration.known(mine) or {})["rows"] == 3
    calibration.keep(mine, {"rows": 4, "worth": "much"})
    assert (calibration.known(mine) or {})["rows"] == 4
    for other in (
        calibration.identity("contains", Contains(case=True), about),
        calibration.identity("contains", Contains(), {"models": [{"name": "a", "digest": "e" * 64}]}),
    ):
        assert calibration.known(other) is None
    calibration.place(mine).write_text("{")
    assert calibration.known(mine) is None


@pytest.mark.parametrize(
    "judge",
    [{"models": 3}, {}, {"models": [{}]}, {"models": [], "check": {"rows": "x"}}, {"models": [], "agreement": 1}],
)
def test_what_cannot_be_read_of_a_judge_is_said_so(judge: Any) -> None:
    assert calibration.sentences(judge) == ["what judged cannot be read"]
    assert calibration.sentences(None) == []


@pytest.mark.slow
def test_the_check_stands_beside_every_score_of_that_judge(tmp_path: Path) -> None:
    script = tmp_path / "m.json"
    script.write_text(json.dumps({"answers": {}, "default": '{"correct": true}'}))
    asked = ["--grader", "judge", "--backend", "scripted", "--model", str(script)]
    rows = rows_file(tmp_path, graded_rows())
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(
        json.dumps({"key": f"{i}", "task": "t", "question": f"t/{i}", "text": f"answer {i}", "reference": "Rome",
                    "view": {"question": "q"}}) + "\n" for i in range(20)
    ))  # fmt: skip

    def hybrid(*arguments: str) -> str:
        command = [sys.executable, "-m", "hybrid", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "is not known: hybrid judge check" in hybrid("grade", str(answers), *asked)
    told = hybrid("judge", "check", "--data", str(rows), *asked)
    assert "is not worth running" in told
    assert "wrong called right" in told
    graded = hybrid("grade", str(answers), *asked)
    assert "checked on 60 rows of rows.jsonl: accuracy 0.500, kappa 0.000" in graded
    assert "cannot be corrected" in graded
    assert "is not known" in hybrid("grade", str(answers), *asked, "--set", "explain=false")
    summary = json.loads(hybrid("grade", str(answers), *asked, "--json"))["summary"]["judge"]
    assert summary["check"]["rows"] == 60
    assert summary["corrected"] is None


def test_a_good_judge_corrects_the_score(tmp_path: Path) -> None:
    about: dict[str, Any] = {"models": []}
    table = {"true_right": 900, "false_right": 200, "false_wrong": 100, "true_wrong": 800}
    found = calibration.corrected_by({"table": table}, 0.55, 400)
    assert found is not None
    assert found["score"] == pytest.approx((0.55 + 0.8 - 1) / 0.7)
    told = calibration.sentences({**about, "check": {"rows": 9, "worth": "yes"}, "corrected": found})
    assert "corrected for the judge's errors: 0.5000" in told[-1]
    assert calibration.corrected_by({"table": {}}, 0.5, 10) is None


@pytest.mark.slow
def test_a_check_of_fewer_rows_does_not_take_the_place_of_a_larger_one(tmp_path: Path) -> None:
    rows = rows_file(tmp_path, graded_rows(40))

    def told(*more: str) -> str:
        command = [sys.executable, "-m", "hybrid", "judge", "check", "--grader", "contains", "--data", str(rows), *more]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "kept in" in told()
    assert "not kept" in told("--limit", "5")
    identity = calibration.identity("contains", Contains(), {})
    assert (calibration.known(identity) or {})["rows"] == 40
    assert "cannot be told from 5 rows" in told("--limit", "5", "--replace")
    assert (calibration.known(identity) or {})["rows"] == 5


def test_intervals_stay_in_range_and_have_a_width(tmp_path: Path) -> None:
    _, result = check(Oracle(), "oracle", GradedRows(rows_file(tmp_path, graded_rows(4))), SilentProgress())
    for low, high in (result["accuracy"][1:], result["kappa"][1:]):
        assert -1.0 <= low < high <= 1.0
    assert result["accuracy"][1] >= 0.0
