"""`hybrid judge check` of criteria and pairs: accuracy, kappa and both kinds of error, beside rules without a model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy", reason="needs numpy, which is not installed")

from graders.pairwise import Pairwise
from graders.rubric import Rubric
from hybrid.errors import BadData
from hybrid.grading import calibration
from hybrid.grading.judging.pairs import Pair
from hybrid.grading.label_check import LabelledRows, check_labels
from hybrid.progress import SilentProgress
from hybrid.statistics.agreement import Crosstab, estimate, label_kappa
from tests.support.in_process import Hybrid

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def table_of(rows: Sequence[tuple[int, int]], size: int = 5) -> Crosstab:
    total = Crosstab.empty(size)
    for said, truth in rows:
        total = total.plus(Crosstab.of(size, said, truth))
    return total


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_kappa_of_labels_is_that_of_scikit_learn_weighted_or_not(rows: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    said, truth = [one for one, _ in rows], [other for _, other in rows]
    table = table_of(rows)
    assert (table.n, table.agreed) == (len(rows), sum(one == other for one, other in rows))
    for weighted in (False, True):
        found = label_kappa(table, weighted=weighted)
        if len({*said, *truth}) == 1:
            assert found == 0.0
        else:
            weights = "quadratic" if weighted else None
            assert found == pytest.approx(
                metrics.cohen_kappa_score(truth, said, labels=range(5), weights=weights), abs=1e-12
            )


def test_the_interval_of_weighted_kappa_covers_what_it_should_with_clusters() -> None:
    def drawn(rng: random.Random, clusters: int) -> dict[str, list[Crosstab]]:
        found = {}
        for number in range(clusters):
            shift = rng.choice((0, 0, 1))  # of the whole cluster
            rows = [(min(4, truth + shift * rng.randrange(2)), truth) for truth in (rng.randrange(5) for _ in range(8))]
            found[str(number)] = [table_of(rows)]
        return found

    def kappa(tables: Sequence[Crosstab]) -> float:
        return label_kappa(tables[0], weighted=True)

    true = kappa([table for own in [estimate_of(drawn(random.Random(1), 3000))] for table in own])
    inside = 0
    for seed in range(150):
        found = estimate(drawn(random.Random(seed), 20), kappa)
        inside += found.low <= true <= found.high
    assert 0.90 <= inside / 150 <= 1.0


def estimate_of(clusters: Mapping[str, Sequence[Crosstab]]) -> list[Crosstab]:
    total = Crosstab.empty(5)
    for (table,) in clusters.values():
        total = total.plus(table)
    return [total]


# --- checks with scripted judges


def written(place: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    path = place / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def criteria_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for n in range(20):
        common = {"title": f"t{n}", "question": f"Q {n}?", "answer": f"answer {n}"}
        rows.append({**common, "criterion": "Is it even?", "verdict": n % 2 == 0})
        rows.append({**common, "criterion": "How high is it?", "verdict": 1 + n % 5})
    return rows


def marking(place: Path, rows: Path, says: Callable[[Mapping[str, Any]], str], **settings: Any) -> Rubric:
    """A judge who says of each row what `says` gives."""
    grader, answers = Rubric(**settings), {}
    for row, labelled in zip(LabelledRows(grader, rows), criteria_rows(), strict=True):
        (output,) = row.question.outputs
        asked = grader.of_rows().criteria_of(output)
        answers[grader.request(output, asked, 0, 0).messages[-1].content] = says(labelled)
    path = place / "judge.json"
    path.write_text(json.dumps({"answers": answers, "default": None, "context": 1 << 20}))
    return Rubric(models=(str(path),), backend="scripted", options=(f"calls={place / 'calls'}",), **settings)


def says(row: Mapping[str, Any]) -> str:
    """Right but for one yes that is called no, marks that are one too high, and a row about which it is silent."""
    verdict, n = row["verdict"], int(row["title"][1:])
    if n == 19:
        return "I cannot say"
    if isinstance(verdict, bool):
        return json.dumps({"reason": "", "met": verdict and n != 4})
    return json.dumps({"reason": "", "score": min(5, verdict + (n < 5))})


@pytest.mark.parametrize("together", [False, True])
def test_criteria_are_checked_on_both_scales_and_the_calls_are_kept(tmp_path: Path, together: bool) -> None:
    rows = written(tmp_path, "rows.jsonl", criteria_rows())
    say = (lambda row: f'{{"1": {says(row)}}}' if "cannot" not in says(row) else says(row)) if together else says
    grader = marking(tmp_path, rows, say, together=together, retries=0)
    identity, result = check_labels(grader, "rubric", rows, 0, SilentProgress())
    assert (result["rows"], result["graded"]) == (40, 38)
    scales: Any = result["scales"]
    met, high = scales["yes/no"], scales["1-5"]
    assert met["accuracy"][0] == pytest.approx(18 / 19)
    assert met["errors"] == {"met called not met": 1 / 10, "not met called met": 0.0}
    assert met["kappa"][1] < met["kappa"][0] < 1
    assert met["rules"]["always yes"]["accuracy"][0] == pytest.approx(10 / 19)
    assert high["weighted"] is True
    assert high["errors"]["too low"] == 0.0
    assert high["errors"]["too high"] == pytest.approx(4 / 16)
    assert high["kappa"][0] > 0.9
    calls = len((tmp_path / "calls").read_text().splitlines())
    assert calls == 40
    check_labels(grader, "rubric", rows, 0, SilentProgress())
    assert len((tmp_path / "calls").read_text().splitlines()) == calls
    with_criteria = Rubric(models=grader.models, backend="scripted", criteria="other: Is it odd?",
                           together=together, retries=0)  # fmt: skip
    about: Any = result["about"]
    assert calibration.identity("rubric", with_criteria, about) == identity  # another task, the same judge


def pair_rows() -> list[dict[str, Any]]:
    return [
        {"title": f"t{n // 2}", "question": f"Q {n}?", "a": f"{n}", "b": f"{n + 1 - n % 3}", "winner": "bta"[n % 3]}
        for n in range(36)
    ]


def test_pairs_are_checked_and_the_errors_stand_beside_later_scores(tmp_path: Path, hybrid: Hybrid) -> None:
    named = [{**row, "winner": {"t": "tie"}.get(row["winner"], row["winner"])} for row in pair_rows()]
    rows = written(tmp_path, "pairs.jsonl", named)
    judge, answers, grader = tmp_path / "judge.json", {}, Pairwise()
    for row, (first, second) in ((row, row.question.outputs) for row in LabelledRows(grader, rows)):
        pair = Pair(("a", "b"), 0, first, second)
        ahead = int(first.text or 0) - int(second.text or 0)
        for turned in (False, True):
            better = "tie" if not ahead else "A" if (ahead > 0) is not turned else "B"
            better = "A" if row.question.task == "t0" else better  # whatever comes first
            answers[grader.request(pair, turned, 0, 0).messages[-1].content] = json.dumps({"better": better})
    judge.write_text(json.dumps({"answers": answers, "default": '{"better": "A"}', "context": 1 << 20}))
    chosen = ("--grader", "pairwise", "--backend", "scripted", "--model", judge)
    done = hybrid("judge", "check", *chosen, "--data", rows, "--json")
    assert done.code == 0, done.stderr
    result = json.loads(done.stdout)
    winner = result["scales"]["winner"]
    assert winner["errors"] == {"loser called winner": 0.0, "winner called tie": 1 / 24, "tie called winner": 0.0}
    assert winner["rules"]["first wins"]["accuracy"][0] == pytest.approx(12 / 36)
    assert "is worth running" in result["worth"]
    shown = hybrid("judge", "check", *chosen, "--data", rows)
    assert "winner: 36" in shown.stdout
    assert "calls: none" in shown.stdout
    outputs = tmp_path / "outputs.jsonl"
    lines = [
        {"key": arm, "task": "t", "question": "t/0", "view": {"question": "Q?", "arm": arm}, "text": arm}
        for arm in "xy"
    ]
    outputs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    graded = hybrid("grade", outputs, *chosen)
    assert graded.code == 0, graded.stderr
    assert "checked on 36 rows of pairs.jsonl (winner): accuracy 0.972" in graded.stdout
    assert "winner called tie 4 %" in graded.stdout
    assert "cannot be corrected" not in graded.stdout


@pytest.mark.parametrize(
    ("grader", "row", "told"),
    [
        (Rubric(), '{"question": "Q", "answer": "a"}', "a row needs the texts 'question', 'answer' and 'criterion'"),
        (Rubric(), '{"question": "Q", "answer": "a", "criterion": "c", "verdict": 6}', "the verdict is 6"),
        (Rubric(), '{"question": "Q", "answer": "a", "criterion": "c", "verdict": "yes"}', "the verdict is 'yes'"),
        (Rubric(), "[1]", "line 1"),
        (Pairwise(), '{"question": "Q", "a": "x", "winner": "a"}', "a row needs the texts 'question', 'a' and 'b'"),
        (Pairwise(), '{"question": "Q", "a": "x", "b": "y", "winner": "c"}', "the winner is 'c'"),
        (Pairwise(), '{"question": "Q", "a": "x", "b": "y", "winner": ["a"]}', "the winner is"),
        (Pairwise(), "{", "line 1"),
        (Pairwise(), "", "holds no row"),
    ],
)
def test_a_row_that_is_none_is_told_with_its_line(tmp_path: Path, grader: Any, row: str, told: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(row)
    judge = tmp_path / "judge.json"
    judge.write_text('{"answers": {}, "default": "?"}')
    made = type(grader)(models=(str(judge),), backend="scripted")
    with pytest.raises(BadData) as error:
        check_labels(made, "it", path, 0, SilentProgress())
    assert told in str(error.value)


@pytest.mark.parametrize(("grader", "scales"), [(Rubric(), {"yes/no", "1-5"}), (Pairwise(), {"winner"})])
def test_the_samples_that_come_along_have_labels_of_every_kind_and_enough_rows(grader: Any, scales: set[str]) -> None:
    rows = list(LabelledRows(grader, Path(__file__).parents[2] / "graders" / grader.sample))
    assert {row.scale for row in rows} == scales
    for scale in scales:
        own = [row.label for row in rows if row.scale == scale]
        assert len(own) >= 30
        assert {*own} == {*range(len(grader.scales[scale].labels))}
