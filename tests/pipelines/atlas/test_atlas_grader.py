"""What the grader says of the methods of a run, and the files beside its outputs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.execution.pages import write_pages
from hybrid.grading.grade_file import grade_file
from hybrid.metrics import RoundMetrics
from hybrid.records import Failure, Output
from pipelines.atlas.exports import SUMMARY, pages
from pipelines.atlas.grader import Atlas
from tests.support.atlas_runs import WORTH, Groups, atlas_outputs, atlas_run, federation, output, tasks_of
from tests.support.hostile_texts import PAYLOADS
from tests.support.in_process import Hybrid


def graded(folder: Path, outputs: Sequence[Output], target: float = 0.0) -> dict[str, Any]:
    return grade_file(atlas_run(folder, outputs), Atlas(target), "atlas", folder / "grades.atlas.json")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "grades.atlas.json").read_text())["grades"]
    return found


def figures(summary: dict[str, Any], method: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in summary["measures"] if one["group"] == method}


def test_a_last_round_scores_its_accuracy_on_the_dev_rows_beside_the_majority_and_other_rounds_have_none(
    tmp_path: Path,
) -> None:
    outputs = federation("local", 0)
    summary = graded(tmp_path, outputs)
    clients = json.loads(outputs[-1].text or "")["groups"]
    dev = [one["dev_accuracy"] for name, one in clients.items() if name.startswith("client-")]
    assert summary["score"] == pytest.approx(sum(dev) / len(dev))
    assert (summary["n"], summary["ungraded"]["count"]) == (1, 0)
    assert summary["not_due"] == {"count": 3, "reasons": {"not the last round": 3}}
    assert summary["controls"]["most frequent label"]["score"] == pytest.approx(0.55)


def test_scores_of_several_methods_have_no_mean(tmp_path: Path, hybrid: Hybrid) -> None:
    outputs = atlas_outputs(("local", "atlas"), seeds=(0, 1))
    summary = graded(tmp_path, outputs)
    assert (summary["n"], summary["score"], summary["interval"]) == (4, None, None)
    assert summary["method"] == "none, since the scores are of several methods: see what is measured of each"
    assert (summary["figures"], summary["controls"]) == ({}, {})
    done = hybrid("grade", str(tmp_path / "outputs.json"), "--threshold", "0.1")
    assert done.code == 3
    assert "the score is none, since the scores are of several methods" in done.stderr
    assert "atlas (by question)  4      –" in done.stdout
    assert "control: none" not in done.stdout


def test_differences_are_paired_by_seed_and_say_better_or_not_told_apart(tmp_path: Path) -> None:
    summary = graded(tmp_path, atlas_outputs())
    atlas = figures(summary, "atlas")
    gain = atlas["accuracy minus that of local"]
    assert gain["value"] == pytest.approx(WORTH["atlas"], abs=0.01)
    assert (gain["n"], gain["standing"]) == (3, "better")
    low, high = gain["interval"]
    assert low < gain["value"] < high
    assert high - low < atlas["accuracy"]["interval"][1] - atlas["accuracy"]["interval"][0]
    assert atlas["accuracy"]["against"] == "the most frequent label"
    assert atlas["accuracy"]["standing"] == "better"
    assert figures(summary, "local")["accuracy minus that of fedavg-lora"]["standing"] == "worse"
    assert "accuracy minus that of local" not in figures(summary, "local")
    traffic = atlas["MB sent and fetched"]
    assert (traffic["value"], traffic["interval"], traffic["standing"]) == (1.92, None, "not tested")
    assert atlas["MCC of agreement"]["control"] < atlas["MCC of agreement"]["value"]
    again = graded(tmp_path, atlas_outputs())
    assert again == summary


def test_one_seed_has_no_interval_and_tells_methods_apart_by_their_clients_rows_alone(tmp_path: Path) -> None:
    summary = graded(tmp_path, atlas_outputs(seeds=(0,)))
    atlas = figures(summary, "atlas")
    assert atlas["accuracy minus that of local"]["interval"] is None
    assert atlas["accuracy minus that of local"]["standing"] == atlas["accuracy"]["standing"] == "not tested"
    assert atlas["MB sent and fetched"]["standing"] == "not tested", "its ranks follow from what was learned"
    own = atlas["accuracy on own rows minus that of local"]
    assert (own["n"], own["standing"], own["against"]) == (6, "better", "local, by client of one seed")


def test_bytes_and_rounds_are_counted_up_to_the_accuracy_that_is_asked_for(tmp_path: Path) -> None:
    rounds = [json.loads(one.text or "")["metrics"]["accuracy"] for one in federation("atlas", 0)]
    target = (rounds[1] + rounds[2]) / 2
    atlas = figures(graded(tmp_path, federation("atlas", 0), target), "atlas")
    assert atlas[f"rounds until accuracy {target:.3f} on own rows"]["value"] == 3
    assert atlas[f"MB until accuracy {target:.3f} on own rows"]["value"] == pytest.approx(3 * 2 * 0.24)
    assert atlas[f"virtual seconds until accuracy {target:.3f} on own rows"]["value"] == 90
    never = figures(graded(tmp_path, federation("atlas", 0), 0.999), "atlas")
    assert not any("until" in name for name in never)


def test_a_series_that_a_guard_found_void_has_no_score_and_is_in_no_comparison(tmp_path: Path) -> None:
    outputs = atlas_outputs(("local", "atlas"), (0, 1))
    outputs[1] = output("atlas/seed-0", 1, Failure("diverged", "the loss is nan"))
    summary = graded(tmp_path, outputs)
    assert {row["score"] for row in rows_of(tmp_path) if row["task"] == "atlas/seed-0"} == {None}
    reasons = {row["reason"] for row in rows_of(tmp_path) if row["task"] == "atlas/seed-0"}
    assert any("3 of 4 rounds: the loss is nan" in reason for reason in reasons)
    due = {name: summary[name]["count"] for name in ("ungraded", "not_due")}
    assert due == {"ungraded": 2, "not_due": 2 + 3 * 3}, "rounds before the last have no score in any case"
    assert figures(summary, "atlas")["accuracy minus that of local"]["n"] == 1
    assert figures(summary, "local")["accuracy"]["n"] == 2


def test_records_of_any_content_have_no_score_and_no_figures(tmp_path: Path) -> None:
    def huge(number: int, metrics: dict[str, float], groups: Groups) -> None:
        for one in groups.values():
            one["dev_accuracy"] = one["accuracy"] = 1e100

    strange = [
        Output(f"x{n}", f"local/seed-{n}", f"local/seed-{n}/0", {}, 0, one, None, None)
        for n, one in enumerate(PAYLOADS)
    ]
    strange.append(output("local/seed-0/client-00", 0, RoundMetrics(0, {"steps": 1.0})))  # trained elsewhere
    other = [Output("y", "zzz", "zzz/0", {}, 0, '{"round": 0, "metrics": {}}', None, None)]
    summary = graded(tmp_path, [*federation("ffa", 0, change=huge), *sorted(strange, key=lambda one: one.task), *other])
    assert summary["score"] is None


def test_the_files_have_the_guides_columns_and_keys_and_invent_no_times(tmp_path: Path) -> None:
    outputs = atlas_outputs(("local", "fedavg", "atlas"), (0, 1, 2))
    made = pages(tasks_of(outputs), outputs, ["tiny"])
    rows = list(csv.DictReader(io.StringIO(made["experiment_summary.csv"])))
    assert tuple(rows[0]) == SUMMARY
    assert [row["Experiment"] for row in rows[:4]] == [
        "exp1_local_seed0", "exp2_local_seed1", "exp3_local_seed2", "exp4_fedavg_seed0",
    ]  # fmt: skip
    assert (rows[3]["LoRA"], rows[0]["LoRA"], rows[0]["Time (min)"], rows[0]["Compared"]) == ("no", "yes", "", "yes")
    assert float(rows[-1]["Total Comm (MB)"]) == pytest.approx(4 * float(rows[-1]["Avg Comm (MB)"])) == 1.92
    one = json.loads(made["exp7_atlas_seed0.json"])
    assert one.keys() >= {
        "experiment_name", "model_name", "task_name", "num_rounds", "num_clients", "use_lora", "lora_rank",
        "total_time_minutes", "final_accuracy", "final_loss", "round_results",
    }  # fmt: skip
    assert (one["num_rounds"], one["num_clients"], one["lora_rank"], one["total_time_minutes"]) == (4, 6, 8, None)
    assert one["final_accuracy"] == pytest.approx(float(rows[6]["Final Accuracy"]), abs=1e-6)
    keys = {
        "round",
        "accuracy",
        "loss",
        "train_loss",
        "time_seconds",
        "memory_mb",
        "communication_mb",
        "virtual_seconds",
    }
    assert [each.keys() for each in one["round_results"]] == [keys] * 4
    assert one["round_results"][0]["communication_mb"] == pytest.approx(0.48)
    tests = list(csv.DictReader(io.StringIO(made["statistical_tests.csv"])))
    assert [(row["Method"], row["Control"], row["Verdict"]) for row in tests] == [
        ("fedavg", "local", "better"), ("atlas", "local", "better"),
    ]  # fmt: skip
    assert (tests[0]["p (Wilcoxon)"], tests[0]["bootstrap low"]) == ("0.25", "")
    assert float(tests[0]["p (Holm)"]) >= float(tests[0]["p (paired t)"])


def test_the_files_have_the_seconds_and_the_memory_of_rounds_that_say_them() -> None:
    costs = {"": {"round_seconds": 30.0, "peak_bytes": 2e8}}
    outputs = [replace(one, trained={"costs": costs}) for one in federation("local", 0)]
    outputs += [
        replace(one, trained={"costs": costs} if number else {}) for number, one in enumerate(federation("ffa", 0))
    ]
    made = pages(tasks_of(outputs), outputs, ["tiny"])
    rows = list(csv.DictReader(io.StringIO(made["experiment_summary.csv"])))
    assert [(row["Time (min)"], row["Avg Memory (MB)"]) for row in rows] == [("2", "200"), ("", "")]
    one, part = (json.loads(made[f"exp{name}_seed0.json"]) for name in ("1_local", "2_ffa"))
    assert (one["total_time_minutes"], part["total_time_minutes"]) == (2, None)
    assert [each["time_seconds"] for each in part["round_results"]] == [None, 30, 30, 30]
    assert {each["memory_mb"] for each in one["round_results"]} == {200}


def test_the_controls_are_tested_against_each_other_once() -> None:
    outputs = atlas_outputs(("local", "fedavg-lora", "atlas"), (0, 1, 2))
    rows = list(csv.DictReader(io.StringIO(pages(tasks_of(outputs), outputs, ["tiny"])["statistical_tests.csv"])))
    assert [(row["Method"], row["Control"]) for row in rows] == [
        ("fedavg-lora", "local"), ("atlas", "local"), ("atlas", "fedavg-lora"),
    ]  # fmt: skip


def test_the_files_are_written_beside_the_outputs_and_again(tmp_path: Path) -> None:
    class Pages:
        """A pipeline that makes them."""

        def pages(self, tasks: Any, outputs: Any, models: Any) -> Any:
            return pages(tasks, outputs, models)

    path = atlas_run(tmp_path, federation("fedavg-lora", 0))
    for _ in range(2):
        written = [one.name for one in write_pages(Pages(), path)]  # type: ignore[arg-type]
        assert written == ["exp1_fedavg_lora_seed0.json", "experiment_summary.csv", "statistical_tests.csv"]
    assert json.loads(path.with_name(written[0]).read_text())["model_name"] == "tiny"
    assert next(csv.DictReader(path.with_name(written[1]).read_text().splitlines()))["Model"] == "tiny"
