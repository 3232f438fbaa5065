"""The HTML of the report: escaping, drawings, joined files, comparison, bounds. test_report_browser.py opens it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from graders.arc import Arc
from graders.exact import Exact
from graders.judge import Judge
from hybrid.canonical import encode
from hybrid.commands.grade import grade
from hybrid.commands.report import report
from hybrid.errors import BadData, UsageError
from hybrid.grading import calibration
from hybrid.grading.grade_file import grade_file
from hybrid.model_files.location import digest_of
from hybrid.outputs import write_outputs
from hybrid.records import Failure, Output
from hybrid.report.compare import difference
from hybrid.report.markup import Html, el, plain, text
from hybrid.report.page import write_report
from hybrid.report.provenance import provenance
from hybrid.report.sources import MAX_OUTPUTS, Totals, find_source
from hybrid.statistics.intervals import paired_difference
from hybrid.tasks.arc.drawing import grid_svg, is_grid, wrong_cells
from tests.support.in_process import Hybrid

Grid = list[list[int]]

VOID = {"meta", "input", "br", "hr", "link", "img"}


class BalancedParser(HTMLParser):
    """Fails on an end tag that does not match; records the tags and texts that tests check."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def parsed(page: str) -> BalancedParser:
    reader = BalancedParser()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def text_of(page: str) -> str:
    return " ".join(" ".join(parsed(page).words).split())


def written(grid: Grid) -> str:
    return "\n".join("".join(map(str, row)) for row in grid)


def output(task: str, index: int, sample: int, answer: str | Failure, reference: Any) -> Output:
    failed = isinstance(answer, Failure)
    return Output(
        key=f"{task}/{index}/{sample}",
        task=task,
        question=f"{task}/{index}",
        view={"transform": "identity", "train": [0], "format": "compact"},
        sample=sample,
        text=None if isinstance(answer, Failure) else answer,
        error=answer if isinstance(answer, Failure) else None,
        reference=reference,
        finish="" if failed else "stop",
        tokens=(7, 0 if failed else 3),
    )


def arc_run(folder: Path, answers: Mapping[str, Sequence[Any]], run: Mapping[str, Any] | None = None) -> Path:
    """A graded run on tasks whose truth is [[1, 2], [3, 4]]; `answers` are texts, grids or failures, one per sample."""
    truth = [[1, 2], [3, 4]]
    tasks = {
        task: {"train": [{"input": [[0, 1]], "output": [[1, 0]]}], "test": [{"input": [[5, 5]]}]} for task in answers
    }
    records = [
        output(task, 0, sample, written(answer) if isinstance(answer, list) else answer, truth)
        for task in sorted(answers)
        for sample, answer in enumerate(answers[task])
    ]
    path = folder / "outputs.json"
    spec = {"id": folder.name, "pipeline": "seal-eval", "settings": {"seed": 0}, "references": "r" * 64, **(run or {})}
    write_outputs(path, spec, [{"name": "m", "digest": "d" * 64, "about": {"engine": "none"}}], tasks, records)
    grade_file(path, Arc(), "arc", folder / "grades.arc.json")
    return path


def text_run(folder: Path, answers: Mapping[str, Sequence[str | Failure]]) -> Path:
    """A graded run of text questions: two per task, the reference is `yes`."""
    records = [
        output(task, index, 0, answer, "yes") for task in sorted(answers) for index, answer in enumerate(answers[task])
    ]
    path = folder / "outputs.json"
    write_outputs(path, {"id": folder.name, "pipeline": "quiz"}, [], {}, records)
    grade_file(path, Exact(), "exact", folder / "grades.exact.json")
    return path


def page_of(*paths: Path, **options: Any) -> str:
    out = paths[0].parent / "page.html"
    write_report([find_source(path) for path in paths], out, **options)
    return out.read_text(encoding="utf-8")


