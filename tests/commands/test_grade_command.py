"""`hybrid grade`: the real command on real files: its table, its grades file, its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hybrid.outputs import write_outputs
from hybrid.records import Failure, Output
from tests.support.in_process import Hybrid


def said(number: int, text: str | None, truth: Any = "yes", task: str = "") -> Output:
    error = None if text is not None else Failure("too-\x1b[2Jlong", "no room")
    return Output(f"k{number}", task or f"t{number}", f"t{number}/0", {}, 0, text, error, truth)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    path = tmp_path / "outputs.json"
    answers = ["yes", "yes", "no", None]
    write_outputs(
        path, {"id": "r", "about": {"grader": "exact"}}, [], {}, [said(n, text) for n, text in enumerate(answers)]
    )
    return path


def grade(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hybrid", "grade", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **more)


def test_the_table_shows_score_interval_control_and_ungraded(outputs: Path) -> None:
    done = grade(outputs)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[1].split() == ["exact", "(by", "question)", "3", "0.6667", "0.2077", "to", "0.9385"]
    assert lines[2].split() == ["control:", "majority", "answer", "3", "1.0000", "0.4385", "to", "1.0000"]
    assert "ungraded questions: 1 (no output to grade: 1)" in lines
    assert any(line.startswith("failed outputs: 1 ") for line in lines)
    assert (outputs.parent / "grades.exact.json").is_file()


def test_a_grader_of_other_outputs_says_that_it_could_grade_nothing(outputs: Path, hybrid: Hybrid) -> None:
    done = hybrid("grade", outputs, "--grader", "numeric")
    why = "nothing could be graded by 'numeric', of 4 questions: the reference holds no number"
    assert (done.code, done.stderr) == (0, f"{why}; these outputs name the grader 'exact'\n")
    assert (outputs.parent / "grades.numeric.json").is_file()
    again = hybrid("grade", outputs, "--grader", "numeric", "--json")
    assert (again.code, json.loads(again.stdout)["summary"]["n"], again.stderr) == (0, 0, done.stderr)
    missed = hybrid("grade", outputs, "--grader", "numeric", "--threshold", "0.5")
    assert (missed.code, missed.stderr.count("nothing could be graded")) == (3, 1)


def test_nothing_is_said_where_something_was_graded_or_nothing_is_to_be(outputs: Path, hybrid: Hybrid) -> None:
    for grader in ("exact", "cvfp"):
        done = hybrid("grade", outputs, "--grader", grader)
        assert (done.code, done.stderr) == (0, "")


def test_grades_without_any_score_do_not_hide_the_only_ones_with_some(outputs: Path, hybrid: Hybrid) -> None:
    path = outputs.rename(outputs.with_name("answers.json"))
    value = json.loads(path.read_text())
    write_outputs(path, {}, [], {}, [said(n, one["text"]) for n, one in enumerate(value["records"])])
    for grader in ("numeric", "exact", "arc"):
        assert hybrid("grade", path, "--grader", grader).code == 0
    assert hybrid("report", path).code == 0
    done = hybrid("export", path, "--to", "jsonl", "-o", "-")
    assert (done.code, [json.loads(line)["grade"]["grader"] for line in done.stdout.splitlines()]) == (0, ["exact"] * 4)
    (path.parent / "answers.grades.arc.json").write_text('{"format":"hybrid/grades","version":1}')
    damaged = hybrid("report", path)
    assert (damaged.code, "graded more than once" in damaged.stderr) == (2, True)


def test_no_control_character_reaches_the_terminal(outputs: Path) -> None:
    done = grade(outputs)
    assert "too-\\x1b[2Jlong: 1" in done.stdout
    assert "\x1b" not in done.stdout


def test_control_characters_are_shown_as_escapes_on_a_real_terminal(outputs: Path) -> None:
    pty = pytest.importorskip("pty", reason="needs a pseudo terminal: this system has none")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "hybrid", "grade", str(outputs)]
    with subprocess.Popen(
        command, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    ) as child:
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # what Linux says when the other side is closed
                break
            if not piece:
                break
            shown += piece
        assert child.wait() == 0
    os.close(master)
    assert b"\x1b[2J" not in shown
    assert b"too-\\x1b[2Jlong" in shown


def test_json_is_one_object_on_one_line(outputs: Path) -> None:
    done = grade(outputs, "--json")
    value = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (value["grader"], value["summary"]["n"], value["summary"]["ungraded"]["count"]) == ("exact", 3, 1)
    assert Path(value["grades"]).is_file()


@pytest.mark.parametrize(("threshold", "code"), [("0.5", 0), ("0.6666", 0), ("0.7", 3), ("1", 3)])
def test_a_missed_threshold_is_exit_3_and_the_grades_are_written(outputs: Path, threshold: str, code: int) -> None:
    done = grade(outputs, "--threshold", threshold)
    assert done.returncode == code
    assert ("below the threshold" in done.stderr) == (code == 3)
    assert (outputs.parent / "grades.exact.json").is_file()


def test_a_threshold_is_missed_when_nothing_could_be_graded(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    write_outputs(path, {}, [], {}, [said(0, "yes", None)])
    done = grade(path, "--grader", "exact", "--threshold", "0")
    assert done.returncode == 3
    assert "nothing could be graded" in done.stderr


def test_settings_and_the_path_of_the_grades_are_options(outputs: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "mine.json"
    done = grade(outputs, "--grader", "contains", "--set", "words=false", "-o", place)
    assert done.returncode == 0, done.stderr
    assert json.loads(place.read_bytes())["grader"] == {"name": "contains", "settings": {"case": False, "words": False}}


def test_a_folder_stands_for_the_outputs_in_it(outputs: Path) -> None:
    assert grade(outputs.parent).returncode == 0
    assert (outputs.parent / "grades.exact.json").is_file()


def test_standard_input_is_graded_into_the_current_folder(outputs: Path, tmp_path: Path) -> None:
    inside = tmp_path / "elsewhere"
    inside.mkdir()
    with outputs.open("rb") as stream:
        done = grade("-", stdin=stream, cwd=inside)
    assert done.returncode == 0, done.stderr
    grade(outputs)
    assert (inside / "grades.exact.json").read_bytes() == (outputs.parent / "grades.exact.json").read_bytes()


def test_json_lines_need_a_grader_and_are_graded(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(json.dumps(said(n, "yes").to_json()) for n in range(3)))
    refused = grade(path)
    assert refused.returncode == 2
    assert "names no grader" in refused.stderr
    assert "exact" in refused.stderr
    assert grade(path, "--grader", "exact", "--threshold", "1").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--grader", "exat"], 2, "did you mean 'exact'?"),
        (["--set", "cass=true"], 2, "case"),
        (["--set", "case"], 2, "name=value"),
        (["--set", "case=perhaps"], 2, "true or false"),
        (["--grader", "regex", "--set", "pattern=(a+)+"], 2, "for ever"),
        (["--threshold", "2"], 2, "threshold"),
    ],
)
def test_a_wrong_option_has_a_hint_with_the_right_one(
    outputs: Path, arguments: list[str], code: int, words: str
) -> None:
    done = grade(outputs, *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(outputs.parent.glob("grades*"))


def test_the_outputs_are_never_overwritten(outputs: Path) -> None:
    before = outputs.read_bytes()
    done = grade(outputs, "-o", outputs)
    assert done.returncode == 2
    assert "would be overwritten" in done.stderr
    assert outputs.read_bytes() == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends in the middle"),
        (b"{}", "no 'format'"),
        (b'{"format":"hybrid/outputs","version":9}\n', "version 9"),
        (b'{"format":"hybrid/outputs","version":1,\n"run":{', "ends in the middle"),
        (b"\x1b]0;title\x07", "not valid JSON"),
    ],
)
def test_bad_files_are_exit_6_in_one_line_with_the_next_step(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "outputs.json"
    path.write_bytes(data)
    done = grade(path, "--grader", "exact")
    assert done.returncode == 6
    first, second = done.stderr.splitlines()
    assert words in first
    assert str(path) in first
    assert second.startswith("hint: ")
    assert "\x1b" not in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["outputs.json"]


def test_no_such_file_is_exit_2(tmp_path: Path) -> None:
    done = grade(tmp_path / "nothing.json")
    assert done.returncode == 2
    assert "there is no file" in done.stderr


def test_a_path_that_cannot_be_written_is_exit_7(outputs: Path) -> None:
    done = grade(outputs, "-o", "/proc/grades.json")
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc: a folder that nobody may write to")
    assert done.returncode in (2, 5, 7)
    assert "/proc/grades.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_peak_of_memory_is_flat(tmp_path: Path) -> None:
    peaks = []
    for rows in (1_000, 30_000):
        path = tmp_path / "outputs.json"
        write_outputs(
            path, {}, [], {}, (said(n, "x" * 300, str(n)) for n in sorted(range(rows), key=lambda n: f"t{n}"))
        )
        done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] < peaks[0] + 20


PEAK = """
import sys
from graders.exact import Exact
from hybrid.grading.grade_file import grade_file
grade_file(sys.argv[1], Exact(), "exact", sys.argv[1] + ".grades")
status = open("/proc/self/status").read()  # ru_maxrss would count the parent of this process too
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.parametrize("threshold", ["nan", "inf", "-inf", "1.5"])
def test_a_threshold_that_is_no_number_from_0_to_1_is_refused(outputs: Path, threshold: str) -> None:
    done = grade(outputs, "--threshold", threshold)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--threshold" in done.stderr


