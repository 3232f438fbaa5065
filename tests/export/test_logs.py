"""`hybrid export` to logs and batches of other tools, read back by inspect_ai itself and held against real files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.export.inspect_log import sample_id
from hybrid.export.lm_eval import _hash
from hybrid.export.running_mean import RunningMean
from tests.support.graded_runs import OUTPUTS, exported, json_lines, said
from tests.support.in_process import Hybrid

ROOT = Path(__file__).parents[1]
RUN = "seal-eval-92ee1ced8af4"


def test_an_export_without_the_run_at_hand_says_that_the_prompts_are_missing(outputs: Path, hybrid: Hybrid) -> None:
    done = hybrid("export", outputs, "--to", "inspect")
    assert (done.code, "what the model was asked is not in it" in done.stderr) == (0, True)
    asked = hybrid("export", outputs, "--to", "openai-batch-input")
    assert (asked.code, "not at hand" in asked.stderr) == (2, True)


def test_lm_eval_rows_have_the_members_of_real_ones_and_their_mean_is_the_result(
    folder: Path, outputs: Path, hybrid: Hybrid
) -> None:
    for source, more, metric in ((folder / "outputs.json", ["--folder", folder], "arc"), (outputs, [], "exact")):
        place = exported(hybrid, source, "lm-eval", *more, "-o", folder.parent / f"lm-{metric}")
        (samples,), (results,) = place.glob("samples_*.jsonl"), place.glob("results_*.json")
        rows, found = json_lines(samples), json.loads(results.read_text())
        (task,) = found["results"]
        assert samples.name == results.name.replace("results_", f"samples_{task}_").replace(".json", ".jsonl")
        scores = [row[metric] for row in rows if metric in row["metrics"]]
        assert found["results"][task][f"{metric},none"] == pytest.approx(sum(scores) / len(scores))
        assert found["n-samples"][task] == {"original": len(rows), "effective": len(scores)}
        assert REAL_ROW - {"exact_match"} <= set(rows[0])
        assert set(found) >= {"results", "configs", "higher_is_better", "n-samples", "config", "date", "git_hash"}


REAL_ROW = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash", "exact_match",
}  # fmt: skip
"""The members of a row that lm-eval 0.4.13 wrote with --log_samples."""


def test_an_lm_eval_row_without_a_score_is_in_no_metric_and_names_its_failures(outputs: Path, hybrid: Hybrid) -> None:
    rows = json_lines(next(exported(hybrid, outputs, "lm-eval").glob("samples_*.jsonl")))
    scores = [[name for name in row["metrics"] if not name.startswith("figure.")] for row in rows]
    assert scores == [["exact"], ["exact"], [], [], ["exact"]]
    assert rows[0]["figure.pass@2"] == 1.0
    assert [row["resps"] for row in rows][1:4] == [[[OUTPUTS[2].text]], [[OUTPUTS[4].text, ""]], [[]]]
    assert [one["kind"] for one in rows[3]["errors"]] == ["too-long", "too-long"]


def test_the_hashes_are_those_that_lm_eval_computes() -> None:
    """Of document 0 of a file that lm-eval 0.4.13 wrote: {"q": "What is 1 + 2?", "a": "3", ...}."""
    doc = {"q": "What is 1 + 2?", "a": "3", "choices": ["4", "3", "9"], "gold": 1}
    doc |= {"text": "The sum of 1 and 2 is", "cont": " 3"}
    digest = "80caf0df9588f32cae6133725f7c48b060de1a78bb482910f079ee7a4f9acf49"
    assert _hash(json.dumps(doc, indent=2, ensure_ascii=False)) == digest
    assert _hash("What is 1 + 2?") == "6341b664e7af5ff88573245bdd55f64b88fd7479444312edf3483052b1a50425"
    assert _hash("3") == "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"


def test_batch_output_and_input_are_joined_by_the_keys_of_the_run(folder: Path, hybrid: Hybrid) -> None:
    where = ["--folder", folder]
    answers = json_lines(exported(hybrid, RUN, "openai-batch", *where, "-o", folder.parent / "out.jsonl"))
    asked = json_lines(exported(hybrid, RUN, "openai-batch-input", *where, "-o", folder.parent / "in.jsonl"))
    keys = [json.loads(line)["key"] for line in records(folder)]
    assert [one["custom_id"] for one in answers] == keys
    assert {one["custom_id"] for one in asked} == set(keys)
    assert {(one["method"], one["url"]) for one in asked} == {("POST", "/v1/chat/completions")}
    body = asked[0]["body"]
    assert body.keys() == {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop"}
    assert {message["role"] for message in body["messages"]} == {"system", "user", "assistant"}
    assert answers[0]["response"]["body"]["choices"][0]["message"]["content"] == "66"
    assert answers[0]["response"]["body"]["usage"] == {
        "prompt_tokens": 149,
        "completion_tokens": 2,
        "total_tokens": 151,
    }


def test_requests_of_a_run_that_was_not_begun_are_a_batch_and_prompts_again(
    tmp_path: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"id": "a", "prompt": "One?", "system": "Be brief.", "schema": {"type": "integer"}, "max_tokens": 7}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    digest = ["--model-digest", "c" * 64]
    hybrid("init", "shared")
    run = hybrid("run", "remote", "prompts", "--set", "data=rows.jsonl", "--model=m", *digest).stdout.split()[-1]
    (asked,) = json_lines(exported(hybrid, run, "openai-batch-input", "-o", "batch.jsonl"))
    body = asked["body"]
    assert (body["model"], body["max_tokens"]) == ("m", 7)
    assert [one["role"] for one in body["messages"]] == ["system", "user"]
    assert body["response_format"]["json_schema"]["schema"] == {"type": "integer"}
    again = hybrid("run", "remote", "prompts", "--set", "data=batch.jsonl", "--model=m", *digest).stdout.split()[-1]
    (same,) = json_lines(exported(hybrid, again, "openai-batch-input", "-o", "again.jsonl"))
    assert same["body"] == body


def records(folder: Path) -> Iterator[str]:
    text = (folder / "results" / RUN / "outputs.json").read_text()
    yield from (line.rstrip(",") for line in text.splitlines() if line.startswith('{"error"'))


def test_failures_of_a_batch_are_errors_with_their_kind(outputs: Path, hybrid: Hybrid) -> None:
    failed = [one for one in json_lines(exported(hybrid, outputs, "openai-batch")) if one["error"]]
    assert [one["custom_id"] for one in failed] == [one.key for one in OUTPUTS if one.error]
    assert {one["response"] for one in failed} == {None}
    assert failed[0]["error"]["code"] == "too-long"


def test_a_submission_has_the_two_attempts_of_the_vote_for_every_test_input(folder: Path, hybrid: Hybrid) -> None:
    submission = json.loads(exported(hybrid, folder / "outputs.json", "arc-submission").read_text())
    grades = json.loads((folder / "grades.arc.json").read_text())["grades"]
    wanted = [dict(zip(("attempt_1", "attempt_2"), one["detail"]["attempts"], strict=True)) for one in grades]
    assert submission == {"0000000a": wanted}


def test_a_submission_needs_grades_with_attempts(folder: Path, outputs: Path, hybrid: Hybrid) -> None:
    other = hybrid("export", outputs, "--to", "arc-submission")
    assert (other.code, "no attempts" in other.stderr, "--grader arc" in other.stderr) == (2, True, True)
    texts = folder / "texts.jsonl"
    texts.write_text('{"key":"1","task":"sums","question":"sums/first","text":"4","reference":"4"}\n')
    assert hybrid("grade", texts, "--grader", "exact").code == 0
    wrong = hybrid("export", texts, "--to", "arc-submission")
    assert (wrong.code, "is no test input of an ARC task" in wrong.stderr) == (2, True), wrong.stderr
    (folder / "grades.arc.json").unlink()
    none = hybrid("export", folder / "outputs.json", "--to", "arc-submission")
    assert (none.code, "not graded" in none.stderr) == (2, True)
    assert not (folder / "submission.json").exists()


def test_a_folder_of_files_cannot_go_to_standard_output_or_over_a_file(outputs: Path, hybrid: Hybrid) -> None:
    assert hybrid("export", outputs, "--to", "lm-eval", "-o", "-").code == 2
    (outputs.parent / "taken").write_text("")
    assert hybrid("export", outputs, "--to", "lm-eval", "-o", outputs.parent / "taken").code == 2


@pytest.mark.parametrize("values", [[], [0.5], [0.0, 1.0, 1.0, 0.25]])
def test_means_and_their_errors_are_those_of_the_textbook(values: list[float]) -> None:
    import statistics

    sums = RunningMean()
    for value in values:
        sums.add(value)
    assert sums.mean == (pytest.approx(statistics.mean(values)) if values else None)
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    assert sums.stderr == (pytest.approx(spread) if spread is not None else None)


def test_a_question_that_does_not_begin_with_its_task_is_named_after_it() -> None:
    output = said(0, "x")
    assert sample_id(output) == "t0/0"
    output.question = "other"
    assert sample_id(output) == "t0/other"