RIGHT: Grid = [[1, 2], [3, 4]]
WRONG: Grid = [[1, 2], [3, 5]]
OTHER: Grid = [[9, 9, 9]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "seal-eval-0123456789ab"
    folder.mkdir()
    lost = Failure("too_long", "the prompt has 9,120 tokens")
    return arc_run(
        folder,
        {
            "aaa": [RIGHT, RIGHT, WRONG],
            "bbb": [WRONG, WRONG, OTHER, OTHER, RIGHT],
            "ccc": [lost, lost],
            "ddd": ["no grid at all", RIGHT, lost],
        },
    )


def test_strings_that_are_not_markup_are_escaped() -> None:
    assert el("p", "<b>", Html("<i>x</i>"), title="\"'<&") == ('<p title="&quot;&#x27;&lt;&amp;">&lt;b&gt;<i>x</i></p>')


@pytest.mark.parametrize(
    "character", ["\u202e", "\u2066", "\x1b", "\x00", "\x9b", "\u200b", "\u2028", "\ufeff", "\U000e0041"]
)
def test_misleading_characters_are_shown_by_name(character: str) -> None:
    name = f"U+{ord(character):04X}"
    assert text(f"a{character}b") == f'a<i class="u">{name}</i>b'
    assert plain(f"a{character}b") == f"a[{name}]b"


def test_tabs_newlines_and_letters_of_all_scripts_are_unchanged() -> None:
    kept = "a\tb\nč ש 漢 🙂"
    assert text(kept) == kept


def cells_of(svg: str) -> Grid:
    """The grid of a drawing, reconstructed from its rectangle and strokes."""
    _, _, width, height = re.search(r'viewBox="(\d+) (\d+) (\d+) (\d+)"', svg).groups()  # type: ignore[union-attr]
    back = int(re.search(r'class="c(\d)"', svg)[1])  # type: ignore[index]
    grid = [[back] * int(width) for _ in range(int(height))]
    for colour, path in re.findall(r'class="s(\d)" d="([^"]*)"', svg):
        for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)", path):
            for column in range(int(x), int(x) + int(length)):
                grid[int(y)][column] = int(colour)
    return grid


@pytest.mark.parametrize(
    "grid", [[[0]], RIGHT, OTHER, [[x * y % 10 for x in range(30)] for y in range(30)], [[4, 4, 0, 4]]]
)
def test_a_drawing_shows_every_cell_of_its_grid(grid: Grid) -> None:
    assert cells_of(grid_svg(grid, "g", wide=100)) == grid


@pytest.mark.parametrize(
    "value", [None, [], [[]], [[1], [1, 2]], [[10]], [[-1]], [[True]], [[1.0]], "12", [[0] * 31], [["<"]]]
)
def test_values_that_are_not_grids_are_not_drawn(value: Any) -> None:
    assert not is_grid(value)


def test_wrong_cells_are_found_in_grids_of_the_same_size_only() -> None:
    assert wrong_cells(WRONG, RIGHT) == [(1, 1)]
    assert wrong_cells(OTHER, RIGHT) is None


def test_the_page_is_balanced_and_loads_nothing(run: Path) -> None:
    page = page_of(run)
    seen = parsed(page).seen
    assert [tag for tag, _ in seen if tag in ("link", "img", "iframe", "object", "base")] == []
    assert all(not value.startswith(("http", "//")) for _, attributes in seen for value in attributes.values() if value)
    assert [name for _, attributes in seen for name in attributes if name.startswith("on") or name == "style"] == []
    assert len({attributes["id"] for _, attributes in seen if "id" in attributes}) == sum(
        "id" in each for _, each in seen
    )


def test_the_same_runs_give_the_same_bytes(run: Path) -> None:
    assert page_of(run) == page_of(run)


def test_score_interval_n_ungraded_and_controls_are_shown_together(run: Path) -> None:
    shown = text_of(page_of(run))
    assert "66.7 % of 3 tasks, 95 % interval" in shown
    assert "1 task ungraded" in shown
    assert "Ungraded tasks 1 (all outputs failed: too_long 1)" in shown
    assert "Failed outputs 3 (too_long 3)" in shown
    assert "Control: copy the test input 0.0 %" in shown
    assert "Lost in the vote" in shown
    assert "not pass@2 of two samples" in shown


def test_every_task_has_its_status_for_the_filter(run: Path) -> None:
    found = {each["data-id"]: each["data-status"] for tag, each in parsed(page_of(run)).seen if tag == "article"}
    assert found == {"aaa": "right", "bbb": "wrong", "ccc": "ungraded", "ddd": "right"}


def test_the_pictures_of_a_task_are_demonstrations_question_truth_attempts_and_votes(run: Path) -> None:
    page = page_of(run)
    article = page[page.index('data-id="bbb"') : page.index('data-id="ccc"')]
    drawn = [cells_of(svg) for svg in re.findall(r'<svg class="grid".*?</svg>', article)]
    assert drawn[:4] == [[[0, 1]], [[1, 0]], [[5, 5]], RIGHT]
    assert sorted(drawn[4:6]) == sorted([WRONG, OTHER])
    assert drawn[6:] == [RIGHT]
    assert "3×1, truth is 2×2" in article