def test_a_score_without_a_control_is_shown_as_such(outputs: Path) -> None:
    shown = grade(outputs, "--grader", "regex", "--set", "pattern=yes").stdout
    assert "control: none" in shown
    assert "control: none" not in grade(outputs, "--grader", "regex").stdout


def test_the_table_is_shown_in_a_narrow_encoding(outputs: Path) -> None:
    done = grade(outputs, "--grader", "regex", "--set", "pattern=yes", env={**os.environ, "PYTHONIOENCODING": "cp437"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2013" in done.stdout  # the dash that cp437 lacks


def test_a_missed_threshold_is_exit_3_with_a_closed_stdout(outputs: Path) -> None:
    judge = f'"{sys.executable}" -m hybrid grade "{outputs}" --threshold 0.9'
    done = subprocess.run(
        ["bash", "-c", f"{judge} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, timeout=240, check=False
    )
    assert done.returncode == 3


def test_a_grader_that_ends_the_process_is_a_fault_and_no_success(
    tmp_path: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"key":"1","task":"a","question":"a/0","view":{},"text":"x","reference":"x"}\n')
    monkeypatch.setattr("graders.exact.Exact.grade", lambda self, output: sys.exit(0))
    done = hybrid("grade", tmp_path / "a.jsonl", "--grader", "exact")
    assert (done.code, "SystemExit" in done.stderr, done.stdout) == (1, True, "")


def test_a_table_of_measures_has_no_column_without_a_value(tmp_path: Path, hybrid: Hybrid) -> None:
    table = tmp_path / "scored.jsonl"
    table.write_text('{"id": 1, "text": "a", "score": 1}\n{"id": 2, "text": "b", "score": 0}\n')
    done = hybrid("grade", table)
    assert done.code == 0, done.stderr
    heading = next(line for line in done.stdout.splitlines() if "measured" in line)
    assert heading.split() == ["measured", "n", "value", "95", "%", "interval"]
