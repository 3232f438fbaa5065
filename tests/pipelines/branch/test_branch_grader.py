"""What the grader says of the candidates of a run: their diversity and worth, each figure beside plain samples."""

from __future__ import annotations

import base64
import dataclasses
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hybrid.grading.grade_file import grade_file
from hybrid.records import Failure, Output
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from pipelines.branch.grader import Branch
from pipelines.branch.measures import chance, vendi_of
from pipelines.branch.reading import kept_of, node_of, plain_of, trees
from tests.support.hostile_texts import PAYLOADS
from tests.support.tree_runs import tree_outputs, tree_run


def candidate(id: str, vector: Sequence[float], **view: Any) -> Output:
    packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    known = {"parent": "t", "depth": 1, "verdict": "kept", "strategy": "iid", "tokens": 100, "vector": packed, **view}
    return Output(id, "t", id, known, 0, f"text of {id}", None, None)


def graded(folder: Path, outputs: Sequence[Output]) -> dict[str, Any]:
    path = tree_run(folder, outputs)
    return grade_file(path, Branch(), "branch", folder / "grades.branch.json")


def figures(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in summary["measures"]}


X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def test_texts_with_nothing_in_common_score_1_and_equal_ones_0(tmp_path: Path) -> None:
    unlike = graded(tmp_path / "a", [candidate(f"t/{n}", one) for n, one in enumerate((X, Y, Z))])
    assert unlike["score"] == pytest.approx(1.0, abs=1e-6)
    assert figures(unlike)["Vendi score of the kept"]["value"] == 3.0
    same = graded(tmp_path / "b", [candidate(f"t/{n}", X) for n in range(3)])
    assert same["score"] == 0.0
    assert figures(same)["Vendi score of the kept"]["value"] == 1.0


def test_the_mean_score_is_the_logarithm_of_the_vendi_score_and_a_repeat_has_the_lower_part(tmp_path: Path) -> None:
    outputs = [candidate(f"t/{n}", one) for n, one in enumerate((X, X, Y, Z))]
    summary = graded(tmp_path, outputs)
    vendi = figures(summary)["Vendi score of the kept"]["value"]
    assert summary["score"] == pytest.approx(math.log(vendi) / math.log(4), abs=1e-6)
    assert vendi == pytest.approx(math.exp(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))), abs=1e-6)


def test_two_texts_have_no_interval_of_their_diversity_and_shares_that_agree_one_that_is_not_a_point(
    tmp_path: Path,
) -> None:
    met = {"features": {"constraints": 1.0}}
    found = figures(graded(tmp_path, [candidate("t/0", X, **met), candidate("t/1", (0.6, 0.8, 0.0), **met)]))
    assert found["Vendi score of the kept"]["interval"] is None
    low, high = found["constraints met by the kept"]["interval"]
    assert (found["constraints met by the kept"]["value"], high) == (1.0, 1.0)
    assert low < 0.5


def test_every_figure_stands_beside_as_many_plain_samples_that_chance_chose(tmp_path: Path) -> None:
    summary = graded(tmp_path, tree_outputs() + tree_outputs("memory"))
    assert set(summary["controls"]) == {"plain samples by chance"}
    for one in summary["measures"]:
        assert one["control"] is not None, one["name"]
        assert one["against"], one["name"]
    names = set(figures(summary))
    assert {"relevance of the kept", "constraints met by the kept", "distinct-2 of the kept"} <= names
    assert {"Vendi gain per 1,000 tokens: facets", "Vendi gain per 1,000 tokens: iid"} <= names
    assert {one["group"] for one in summary["measures"]} == {"mars", "memory"}


def test_the_control_is_the_mean_over_choices_and_its_interval_holds_them() -> None:
    ((_, nodes),) = trees(tree_outputs(children=10))
    pool = plain_of(nodes, 2)
    found = chance(pool, 5, vendi_of, "seed")
    assert found
    assert found == chance(pool, 5, vendi_of, "seed")
    assert found.interval
    assert found.interval[0] < found.mean < found.interval[1]
    assert chance(pool, len(pool) + 1, vendi_of, "seed") is None
    assert all(one.control and one.depth == 2 for one in pool)


def test_one_figure_has_one_interval_and_two_texts_are_too_few_to_test_it(tmp_path: Path) -> None:
    met = {"features": {"constraints": 1.0, "relevance": 0.4}}
    plain = {**met, "control": True}
    kept = [candidate("t/0", X, **met), candidate("t/1", Y, **met)]
    summary = graded(tmp_path, [*kept, candidate("t/control/0", X, **plain), candidate("t/control/1", X, **plain)])
    assert summary["figures"] == {}
    assert {one["standing"] for one in summary["measures"]} == {"not tested"}
    for one in summary["measures"]:  # of two plain samples there is one choice
        assert one["control_interval"] is None or one["control_interval"][0] < one["control_interval"][1]