def test_grades_of_other_outputs_give_no_scores_and_are_refused_when_they_are_named(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = run.parent.parent / "other"
    other.mkdir()
    arc_run(other, {"aaa": [RIGHT], "bbb": [WRONG], "ccc": [RIGHT], "ddd": [RIGHT]})
    grades = run.parent / "grades.arc.json"
    grades.write_bytes((other / "grades.arc.json").read_bytes())
    for asked in ((grades, ""), (run, "arc")):
        with pytest.raises(BadData, match="judges other outputs"):
            find_source(*asked)
    assert find_source(run).grades is None
    assert "judges other outputs than outputs.json holds now; no scores are drawn" in caplog.text


def test_the_grades_of_the_runs_own_grader_are_drawn_when_there_are_several(run: Path) -> None:
    mine = run.parent / "grades.arc.json"
    (run.parent / "grades.exact.json").write_bytes(mine.read_bytes())
    with pytest.raises(UsageError, match="graded more than once"):
        find_source(run)
    of_arc = arc_run(run.parent, {"aaa": [RIGHT]}, {"about": {"grader": "arc"}})
    assert find_source(of_arc).grader == "arc"


@pytest.mark.parametrize(
    ("old", "new"), [('"score":1.0', '"score":0.5'), ('"n":3', '"n":4'), ('"count":4', '"count":5'), ("aaa/0", "aab/0")]
)
def test_edited_grades_are_refused(run: Path, old: str, new: str) -> None:
    path = run.parent / "grades.arc.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BadData, match=r"grades\.arc\.json"):
        page_of(run)


@pytest.mark.parametrize(
    ("old", "new"), [('"score":1.0', '"score":NaN'), ('"score":1.0', '"score":1e999'), ('"score":1.0', '"score":7')]
)
def test_scores_that_are_no_scores_are_refused(run: Path, old: str, new: str) -> None:
    path = run.parent / "grades.arc.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BadData):
        page_of(run)


def test_a_cut_grades_file_is_refused_wherever_it_is_cut(run: Path) -> None:
    path = run.parent / "grades.arc.json"
    whole = path.read_bytes()
    for end in range(0, len(whole.rstrip()), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(BadData):
            page_of(run)


def test_another_json_layout_of_the_same_grades_gives_the_same_page(run: Path) -> None:
    page, path = page_of(run), run.parent / "grades.arc.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    assert page_of(run) == page


def test_a_grades_file_finds_its_outputs(run: Path) -> None:
    assert find_source(run.parent / "grades.arc.json").outputs.run["id"] == find_source(run).outputs.run["id"]


def test_the_grades_of_two_files_in_one_folder_are_kept_separate(tmp_path: Path) -> None:
    for name, answer in (("one", "yes"), ("two", "no")):
        lines = [json.dumps(output("p", 0, 0, answer, "yes").to_json())]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        done = CliRunner().invoke(grade, [str(tmp_path / f"{name}.jsonl"), "--grader", "exact"], standalone_mode=False)
        assert done.exception is None
    first, second = (find_source(tmp_path / f"{name}.jsonl").grades.summary["score"] for name in ("one", "two"))
    assert (first, second) == (1.0, 0.0)
    assert find_source(tmp_path / "two.grades.exact.json").grades.summary["score"] == 0.0
    (tmp_path / "two.grades.exact.json").rename(tmp_path / "mine.json")
    with pytest.raises(UsageError, match="which outputs"):
        find_source(tmp_path / "mine.json")


def test_ungraded_outputs_are_drawn_with_the_next_step(run: Path) -> None:
    (run.parent / "grades.arc.json").unlink()
    with pytest.raises(UsageError, match="not graded yet"):
        find_source(run, "arc")
    page = page_of(run)
    shown = text_of(page)
    assert "not graded : 13 outputs to 4 questions, shown without scores." in shown
    assert f"Scores none yet: hybrid grade {run}" in shown
    assert "Failed outputs 3 (too_long 3)" in shown
    assert "Score (" not in shown
    assert "Interval" not in shown
    assert {each["data-status"] for tag, each in parsed(page).seen if tag == "article"} == {"ungraded"}
    assert cells_of(re.findall(r'<svg class="grid".*?</svg>', page)[3]) == RIGHT
    assert "5 outputs as written" in shown


def test_a_graded_run_is_shown_beside_an_ungraded_one(run: Path) -> None:
    other = run.parent.parent / "ungraded"
    other.mkdir()
    bare = arc_run(other, {"aaa": [RIGHT]})
    (other / "grades.arc.json").unlink()
    shown = text_of(page_of(run, bare))
    assert "not compared: not graded" in shown
    assert "ungraded: not graded : 1 output to 1 question" in shown


def test_a_run_without_all_records_is_shown_as_not_finished(tmp_path: Path) -> None:
    path = text_run(tmp_path, {"p1": ["yes", Failure("missing", "no record of this item has arrived")]})
    assert "not finished : 1 of 2 outputs are there so far." in text_of(page_of(path))
    assert "100.0 % of 1 question" in text_of(page_of(path))


def test_grades_of_two_graders_need_a_choice(run: Path) -> None:
    grade_file(run, Arc(voting="seal"), "arc-seal", run.parent / "grades.arc-seal.json")
    with pytest.raises(UsageError, match="more than once") as raised:
        find_source(run)
    assert "arc, arc-seal" in raised.value.hint
    assert find_source(run, "arc-seal").grades.settings == {"voting": "seal"}
    with pytest.raises(UsageError) as raised:
        find_source(run, "arc-saal")
    assert "did you mean 'arc-seal'?" in raised.value.hint


def test_several_runs_are_shown_with_paired_differences(run: Path) -> None:
    other = run.parent.parent / "better"
    other.mkdir()
    better = arc_run(other, {"aaa": [RIGHT], "bbb": [RIGHT], "ccc": [WRONG], "zzz": [RIGHT]})
    page = page_of(run, better)
    status = {each["data-id"]: each["data-status"] for tag, each in parsed(page).seen if tag == "article"}
    assert status == {
        "aaa": "right right",
        "bbb": "wrong right",
        "ccc": "ungraded wrong",
        "ddd": "right absent",
        "zzz": "absent right",
    }
    found = difference(find_source(run), find_source(better))
    mean, low, high, n = paired_difference([("aaa", 1.0, 1.0), ("bbb", 0.0, 1.0)])
    assert (found.mean, found.interval, found.n) == (mean, (low, high), n) == (0.5, (low, high), 2)
    assert (found.better, found.worse, found.alone) == (1, 0, 3)
    assert "+50.0" in text_of(page)


def test_runs_against_other_references_are_not_compared(run: Path) -> None:
    other = run.parent.parent / "foreign"
    other.mkdir()
    foreign = arc_run(other, {"aaa": [RIGHT]}, {"references": "s" * 64})
    assert difference(find_source(run), find_source(foreign)).why_not == "judged against different references"
    assert "not compared: judged against different references" in text_of(page_of(run, foreign))


def test_a_run_named_twice_gets_two_names(run: Path) -> None:
    assert f"{run.parent.name} (2)" in text_of(page_of(run, run))


def test_text_answers_are_rows_with_reference_and_answer(tmp_path: Path) -> None:
    path = text_run(
        tmp_path, {"p1": ["yes", "no <b>way</b>"], "p2": ["maybe", Failure("refused", "the server said no")]}
    )
    page = page_of(path)
    shown = text_of(page)
    assert "50.0 % of 2 questions" not in shown
    assert "33.3 % of 3 questions" in shown
    assert "Reference yes Answer no <b>way</b>" in shown
    assert "failed: refused the server said no" in shown
    assert {each["data-status"] for tag, each in parsed(page).seen if tag == "article"} == {"partly", "wrong"}
    assert "pass@2" not in shown


def test_a_judge_is_shown_with_its_verdicts_and_its_known_errors(tmp_path: Path) -> None:
    verdict = json.dumps({"reason": "the same <b>city</b>", "correct": True})
    script = tmp_path / "m.json"
    script.write_text(json.dumps({"answers": {}, "default": verdict, "context": 1 << 20}))
    judge = Judge(models=(str(script),), backend="scripted")
    records = [
        replace(output("p", index, 0, said, "Rome"), view={"question": "Which city?"})
        for index, said in enumerate(["the eternal city", "Rome"])
    ]
    path = tmp_path / "outputs.json"
    write_outputs(path, {"id": "judged"}, [], {}, records)
    grade_file(path, judge, "judge", tmp_path / "grades.judge.json")
    shown = text_of(page_of(path))
    assert "how often this judge is wrong is not known" in shown
    assert "Question Which city? Reference Rome Answer the eternal city Judged right: the same <b>city</b>" in shown
    assert "Judged rule exact" in shown
    identity = calibration.identity("judge", judge, {"models": [{"digest": digest_of(script)}]})
    table = {"true_right": 90, "false_right": 20, "false_wrong": 10, "true_wrong": 80}
    calibration.keep(identity, {"rows": 200, "accuracy": [0.85, 0.8, 0.9], "kappa": [0.7, 0.6, 0.8],
                           "worth": "worth <i>it</i>", "table": table})  # fmt: skip
    grade_file(path, judge, "judge", tmp_path / "grades.judge.json")
    shown = text_of(page_of(path))
    assert "checked on 200 rows of a file: accuracy 0.850, kappa 0.700 (0.600 to 0.800); worth <i>it</i>" in shown
    assert "corrected for the judge's errors: 1.0000" in shown


def test_outputs_of_another_program_may_be_in_any_order(tmp_path: Path) -> None:
    path = text_run(tmp_path, {"p1": ["yes", "no"], "p2": ["yes", "no"]})
    document = json.loads(path.read_text())
    document["records"].reverse()
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    records = [Output.from_json(each, what="") for each in document["records"]]
    write_outputs(mixed / "outputs.json", {}, [], {}, records)
    grade_file(mixed / "outputs.json", Exact(), "exact", mixed / "grades.exact.json")
    tasks = [each["data-id"] for tag, each in parsed(page_of(mixed / "outputs.json")).seen if tag == "article"]
    assert tasks == ["p1", "p2"]


def test_long_texts_are_truncated_and_their_length_is_stated(tmp_path: Path) -> None:
    path = arc_run(tmp_path, {"aaa": ["x" * 50_000, RIGHT]})
    page = page_of(path, text=100)
    assert "x" * 100 in page
    assert "x" * 101 not in page
    assert "100 of 50,000 characters shown" in text_of(page)


def test_many_samples_are_bounded_and_counted(tmp_path: Path) -> None:
    page = text_of(page_of(arc_run(tmp_path, {"aaa": [RIGHT] * (MAX_OUTPUTS + 7)})))
    assert f"{MAX_OUTPUTS + 7} outputs as written" in page
    assert "7 more outputs not shown" in page


def test_tasks_beyond_the_limit_are_counted_not_drawn(run: Path) -> None:
    page = page_of(run, tasks=2)
    assert sum(tag == "article" for tag, _ in parsed(page).seen) == 2
    assert "The first 2 of 4 tasks are drawn; the numbers above are of all." in text_of(page)


def test_settings_that_differ_between_runs_are_marked(run: Path) -> None:
    other = run.parent.parent / "seeded"
    other.mkdir()
    sources = [find_source(run), find_source(arc_run(other, {"aaa": [RIGHT]}, {"settings": {"seed": 1}}))]
    rows = re.findall(r'<tr class="differs"><th scope="row">([^<]*)', provenance(sources, [Totals(), Totals()]))
    assert rows == ["id", "setting · seed", "outputs sha256", "grades sha256"]


@pytest.mark.parametrize(
    "models",
    [
        {"": {"backend": "vllm", "name": "big"}, "judge": {"backend": "ollama", "name": "small"}},
        [{"role": "", "backend": "vllm", "name": "big"}, {"role": "judge", "backend": "ollama", "name": "small"}],
    ],
)
def test_a_run_with_several_models_lists_each_with_its_role(tmp_path: Path, models: Any) -> None:
    made = [{"name": "small", "role": "judge", "digest": "d" * 64, "about": {"device": "cuda:0 <H200>"}}]
    path = tmp_path / "outputs.json"
    write_outputs(path, {"id": "r", "pipeline": "quiz", "models": models}, made, {}, [output("a", 0, 0, "x", "y")])
    page = page_of(path)
    shown = text_of(page)
    assert "models · first · name big" in shown
    assert "models · judge · name small" in shown
    assert "model judge small · digest" in shown
    assert "device cuda:0 <H200>" in shown


@pytest.mark.parametrize(
    "named",
    [
        {"backend": "none", "model": "none"},
        {"models": {"": {"backend": "none", "name": "none"}}},
    ],
)
def test_the_title_of_a_run_without_a_language_model_names_none(tmp_path: Path, named: Any) -> None:
    path = tmp_path / "outputs.json"
    write_outputs(path, {"id": "r", "pipeline": "averaging", **named}, [], {}, [output("a", 0, 0, "x", "y")])
    assert "<h1>averaging</h1>" in page_of(path)


@pytest.mark.slow
def test_a_page_of_four_hundred_tasks_with_seventeen_views_is_small(tmp_path: Path) -> None:
    truth = [[(x * y + x) % 10 for x in range(20)] for y in range(20)]
    wrong = [[0, *row[1:]] for row in truth]
    pair = {"input": truth, "output": wrong}
    tasks = {f"{number:08x}": {"train": [pair] * 3, "test": [{"input": wrong}]} for number in range(400)}
    records = (
        output(task, 0, sample, written(wrong if sample % 3 else truth), truth)
        for task in tasks
        for sample in range(17)
    )
    path = tmp_path / "outputs.json"
    write_outputs(path, {"id": "big"}, [], tasks, records)
    grade_file(path, Arc(), "arc", tmp_path / "grades.arc.json")
    assert len(page_of(path)) < 15_000_000


def test_the_command_prints_the_path_of_the_page(run: Path) -> None:
    result = CliRunner().invoke(report, [str(run)])
    assert result.exit_code == 0
    assert result.output == f"{run.parent / 'report.html'}\n"
    assert (run.parent / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_page_of_a_file_with_another_name_is_named_after_it(tmp_path: Path, hybrid: Hybrid) -> None:
    line = '{"key":"1","task":"a","question":"a/0","text":"4","reference":"4"}\n'
    for name in ("first-1.5.jsonl", "second.jsonl"):
        (tmp_path / name).write_text(line)
        done = hybrid("report", tmp_path / name)
        assert (done.code, done.stdout) == (0, f"{tmp_path / name.replace('jsonl', 'report.html')}\n")
    both = hybrid("report", tmp_path / "first-1.5.jsonl", tmp_path / "second.jsonl")
    assert (both.code, both.stdout) == (0, f"{tmp_path / 'comparison.html'}\n")
    assert "<title>first-1.5 · second</title>" in (tmp_path / "comparison.html").read_text()


def test_the_page_of_other_runs_is_not_overwritten_unless_it_is_named(tmp_path: Path, hybrid: Hybrid) -> None:
    runs = [arc_run(tmp_path / name, {"00000001": [RIGHT]}) for name in ("a", "b", "c")]
    first = hybrid("report", runs[0], runs[1])
    page = tmp_path / "a" / "comparison.html"
    assert first.stdout == f"{page}\n"
    assert hybrid("report", runs[0], runs[1]).code == 0  # the same runs: drawn again
    kept = page.read_bytes()
    other = hybrid("report", runs[0], runs[2])
    assert other.code == 2
    assert f"{page} is the report of other runs: a · b" in other.stderr
    assert "-o" in other.stderr
    assert page.read_bytes() == kept
    assert hybrid("report", runs[0], runs[2], "-o", page).code == 0
    assert "<title>a · c</title>" in page.read_text()
    (tmp_path / "b" / "report.html").write_text("<p>mine</p>")
    assert hybrid("report", runs[1]).code == 2
    assert (tmp_path / "b" / "report.html").read_text() == "<p>mine</p>"


def test_deep_settings_are_shown_as_json(tmp_path: Path) -> None:
    deep: Any = {"x": 1}
    for _ in range(5):
        deep = {"in": deep}
    path = arc_run(tmp_path, {"aaa": [RIGHT]}, {"settings": deep})
    assert encode(deep["in"]["in"]).decode() in text_of(page_of(path))


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"steps": 6, "texts": 12, "loss": [2.125, 0.5, 0.0625]}, "trained 6 steps on 12 texts, loss 2.12 to 0.06"),
        ({"steps": 1, "texts": 2, "loss": [None]}, "trained 1 step on 2 texts"),
        ({"steps": "<b>6", "texts": 12, "loss": [1.0]}, ""),
    ],
)
def test_a_task_shows_steps_texts_and_loss_of_its_training(tmp_path: Path, told: dict[str, Any], shown: str) -> None:
    records = [replace(output("aaa", 0, 0, written(RIGHT), RIGHT), trained=told)]
    path = tmp_path / "outputs.json"
    write_outputs(path, {"id": "x", "pipeline": "seal-ttt"}, [], {"aaa": {"train": [], "test": []}}, records)
    grade_file(path, Arc(), "arc", tmp_path / "grades.arc.json")
    text = text_of(page_of(path))
    assert shown in text
    assert ("trained" in text) == bool(shown)
