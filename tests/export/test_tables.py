"""`hybrid export` to tables and JSON lines, each read back by what people read it with; and a run as rows of Python."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import hybrid as package
from hybrid.canonical import encode
from hybrid.errors import BadData, UsageError
from hybrid.execution.pages import write_pages
from hybrid.export.text_tables import FORMULA as FORMULA_STARTS
from hybrid.export.text_tables import guarded
from hybrid.outputs import path_beside, write_outputs
from hybrid.settings import freeze
from pipelines.cvfp.pipeline import Cvfp
from tests.support.graded_runs import FORMULA, OUTPUTS, graded_run, said
from tests.support.in_process import Hybrid

SCORES = [0.5, 0.5, 1.0, 1.0, None, None, None, None, 0.5, 0.5]


def unguarded(cell: str) -> str:
    return cell.removeprefix("'")


def test_pandas_reads_the_csv_with_every_text_number_and_missing_value(outputs: Path, hybrid: Hybrid) -> None:
    done = hybrid("export", outputs, "--to", "csv")
    assert (done.code, done.stdout.strip()) == (0, str(outputs.parent / "export.csv"))
    frame = pd.read_csv(done.stdout.strip(), dtype={"text": str}, keep_default_na=False, na_values={"score": [""]})
    assert [unguarded(text) for text in frame["text"]] == [(one.text or "").replace("\0", "\ufffd") for one in OUTPUTS]
    assert "a NUL character, which no CSV can hold, replaced by U+FFFD: 1" in done.stderr
    assert [None if pd.isna(score) else score for score in frame["score"]] == SCORES
    assert list(frame["error"]) == [one.error.kind if one.error else "" for one in OUTPUTS]
    assert list(frame["prompt_tokens"]) == [one.tokens[0] for one in OUTPUTS]
    assert frame["reason"][4] == "no reference" or "reference" in frame["reason"][4]
    assert (frame["run"] == "prompts-0123456789ab").all()


def test_no_cell_of_a_csv_is_a_formula(outputs: Path, hybrid: Hybrid) -> None:
    done = hybrid("export", outputs, "--to", "csv", "-o", "-")
    cells = [cell for row in csv.reader(io.StringIO(done.stdout, newline="")) for cell in row]
    assert f"'{FORMULA}" in cells
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
    assert "marked by a ' before it: 3" in done.stderr


@settings(max_examples=50)
@given(st.text())
def test_taking_one_mark_away_gives_every_text_back(text: str) -> None:
    cell = guarded(text)
    assert isinstance(cell, str)
    assert (cell.removeprefix("'") if cell.startswith("'") else cell) == text
    assert not cell.startswith(FORMULA_STARTS[:-1])


def test_parquet_holds_texts_exactly_and_nulls_where_nothing_is(outputs: Path, hybrid: Hybrid) -> None:
    done = hybrid("export", outputs, "--to", "parquet")
    assert done.code == 0, done.stderr
    table = parquet.read_table(done.stdout.strip())
    assert table.column("text").to_pylist() == [one.text for one in OUTPUTS]
    assert table.column("score").to_pylist() == SCORES
    assert table.column("thought").to_pylist()[1] == "<think>perhaps</think>"
    assert json.loads(table.column("reference").to_pylist()[6]) == {"a": 1}
    assert pd.read_parquet(done.stdout.strip())["completion_tokens"].sum() == sum(one.tokens[1] for one in OUTPUTS)


def test_json_lines_are_records_with_their_grades_that_grade_reads_again(outputs: Path, hybrid: Hybrid) -> None:
    done = hybrid("export", outputs, "--to", "jsonl")
    lines = [json.loads(line) for line in Path(done.stdout.strip()).read_text().splitlines()]
    assert [line["grade"]["score"] for line in lines] == SCORES
    assert [line["text"] for line in lines] == [one.text for one in OUTPUTS]
    assert lines[4]["grade"]["reason"]
    again = hybrid("grade", done.stdout.strip(), "--grader", "exact", "--json")
    first = hybrid("grade", outputs, "--json")
    assert json.loads(again.stdout)["summary"] == json.loads(first.stdout)["summary"]


def test_the_same_run_gives_the_same_bytes_and_no_other_file_is_overwritten(outputs: Path, hybrid: Hybrid) -> None:
    for name in ("jsonl", "csv", "parquet"):
        path = Path(hybrid("export", outputs, "--to", name).stdout.strip())
        before = path.read_bytes()
        assert hybrid("export", outputs, "--to", name).code == 0, "it is the same"
        path.write_bytes(b"mine")
        done = hybrid("export", outputs, "--to", name)
        assert (done.code, "-f overwrites it" in done.stderr, path.read_bytes()) == (2, True, b"mine")
        assert hybrid("export", outputs, "--to", name, "-f").code == 0
        assert path.read_bytes() == before


def test_a_run_without_grades_has_no_scores(tmp_path: Path, hybrid: Hybrid) -> None:
    path = graded_run(tmp_path, grade=False)
    lines = hybrid("export", path, "--to", "jsonl", "-o", "-").stdout.splitlines()
    assert {json.loads(line)["grade"] for line in lines} == {None}
    assert all(row.grade is None for row in package.read_run(path))


def test_outputs_that_are_not_in_order_come_in_order_with_their_grades(tmp_path: Path) -> None:
    rows = list(package.read_run(graded_run(tmp_path, OUTPUTS[::-1])))
    assert [row.output.question for row in rows] == [one.question for one in OUTPUTS]
    assert [row.grade.score if row.grade else -1 for row in rows] == SCORES


def test_an_edited_file_gives_no_row_and_no_export(outputs: Path, hybrid: Hybrid) -> None:
    outputs.write_text(outputs.read_text().replace('"text":"no"', '"text":"yes"'))
    with pytest.raises(BadData, match="edited or damaged"):
        next(iter(package.read_run(outputs)))
    done = hybrid("export", outputs, "--to", "jsonl")
    assert (done.code, (outputs.parent / "export.jsonl").exists()) == (6, False)


def test_grades_of_other_outputs_are_not_joined(outputs: Path) -> None:
    graded_run(outputs.parent, [*OUTPUTS[:-1], said(9, "another", "'quoted")], grade=False)
    assert package.read_run(outputs).grader == "", "the grades are of the outputs before"
    with pytest.raises(BadData, match="judges other outputs"):
        package.read_run(outputs, grader="exact")
    with pytest.raises(UsageError, match="no grades of 'f1'"):
        package.read_run(outputs, grader="f1")


def test_a_run_that_lacks_records_is_written_and_is_not_finished(tmp_path: Path, hybrid: Hybrid) -> None:
    lost = said(9, None, "'quoted")
    lost.error = package.Failure("missing", "no record of this item has arrived")
    path = graded_run(tmp_path, [*OUTPUTS[:-1], lost])
    done = hybrid("export", path, "--to", "csv")
    assert (done.code, Path(done.stdout.strip()).exists()) == (4, True)
    assert "1 of 10 outputs is missing" in done.stderr


def test_a_data_frame_has_the_columns_of_the_tables(outputs: Path) -> None:
    run = package.read_run(outputs)
    frame = run.to_frame()
    assert list(frame["text"])[:4] == ["yes", "no", FORMULA, None]
    assert frame.groupby("question")["score"].first().mean() == pytest.approx(run.summary["score"])
    assert encode({"arm": "a"}).decode() == frame["view"][0]


def test_standard_input_and_unknown_formats_are_wrong_commands(hybrid: Hybrid) -> None:
    assert hybrid("export", "-", "--to", "csv").code == 2
    done = hybrid("export", "x.json", "--to", "xls")
    assert (done.code, "'jsonl'" in done.stderr) == (2, True)


def test_a_run_in_a_folder_that_cannot_be_written_is_exported_elsewhere(folder: Path, hybrid: Hybrid) -> None:
    (folder / "results").write_text("a file where the folder of results would be")
    done = hybrid("export", "seal-eval", "--to", "jsonl", "--folder", folder, "-o", folder.parent / "x.jsonl")
    assert (done.code, len((folder.parent / "x.jsonl").read_text().splitlines())) == (0, 6), done.stderr
    assert hybrid("export", "seal-eval", "--to", "jsonl", "--folder", folder).code != 0


def test_an_archive_holds_the_files_of_a_run_and_no_others(outputs: Path, hybrid: Hybrid, tmp_path: Path) -> None:
    named = outputs.rename(outputs.with_name("mine.json"))
    hybrid("grade", named)
    hybrid("report", named)
    for name in ("mine.credentials.json", "mine.export.csv", "mine.rounds.csv", "other.csv", "mine.key.pem"):
        (outputs.parent / name).write_text("a\n")
    done = hybrid("export", named, "--to", "archive")
    assert done.stdout.strip() == str(outputs.parent / "mine.results.zip")
    with zipfile.ZipFile(done.stdout.strip()) as archive:
        names = archive.namelist()
        assert archive.read("mine.json") == named.read_bytes()
    assert [name for name in names if "grades" not in name] == ["mine.json", "mine.report.html"]
    assert any("grades" in name for name in names)
    assert f"{len(names)} files: " in done.stderr
    first = Path(done.stdout.strip()).read_bytes()
    again = hybrid("export", named, "--to", "archive", "-o", tmp_path / "again.zip")
    assert Path(again.stdout.strip()).read_bytes() == first


@pytest.mark.parametrize("stem", ["outputs", "base"])
def test_an_archive_takes_grades_under_any_name_that_the_command_gives(
    stem: str, outputs: Path, hybrid: Hybrid
) -> None:
    named = outputs.rename(outputs.with_name(f"{stem}.json"))
    for one in outputs.parent.glob("*grades*"):
        one.unlink()
    wanted = {path_beside(named, name) for name in ("grades.json", "grades.of_a_Friend.json", "grades.v1.2.json")}
    for path in wanted:
        hybrid("grade", named, "-o", path)
    path_beside(named, "grades.link.json").symlink_to(min(wanted))
    assert hybrid("export", named, "--to", "csv").code == 2, "which grades?"
    assert hybrid("export", named.parent / "nowhere" / "x.json", "--to", "archive").code == 2
    done = hybrid("export", named, "--to", "archive")
    assert done.code == 0, done.stderr
    assert {*zipfile.ZipFile(done.stdout.strip()).namelist()} == {named.name, *(path.name for path in wanted)}


def test_an_archive_says_which_of_its_grades_are_of_other_outputs(outputs: Path, hybrid: Hybrid) -> None:
    hybrid("grade", outputs, "-o", path_beside(outputs, "grades.json"))
    assert "judges other" not in hybrid("export", outputs, "--to", "archive").stderr
    graded_run(outputs.parent, [said(0, "no"), *OUTPUTS[1:]], grade=False)
    hybrid("grade", outputs, "-o", path_beside(outputs, "grades.fresh.json"))
    done = hybrid("export", outputs, "--to", "archive", "--force")
    stale = [f"{outputs.parent / name} judges other outputs than outputs.json holds now: grade again"
             for name in ("grades.exact.json", "grades.json")]  # fmt: skip
    assert (done.code, done.stderr.splitlines()[-2:], done.stderr.count("judges other")) == (0, stale, 2)


@pytest.mark.parametrize("stem", ["outputs", "base"])
def test_an_archive_takes_the_tables_of_the_pipeline_alone(stem: str, tmp_path: Path, hybrid: Hybrid) -> None:
    pipeline, outputs = Cvfp(), tmp_path / f"{stem}.json"
    run = {"id": "cvfp-0123456789ab", "pipeline": "cvfp", "settings": freeze(pipeline)}
    write_outputs(outputs, run, [], {}, [])
    (table,) = write_pages(pipeline, outputs)
    for name in ("notes.txt", "credentials.json", "long.json"):
        path_beside(outputs, name).write_text("of a person\n")
    hybrid("export", outputs, "--to", "csv")
    for _ in range(2):  # again beside the archive itself
        done = hybrid("export", outputs, "--to", "archive")
        assert done.code == 0, done.stderr
        assert sorted(zipfile.ZipFile(done.stdout.strip()).namelist()) == sorted([outputs.name, table.name])
    for theirs in ("link", "file"):
        if theirs == "link":
            table.symlink_to(table.rename(tmp_path / "moved.csv"))
        else:
            table.unlink()
            table.write_text("of a person, or of an earlier version\n")
        done = hybrid("export", outputs, "--to", "archive", "--force")
        assert zipfile.ZipFile(done.stdout.strip()).namelist() == [outputs.name], theirs
        why = {"link": "it is a link", "file": "another version wrote it, or it is your own"}[theirs]
        assert f"{table.name} is left out: {why}" in done.stderr
    write_outputs(outputs, {**run, "pipeline": "of-a-friend"}, [], {}, [])
    done = hybrid("export", outputs, "--to", "archive", "--force")
    assert (
        "are left out: cvfp-0123456789ab is of the pipeline 'of-a-friend', which is not installed here" in done.stderr
    )