def test_a_lower_self_bleu_is_better(tmp_path: Path) -> None:
    found = figures(graded(tmp_path, tree_outputs()))
    assert found["self-BLEU of the kept (lower is better)"]["better"] == "lower"
    assert {one["better"] for name, one in found.items() if "BLEU" not in name} == {"higher"}


def test_what_failed_or_was_not_kept_has_no_score_but_its_reason(tmp_path: Path) -> None:
    lost = dataclasses.replace(candidate("t/2", (), verdict="failed"), text=None, error=Failure("no-answer", "empty"))
    others = [candidate("t/0", X), candidate("t/1", Y), lost, candidate("t/3", Y, verdict="dropped-similar")]
    summary = graded(tmp_path, others)
    assert summary["n"] == 2
    assert summary["ungraded"]["reasons"] == {"no output to grade": 1}
    assert summary["not_due"]["reasons"] == {"not kept": 1}
    assert summary["failed_outputs"] == {"no-answer": 1}


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ([candidate("t/0", X)], "the only kept text: diversity needs two"),
        ([candidate("t/0", X), candidate("t/1", X[:2])], "embeddings of different models"),
        ([candidate("t/0", ()), candidate("t/1", (0.0, 0.0)), candidate("t/2", (math.nan, 1.0))], "no embedding"),
    ],
)
def test_without_comparable_embeddings_there_is_no_score(tmp_path: Path, outputs: list[Output], reason: str) -> None:
    summary = graded(tmp_path, outputs)
    assert summary["score"] is None
    assert summary["ungraded"]["reasons"] == {reason: len(outputs)}


def test_tokens_of_failed_and_refused_candidates_count_against_a_strategy(tmp_path: Path) -> None:
    paid = [candidate("t/0", X), candidate("t/1", Y), candidate("t/2", Y, verdict="rejected-duplicate", tokens=800)]
    found = figures(graded(tmp_path, paid))
    assert found["Vendi gain per 1,000 tokens: iid"]["value"] == found["Vendi score of all candidates"]["value"]


@pytest.mark.parametrize(("won", "place"), [(10, "first"), (1, "second"), (7, "")])
def test_a_judge_who_goes_by_the_order_alone_is_told_in_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, won: int, place: str
) -> None:
    judged = {"preference": 0.5, "shown_first": 5}
    outputs = [
        candidate("t/0", X, **judged, first_won=won // 2),
        candidate("t/1", Y, **judged, first_won=won - won // 2),
    ]
    found = figures(graded(tmp_path, outputs))["the judge prefers the text shown first"]
    assert (found["value"], found["n"], found["control"]) == (won / 10, 10, 0.5)
    words = f"named the text shown {place} in {max(won, 10 - won)} of 10 answers" if place else "named the text"
    assert (words in caplog.text) == bool(place)
    page = write_report([find_source(tmp_path / "outputs.json")], tmp_path / "report.html")
    assert (words in page.read_text()) == bool(place)


def test_one_line_warns_of_all_scenarios_whose_judge_goes_by_the_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judged = {"preference": 0.5, "shown_first": 10, "first_won": 10}
    graded(tmp_path, [dataclasses.replace(candidate("t/0", X, **judged), task=f"t{task}") for task in range(5)])
    told = [one.getMessage() for one in caplog.records if "goes by the order" in one.getMessage()]
    assert [one.split(" the judge")[0] for one in told] == ["t0, t1, t2 and 2 more: of the first:"]


def test_records_of_anybody_are_read_without_a_fault(tmp_path: Path) -> None:
    odd: list[Any] = [None, [], {}, True, "x", -1, 1e300, 10**400, math.nan, {"a": 1}, [1, 2, 3]]
    names = ("parent", "depth", "level", "strategy", "verdict", "score", "features", "cluster", "position", "tokens",
             "seconds", "control", "preference", "vector", "similarity", "sibling", "shown_first",
             "first_won")  # fmt: skip
    outputs = [
        dataclasses.replace(candidate(f"t/{place}", X), view=dict.fromkeys(names, value))
        for place, value in enumerate(odd)
    ]
    for one in outputs:
        node_of(one)
    kept = [dataclasses.replace(one, view={**one.view, "verdict": "kept", "vector": ""}) for one in outputs]
    assert len(kept_of([node_of(one) for one in kept])) == len(odd) - 1  # True is the control
    graded(tmp_path, tree_outputs(hostile=PAYLOADS))
