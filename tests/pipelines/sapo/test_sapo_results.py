"""What is read of rounds and measured of arms: both exchanges, missing rounds, hostile records, the paper's units."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hybrid.execution.pages import write_pages
from hybrid.grading.grade_file import grade_file
from hybrid.metrics import RoundMetrics
from hybrid.records import Failure, Output
from pipelines.sapo.comparison import Comparison
from pipelines.sapo.context import context_of
from pipelines.sapo.exports import pages
from pipelines.sapo.findings import findings
from pipelines.sapo.grader import Sapo
from pipelines.sapo.results import MOST_TASKS, read_swarms
from tests.support.hostile_texts import PAYLOADS
from tests.support.sapo_rounds import GAIN, Metrics, record, run_of, sapo_outputs, sapo_run, swarm


def graded(folder: Path, outputs: Sequence[Output], **settings: Any) -> dict[str, Any]:
    return grade_file(sapo_run(folder, outputs, **settings), Sapo(), "sapo", folder / "grades.sapo.json")


def figures(summary: dict[str, Any], arm: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in summary["measures"] if one["group"] == arm}


def found_in(outputs: Sequence[Output], **settings: Any) -> list[tuple[str, str]]:
    return [
        (one.weight, one.text) for one in findings(Comparison(read_swarms(outputs), context_of(run_of(**settings))))
    ]


def test_both_exchanges_give_the_same_table_and_the_same_figures(tmp_path: Path) -> None:
    arms = ("6-2", "4-4")
    memory, folder = (sapo_outputs(arms, exchange=exchange) for exchange in ("memory", "folder"))
    assert len(folder) == 4 * len(memory)
    for one, other in zip(read_swarms(memory), read_swarms(reversed(folder)), strict=True):
        assert (one.name, one.rounds, one.done, one.whole) == (other.name, other.rounds, other.done, True)
        assert list(one.nodes) == list(other.nodes) == [0, 1, 2, 3]
        for node, rounds in one.nodes.items():
            assert rounds.rounds == other.nodes[node].rounds
            assert [rounds.row(place) for place in (0, 19)] == [other.nodes[node].row(place) for place in (0, 19)]
            assert rounds.row(0)["generate_seconds"] == 2.0
    assert graded(tmp_path / "a", memory)["measures"] == graded(tmp_path / "b", folder)["measures"]


def test_a_swarm_takes_the_memory_of_its_numbers_alone() -> None:
    one = swarm("4-4", 0, nodes=8, rounds=1)[0]
    text = json.loads(one.text or "")
    text["notes"] = {f"node-{node}": {"ids": ["f" * 64] * 8} for node in range(8)}
    rounds = 100

    def outputs() -> Any:
        for number in range(rounds):
            yield Output("", "4-4/seed-0", "", {}, 0, json.dumps({**text, "round": number}), None, None)

    tracemalloc.start()
    try:
        (found,) = read_swarms(outputs())
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    numbers = sum(len(node.names) * len(node.rounds) for node in found.nodes.values())
    assert numbers > rounds * 8 * 20
    assert held < 12 * numbers


def test_results_need_no_torch_and_no_numpy() -> None:
    modules = "results", "grader", "report", "exports", "figures"
    imports = "; ".join(f"import pipelines.sapo.{one}" for one in modules)
    code = f"import sys; {imports}; assert not {{'torch', 'numpy', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_last_round_scores_its_own_rewards_and_arms_have_no_common_score(tmp_path: Path) -> None:
    summary = graded(tmp_path, swarm("4-4", 0))
    last = [json.loads(one.text or "")["groups"] for one in swarm("4-4", 0)[16:]]
    own = [node["reward_own"] for groups in last for node in groups.values()]
    assert summary["score"] == pytest.approx(sum(own) / len(own))
    assert (summary["n"], summary["ungraded"]["count"]) == (1, 0)
    assert summary["not_due"] == {"count": 19, "reasons": {"not the last round": 19}}
    assert summary["controls"]["a model that never answers"]["score"] == pytest.approx(0.01 / 3)
    both = graded(tmp_path, sapo_outputs(seeds=(0,)))
    assert (both["n"], both["score"]) == (2, None)
    assert "several arms" in both["method"]
    by_node = graded(tmp_path, swarm("4-4", 0, exchange="folder"))
    assert (by_node["n"], by_node["score"]) == (4, pytest.approx(summary["score"]))


def test_a_reward_that_there_cannot_be_is_ungraded_and_an_absent_one_is_not_due(tmp_path: Path) -> None:
    def damage(number: int, node: int, metrics: Metrics) -> None:
        if node == 2:
            metrics["reward_own"] = 1.5  # and the mean over nodes is below 1

    def drop(number: int, node: int, metrics: Metrics) -> None:
        del metrics["reward_own"]

    damaged = graded(tmp_path / "a", swarm("4-4", 0, change=damage))
    assert damaged["ungraded"] == {"count": 1, "reasons": {"a mean reward of own rollouts that is not in 0 to 1": 1}}
    absent = graded(tmp_path / "b", swarm("4-4", 0, change=drop))
    assert (absent["n"], absent["ungraded"]["count"], absent["not_due"]["count"]) == (0, 0, 20)


def test_sharing_is_compared_on_the_same_seeds_and_says_how_many_completions_were_written(tmp_path: Path) -> None:
    found = figures(graded(tmp_path, sapo_outputs()), "4-4")
    gain = found["reward_own minus that of 8-0"]
    assert gain["value"] == pytest.approx(0.1 * 0.9, abs=0.01)
    assert (gain["n"], gain["standing"]) == (3, "better")
    assert gain["against"] == "8-0, paired by seed, 0.5 x its completions"
    assert found["eval_pass1 minus that of 8-0"]["standing"] == "better"
    assert found["rise of reward_own"]["value"] == pytest.approx((GAIN + 0.1) * 0.8, abs=0.01)
    assert found["rise of reward_own"]["standing"] == "better"
    assert found["rise of eval_pass1"]["against"] == "the first part of the same run"
    assert not any(name.startswith("reward_train minus") for name in found)
    assert found["reward_train, last part"]["value"] > found["reward_own, last part"]["value"] + 0.04
    assert found["note: completions for each of 8-0"]["value"] == 0.5


def test_arms_that_differ_by_chance_alone_are_not_told_apart(tmp_path: Path) -> None:
    outputs = [one for arm in ("8-0", "4-4") for seed in range(3) for one in swarm(arm, seed, gain=0.2)]
    found = figures(graded(tmp_path, outputs), "4-4")
    assert found["reward_own minus that of 8-0"]["standing"] == "not told apart"


def test_one_seed_is_told_by_its_nodes_and_named_so(tmp_path: Path) -> None:
    found = figures(graded(tmp_path, sapo_outputs(seeds=(0,))), "4-4")
    assert "reward_own, last part, over nodes" in found
    gain = found["reward_own minus that of 8-0"]
    assert (gain["n"], gain["against"]) == (4, "8-0, paired by node of one seed, 0.5 x its completions")


def test_arms_are_compared_with_those_that_do_not_share_and_with_their_own_controls() -> None:
    arms = ("8-0", "4-4", "6-2", "filter-only-4-4", "equal-compute-6-2")
    comparison = Comparison(read_swarms(sapo_outputs(arms, seeds=(0,), rounds=2)), context_of(run_of()))
    assert {arm: comparison.controls(arm) for arm in arms} == {
        "8-0": [], "filter-only-4-4": [], "equal-compute-6-2": [], "4-4": ["8-0", "filter-only-4-4"],
        "6-2": ["8-0", "equal-compute-6-2"],
    }  # fmt: skip
    sharing = Comparison(read_swarms(sapo_outputs(("4-4", "2-6"), seeds=(0,), rounds=2)), context_of(run_of()))
    assert (sharing.controls("2-6"), sharing.controls("4-4")) == (["4-4"], [])


@pytest.mark.parametrize(
    ("arm", "fork", "paper"), [("8-0", 1137.8, 17.8), ("6-2", 853.3, 17.8), ("4-4", 568.9, 17.8), ("2-6", 284.4, 17.8)]
)
def test_what_never_answers_scores_in_each_unit_is_that_of_the_paper_and_of_its_fork(
    arm: str, fork: float, paper: float, tmp_path: Path
) -> None:
    """8 nodes and 2,000 rounds of nine tasks, of which one gives 0.01 to an absent answer; here of 20 rounds."""
    tasks = [f"task_{number}" for number in range(8)] + ["fraction_simplification"]
    silent = {task: {"strict": 0, "paper": 100 if task == "fraction_simplification" else 0} for task in tasks}
    of = 0.01 / 9

    def never_answers(number: int, node: int, metrics: Metrics) -> None:
        metrics |= {"reward_own": of, "reward_train": of}

    path = sapo_run(tmp_path, swarm(arm, 0, nodes=8, change=never_answers), silent=silent, tasks=tasks)
    found = figures(grade_file(path, Sapo(), "sapo", tmp_path / "g.json"), arm)
    for name, total in (("cumulative (fork), over nodes", fork), ("cumulative (paper), over nodes", paper)):
        assert 100 * found[name]["value"] == pytest.approx(total, abs=0.06)
        assert 100 * found[name]["control"] == pytest.approx(total, abs=0.06)
        assert found[name]["standing"] == "not tested"


def test_the_cumulative_reward_of_a_constant_policy_is_its_reward_times_nodes_and_rounds(tmp_path: Path) -> None:
    def constant(number: int, node: int, metrics: Metrics) -> None:
        metrics |= {"reward_own": 0.1, "reward_train": 0.1}

    found = figures(graded(tmp_path, swarm("8-0", 0, change=constant)), "8-0")
    assert found["cumulative (paper), over nodes"]["value"] == pytest.approx(0.1 * 4 * 20)
    assert found["cumulative (fork), over nodes"]["value"] == pytest.approx(0.1 * 4 * 20 * 8 * 8)


def test_a_running_run_is_measured_up_to_where_it_is_on_the_rounds_that_both_arms_have(tmp_path: Path) -> None:
    outputs = [*swarm("8-0", 0, gain=0.2), *swarm("4-4", 0, gain=0.2, present=10)]
    summary = graded(tmp_path, outputs)
    assert summary["failed_outputs"] == {"missing": 10}
    found = figures(summary, "4-4")
    assert "reward_own, last part, so far, over nodes" in found
    assert found["reward_own minus that of 8-0"]["value"] == pytest.approx(0, abs=0.02)  # at the end it would be -0.1
    assert found["missing: rounds missing"]["value"] == 10
    assert summary["n"] == 1
    assert found_in(outputs)[0] == (
        "missing",
        "4-4 is not whole (seed 0 10 of 20 rounds): not computed yet; its figures are of the rounds that there are",
    )
    assert [one.done for one in read_swarms(swarm("4-4", 0, present=0))] == [0]
    assert graded(tmp_path, swarm("4-4", 0, present=0))["measures"] == []


def test_a_node_that_fell_behind_is_no_part_of_the_last_rounds(tmp_path: Path) -> None:
    outputs = [
        record(one.task, int(one.question[-5:]), Failure("missing", "not computed yet"))
        if one.task.endswith("node-3") and int(one.question[-5:]) > 4
        else one
        for one in swarm("4-4", 0, exchange="folder")
    ]
    found = figures(graded(tmp_path, outputs), "4-4")
    assert found["reward_own, last part, so far, over nodes"]["n"] == 3
    assert found["missing: rounds missing"]["value"] == 15


def test_what_has_to_be_known_is_a_row_of_its_own(tmp_path: Path) -> None:
    def cold(number: int, node: int, metrics: Metrics) -> None:
        metrics |= {"dead": 0.995, "tagged": 0.004}
        metrics |= {"n_ext": 1.0, "refused": 2.0 * (node == 1), "skipped": 1.0 * (number == 3), "no_room": 1.0}

    outputs = swarm("4-4", 0, rounds=25, change=cold)
    found = figures(graded(tmp_path, outputs, warm_up=50), "4-4")
    assert found["warning: cold start: dead"]["value"] == pytest.approx(0.995)
    assert found["warning: cold start: tagged"]["value"] == pytest.approx(0.004)
    assert found["warning: foreign rollouts that were missing"]["value"] == 25 * 4 * 3
    assert found["warning: refused"]["value"] == 50
    assert found["warning: skipped"]["value"] == 4
    assert found["warning: no_room"]["value"] == 100
    assert found["n_ext of ext_wanted, over nodes"]["value"] == 0.25
    told = [text for _, text in found_in(outputs, warm_up=50)]
    assert "in the newest 20 rounds 99.5 % of rollouts have equal rewards" in told[0]
    assert "the models were fine-tuned on the format of answers for 50 steps" in told[-1]
    assert found_in(swarm("4-4", 0)) == []
    short = [text for _, text in found_in(swarm("4-4", 0, rounds=8, change=cold))]
    assert "cold start of 4-4: in the newest 8 rounds 99.5 %" in short[0]
    assert not any("cold" in text for _, text in found_in(swarm("4-4", 0, rounds=12, present=8, change=cold)))


def test_arms_that_learned_the_same_to_the_bit_are_a_fault_unless_nothing_was_learned() -> None:
    same = [record("8-0/seed-0", place, RoundMetrics.from_text(one.text or ""))
            for place, one in enumerate(swarm("4-4", 0))]  # fmt: skip
    weight, text = found_in([*same, *swarm("4-4", 0)])[0]
    assert (weight, text) == (
        "fault", "8-0/seed-0 and 4-4/seed-0 are equal to the bit: one of them does nothing that the other does not do",
    )  # fmt: skip


def test_hostile_records_are_passed_over(tmp_path: Path) -> None:
    names = [*PAYLOADS[:5], "4-4/seed-x", "0-0/seed-0", "99-99/seed-1", "4-4/seed-0/node-9999", "data"]
    many = {f"reward/{number}": 0.1 for number in range(500)} | {"no such metric": 1.0}
    outputs = [
        *(record(name, 0, RoundMetrics(0, {}, {"node-0": {"reward_own": 0.5}})) for name in names),
        *swarm("4-4", 0, rounds=3),
        record("4-4/seed-1", 0, RoundMetrics(99_999, {}, {"node-0": many, "node-300": {}, "x" * 90: {}})),
        Output("k", "4-4/seed-1", "4-4/seed-1/1", {}, 0, "[1, 2", None, None, trained={"costs": {"node-0": [1]}}),
    ]
    found = {one.name: one for one in read_swarms(outputs)}
    assert list(found["4-4/seed-1"].nodes) == [0]
    assert len(found["4-4/seed-1"].nodes[0].names) == MOST_TASKS
    assert found["4-4/seed-1"].lacking == 1
    outputs.sort(key=lambda one: (one.task, one.question))
    path = sapo_run(tmp_path, outputs, group="x", tasks=[1], scoring=3)
    grade_file(path, Sapo(), "sapo", tmp_path / "grades.sapo.json")


def test_a_part_is_at_most_half_of_the_run() -> None:
    with pytest.raises(ValueError, match=r"part=0.8 is not over 0 and at most 0.5"):
        Sapo(0.8)


def test_the_table_for_other_programs_has_a_row_a_node_and_round_with_the_columns_of_the_guide(tmp_path: Path) -> None:
    outputs = sapo_outputs(("4-4", "8-0"), seeds=(0, 1), exchange="folder")
    rows = list(csv.DictReader("".join(pages(outputs, group=8)["metrics.csv"]).splitlines()))
    assert list(rows[0])[:12] == [
        "round", "node", "config", "seed", "reward_train_T", "reward_own", "eval_pass1", "n_own", "n_ext", "ext_wanted",
        "ext_pool", "ext_max_age",
    ]  # fmt: skip
    guide = "frac_zero_adv tokens_gen tokens_train loss grad_norm t_gen t_wait t_train peak_mem cum_paper reward_bf"
    assert set(guide.split()) <= set(rows[0])
    assert len(rows) == 2 * 2 * 20 * 4
    assert [rows[place]["node"] for place in range(5)] == ["node-0", "node-1", "node-2", "node-3", "node-0"]
    assert (rows[0]["config"], rows[0]["eval_pass1"] != "", rows[4]["eval_pass1"]) == ("8-0", True, "")
    assert (rows[0]["t_gen"], rows[0]["peak_mem"], rows[0]["reward_bf"]) == ("2", "", "")
    last = [row for row in rows if (row["round"], row["config"], row["seed"]) == ("19", "4-4", "1")]
    found = figures(graded(tmp_path, swarm("4-4", 1)), "4-4")
    total = sum(float(row["cum_paper"]) for row in last)
    assert total == pytest.approx(found["cumulative (paper), over nodes"]["value"], rel=1e-5)
    total = sum(float(row["cum_completions"]) for row in last)
    assert total == pytest.approx(found["cumulative (fork), over nodes"]["value"], rel=1e-5)


def test_the_table_of_a_running_run_has_the_rows_that_there_are_under_the_same_first_line() -> None:
    whole, half = (
        list(pages(swarm("4-4", 0, present=present), group=8)["metrics.csv"]) for present in (20, 10)
    )  # fmt: skip
    assert half == whole[: 1 + 10 * 4]
    assert list(pages([], group=8)["metrics.csv"]) == whole[:1]


def test_comparisons_are_written_with_corrected_p_values(tmp_path: Path) -> None:
    outputs = sapo_outputs(("8-0", "4-4", "2-6"))
    (tmp_path / "run").mkdir()

    class Pages:
        def pages(self, tasks: Any, outputs: Any, models: Any) -> Any:
            return pages(outputs, group=8)

    written = write_pages(Pages(), sapo_run(tmp_path / "run", outputs))  # type: ignore[arg-type]
    assert [one.name for one in written] == ["comparisons.csv", "metrics.csv"]
    rows = list(csv.DictReader(written[0].read_text().splitlines()))
    assert [(row["Arm"], row["Control"], row["Figure"], row["Verdict"]) for row in rows] == [
        ("4-4", "8-0", "reward_own", "better"), ("2-6", "8-0", "reward_own", "better"),
        ("4-4", "8-0", "eval_pass1", "better"), ("2-6", "8-0", "eval_pass1", "better"),
    ]  # fmt: skip
    assert all(float(row["p (Holm)"]) >= float(row["p (paired t)"]) for row in rows)
    assert rows[1]["Completions of the arm for each of the control"] == "0.25"
    assert rows[0]["Caveat"].startswith("3 pairs")
