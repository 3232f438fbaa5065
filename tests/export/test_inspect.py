"""`hybrid export --to inspect`, read back by inspect_ai itself, whose import alone takes seconds."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from hybrid import read_run
from tests.support.graded_runs import OUTPUTS, exported, graded_run, json_lines, said
from tests.support.in_process import Hybrid

ROOT = Path(__file__).parents[1]
RUN = "seal-eval-92ee1ced8af4"


pytestmark = pytest.mark.slow


def test_inspect_reads_scores_failures_and_what_is_ungraded(outputs: Path, hybrid: Hybrid) -> None:
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(exported(hybrid, outputs, "inspect")))
    assert (log.status, log.eval.task, log.eval.model) == ("success", "prompts", "tiny")
    assert log.results
    (scored,) = log.results.scores
    assert (log.results.total_samples, log.results.completed_samples) == (10, 7)
    assert (scored.name, scored.scored_samples, scored.unscored_samples) == ("exact", 3, 2)
    assert scored.metrics["mean"].value == pytest.approx(2 / 3)
    assert scored.metrics["hybrid_low"].value < 2 / 3 < scored.metrics["hybrid_high"].value
    samples = {(str(one.id), one.epoch): one for one in log.samples or []}
    values = {key: one.scores["exact"].value if one.scores else None for key, one in samples.items()}
    assert [values[key] for key in sorted(values)] == [0.5, 0.5, 1.0, None, None, None, None, None, 0.5, 0.5]
    failed = samples["t0/1", 2].error
    assert failed
    assert failed.message == "too-long: no room for \x1b[2J"
    assert samples["t0/0", 1].output.completion == "yes"
    assert samples["t0/0", 2].messages[-1].content[0].reasoning == "<think>perhaps</think>"  # type: ignore[union-attr]
    assert samples["t0/1", 1].target == ["=1", OUTPUTS[2].text]
    assert samples["t1/0", 2].output.stop_reason == "max_tokens"


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # inspect's own use of pandas
def test_inspect_finds_single_samples_and_their_summaries(folder: Path, hybrid: Hybrid) -> None:
    from inspect_ai.analysis import samples_df
    from inspect_ai.log import read_eval_log_sample, read_eval_log_sample_summaries

    path = str(exported(hybrid, folder / "outputs.json", "inspect", "--folder", folder))
    sample = read_eval_log_sample(path, id="0000000a/1", epoch=2)
    assert sample.metadata["question"] == "0000000a/1"
    assert not isinstance(sample.input, str)
    assert [one.role for one in sample.input[:2]] == ["system", "user"]
    summaries = read_eval_log_sample_summaries(path)
    assert [(one.id, one.epoch) for one in summaries] == [(f"0000000a/{n}", e) for n in (0, 1) for e in (1, 2, 3)]
    assert summaries[0].input == "16\n62"
    assert list(samples_df(path)["score_arc"]) == [1.0] * 6


def test_a_log_of_an_unfinished_run_is_not_a_success(tmp_path: Path, hybrid: Hybrid) -> None:
    from inspect_ai.log import read_eval_log

    lost = said(9, None, "'quoted")
    lost.error = type(lost.error)("missing", "no record of this item has arrived")  # type: ignore[call-arg, misc]
    log = read_eval_log(str(exported(hybrid, graded_run(tmp_path, [*OUTPUTS[:-1], lost]), "inspect", code=4)))
    assert log.error
    assert (log.status, log.error.message) == ("error", "1 of 10 outputs have no record yet")


def test_no_member_of_a_log_leaves_the_folder_it_is_unpacked_in(tmp_path: Path, hybrid: Hybrid) -> None:
    from inspect_ai.log import read_eval_log

    hostile = [said(n, "yes") for n in range(4)]
    for number, name in enumerate(("../../etc/passwd", "/root", "a/../b", "C:\\x\x1b[2J")):
        hostile[number].question = hostile[number].task = name
        hostile[number].key = f"{number:064x}"
    path = exported(hybrid, graded_run(tmp_path, sorted(hostile, key=lambda one: one.task), grade=False), "inspect")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert not any(name.startswith("/") or ".." in name or "\\" in name or "\x1b" in name for name in names)
    read = read_eval_log(str(path)).samples or []
    assert sorted(one.metadata["question"] for one in read) == sorted(one.question for one in hostile)


def test_the_same_run_is_the_same_log_whenever_it_is_written(
    outputs: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inspect_ai.log import read_eval_log

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    paths = [exported(hybrid, outputs, "inspect", "-o", outputs.parent / f"{n}.eval") for n in (1, 2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert read_eval_log(str(paths[0]), header_only=True).eval.created == "2023-11-14T22:13:20+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    assert hybrid("export", outputs, "--to", "inspect", "-f").code == 7


def test_answers_of_a_real_model_are_in_every_format_as_it_gave_them(
    tmp_path: Path, hybrid: Hybrid, smollm2_gguf: Path
) -> None:
    from inspect_ai.log import read_eval_log

    folder = tmp_path / "folder"
    chosen = ("--preset", "demo", "--limit", "3", "--set", "samples=2", "--set", "max_tokens=12", "--folder", folder)
    outputs = Path(hybrid("run", "local", "prompts", *chosen).stdout.strip())
    assert hybrid("grade", outputs).code == 0
    rows = list(read_run(outputs))
    log = read_eval_log(str(exported(hybrid, outputs, "inspect")))
    samples = {one.metadata["key"]: one for one in log.samples or []}
    asked = {line["custom_id"]: line for line in json_lines(exported(hybrid, outputs, "openai-batch-input"))}
    answers = {line["custom_id"]: line for line in json_lines(exported(hybrid, outputs, "openai-batch"))}
    assert len(rows) == len(samples) == len(asked) == len(answers) == 6
    for row in rows:
        key, sample = row.output.key, samples[row.output.key]
        assert row.grade
        assert sample.output.completion == row.output.text
        assert not isinstance(sample.input, str)
        assert [(one.role, one.content) for one in sample.input] == [
            (one["role"], one["content"]) for one in asked[key]["body"]["messages"]
        ]
        assert sample.scores
        assert sample.scores[log.eval.scorers[0].name].value == row.grade.score  # type: ignore[index]
        assert answers[key]["response"]["body"]["choices"][0]["message"]["content"] == row.output.text
        assert sample.output.usage
        assert (sample.output.usage.input_tokens, sample.output.usage.output_tokens) == row.output.tokens
