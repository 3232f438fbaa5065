"""Foreign files that are damaged, forged or of another shape: one clear line, the place, the right exit code."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hybrid.errors import BadData
from hybrid.formats.json_stream import JsonStream
from hybrid.formats.reading import BadRow
from hybrid.formats.zip_members import ZSTD, Member, members_of, read_member
from tests.support.in_process import Done, Hybrid

HEADER = {"version": 2, "status": "success", "eval": {"task": "t", "model": "m"}, "results": {}}


def sample(id: Any = 1, epoch: int = 1, **more: Any) -> dict[str, Any]:
    """A sample of an inspect log."""
    output = {"choices": [{"message": {"content": "yes"}, "stop_reason": "stop"}]}
    scores = {"match": {"value": "C"}}
    return {"id": id, "epoch": epoch, "input": "?", "target": "yes", "output": output, "scores": scores, **more}


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """A zip with a header and members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as log:
        for name, data in members.items():
            log.writestr(name, data)
    return path


def log_of(path: Path, *samples: dict[str, Any]) -> Path:
    """An inspect log in a zip."""
    named = {f"samples/{one['id']}_epoch_{one['epoch']}.json": json.dumps(one).encode() for one in samples}
    return packed(path, {"header.json": json.dumps(HEADER).encode(), **named})


@pytest.fixture
def grade(hybrid: Hybrid, tmp_path: Path) -> Callable[..., Done]:
    """`hybrid grade FILE`, with grades beside it."""

    def run(path: Path, *options: object) -> Done:
        return hybrid("grade", path, "-o", tmp_path / "out" / "grades.json", *options)

    return run


def test_a_cut_zip_is_told(grade: Callable[..., Done], tmp_path: Path) -> None:
    log = log_of(tmp_path / "a.eval", sample())
    log.write_bytes(log.read_bytes()[:-30])
    done = grade(log)
    assert done.code == 6
    assert "not a whole zip file" in done.stderr


@pytest.mark.parametrize("name", ["../up.json", "/etc/x.json", "samples/../../x.json", "a\\b.json", "C:x.json"])
def test_a_member_whose_name_leaves_its_folder_is_refused(
    grade: Callable[..., Done], tmp_path: Path, name: str
) -> None:
    log = packed(tmp_path / "a.eval", {"header.json": json.dumps(HEADER).encode(), name: b"{}"})
    done = grade(log)
    assert done.code == 6
    assert "no plain name" in done.stderr


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(grade: Callable[..., Done], tmp_path: Path) -> None:
    log = tmp_path / "a.eval"
    with zipfile.ZipFile(log, "w") as made:
        for text in (json.dumps(HEADER), json.dumps({**HEADER, "status": "error"})):
            made.writestr("header.json", text)
    done = grade(log)
    assert done.code == 6
    assert "member 'header.json': is there twice" in done.stderr


def test_a_damaged_member_is_named_and_may_be_left_out(grade: Callable[..., Done], tmp_path: Path) -> None:
    log = log_of(tmp_path / "a.eval", sample(1), sample(2))
    with zipfile.ZipFile(log) as made:
        info = made.getinfo("samples/2_epoch_1.json")
    data = bytearray(log.read_bytes())
    data[info.header_offset + 30 + len(info.filename) + 20] ^= 0xFF
    log.write_bytes(data)
    done = grade(log)
    assert done.code == 6
    assert "member samples/2_epoch_1.json: " in done.stderr
    done = grade(log, "--skip-bad", "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["bad_rows"] == 1
    assert json.loads(done.stdout)["summary"]["n"] == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, ZSTD])
def test_a_member_that_unpacks_to_more_than_it_says_is_refused_before_it_is_unpacked(method: int) -> None:
    """50 MB of zeros that say they are ten bytes: no more than eleven are made."""
    zeros = b"\0" * 50_000_000
    if method == ZSTD:
        data = zstandard.ZstdCompressor().compress(zeros)
    else:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = packer.compress(zeros) + packer.flush()
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, method, 0, 0, 0, len(data), 10, 1, 0) + b"x"
    with pytest.raises(BadRow, match="unpacks to more than the 10 bytes"):
        read_member(io.BytesIO(local + data), Member("x", 0, len(data), 10, method, 0))


def test_a_member_that_says_it_is_huge_is_not_unpacked() -> None:
    with pytest.raises(BadRow, match="more than the 67,108,864 allowed"):
        read_member(io.BytesIO(), Member("x", 0, 10, 2**40, ZSTD, 0))


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """The directory of a zip bomb names the same bytes many times."""
    path = log_of(tmp_path / "a.eval", sample(1, input="x" * 5000), sample(2))
    data = path.read_bytes()
    place = data.index(b"PK\1\2")
    forged = bytearray(data)
    forged[place + 20 : place + 24] = struct.pack("<L", len(data))
    path.write_bytes(forged)
    with pytest.raises(BadData, match="overlap"):
        members_of(path)


def test_any_other_zip_is_told_apart(grade: Callable[..., Done], tmp_path: Path) -> None:
    done = grade(packed(tmp_path / "a.eval", {"word/document.xml": b"<a/>"}))
    assert done.code == 6
    assert "no inspect log" in done.stderr


def test_a_workbook_is_told_what_to_save_it_as(grade: Callable[..., Done], tmp_path: Path) -> None:
    done = grade(packed(tmp_path / "a.xlsx", {"[Content_Types].xml": b"<a/>", "xl/workbook.xml": b"<a/>"}))
    assert (done.code, "save the sheet with the answers as CSV" in done.stderr) == (6, True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_table_whose_name_does_not_say_so_is_told_how_to_name_it(
    grade: Callable[..., Done], tmp_path: Path, encoding: str
) -> None:
    table = tmp_path / "answers.txt"
    table.write_bytes("number;said\n1;Café\n".encode(encoding))
    done = grade(table)
    assert (done.code, "call it NAME.csv" in done.stderr) == (6, True), done.stderr
    done = grade(table.rename(tmp_path / "answers.csv"), "--column", "text=said", "--grader", "contains")
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    "content",
    [
        [{"name": {"name": "exact_match", "split": "test"}, "count": 1, "sum": 1.0, "mean": 1.0}],
        [{"instance_id": "id1", "stats": []}],
        {"name": "narrative_qa", "scenario_spec": {}, "adapter_spec": {}, "metric_specs": [{}]},
    ],
    ids=["stats", "per_instance_stats", "run_spec"],
)
def test_helm_s_other_files_are_told_which_one_holds_the_answers(
    grade: Callable[..., Done], tmp_path: Path, content: Any
) -> None:
    file = tmp_path / "stats.json"
    file.write_text(json.dumps(content, indent=2))
    done = grade(file)
    assert (done.code, "name the scenario_state.json beside it" in done.stderr) == (6, True), done.stderr


def test_a_log_whose_run_was_killed_is_graded_and_not_finished(grade: Callable[..., Done], tmp_path: Path) -> None:
    start = json.dumps({"version": 2, "eval": HEADER["eval"]}).encode()
    one = json.dumps(sample()).encode()
    done = grade(packed(tmp_path / "a.eval", {"_journal/start.json": start, "samples/1_epoch_1.json": one}))
    assert done.code == 4
    assert "its status is 'started'" in done.stderr
    assert "1.0000" in done.stdout


def test_a_cut_json_log_is_told(grade: Callable[..., Done], tmp_path: Path) -> None:
    log = tmp_path / "a.json"
    log.write_text(json.dumps({**HEADER, "samples": [sample(1), sample(2)]}, indent=1)[:-400])
    done = grade(log)
    assert done.code == 6
    assert "ends in the middle" in done.stderr


def test_a_sample_of_another_shape_is_named_by_its_number(grade: Callable[..., Done], tmp_path: Path) -> None:
    log = tmp_path / "a.json"
    samples: list[Any] = [sample(1), sample([2]), sample(3, epoch="x"), "four", sample(1)]
    log.write_text(json.dumps({**HEADER, "samples": samples}))
    done = grade(log)
    assert (done.code, "sample 2: its id is [2]" in done.stderr) == (6, True)
    done = grade(log, "--skip-bad")
    assert done.code == 0, done.stderr
    for words in (
        "left out: 4 bad rows",
        "sample 4: the sample is no JSON object",
        "sample 5: the id '1' is there twice",
    ):
        assert words in done.stderr


def test_only_bad_rows_are_an_error_all_the_same(grade: Callable[..., Done], tmp_path: Path) -> None:
    table = tmp_path / "a.jsonl"
    table.write_text('{"id": 1, "text": null}\n')
    done = grade(table, "--grader", "exact", "--skip-bad")
    assert done.code == 6
    assert "every row is bad" in done.stderr


def test_a_text_of_a_hostile_file_does_not_reach_the_terminal(grade: Callable[..., Done], tmp_path: Path) -> None:
    log = tmp_path / "a.json"
    log.write_text(json.dumps({**HEADER, "samples": [sample("\x1b]0;owned\x07", epoch=0)]}))
    done = grade(log)
    assert done.code == 6
    assert "\x1b" not in done.stderr + done.stdout


ROWS = '{"id": "a", "answer": "yes", "gold": "yes"}\n{"id": "b", "answer": 12, "gold": "12"}\n'
NAMED = ("--column", "text=answer", "--column", "reference=gold", "--grader", "exact")


def test_columns_are_named(grade: Callable[..., Done], tmp_path: Path) -> None:
    table = tmp_path / "a.jsonl"
    table.write_text(ROWS)
    done = grade(table, *NAMED, "--threshold", 1)
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"id": "c", "gold": "x"}', "line 3: no answer: its column 'answer' is not there"),
        ('{"id": "c", "answer": null}', "line 3: no answer: its column 'answer' is null"),
        ('{"id": "c", "answer": ["x"]}', "line 3: its column 'answer' holds a list, no text"),
        ('{"id": "a", "answer": "x"}', "line 3: the id 'a' is there twice"),
        ('{"id": {}, "answer": "x"}', "line 3: its id is {}"),
        ('{"id": "c", "answer": "x"', "line 3: not valid JSON"),
        ("[1]", "line 3: the row is no JSON object: it is a list"),
        ('{"id": "c", "answer": "\\ud800"}', "line 3: cannot be written as JSON"),
        ('{"id": "c", "answer": "x", "group": 1.5}', "line 3: its group is 1.5"),
    ],
)
def test_a_bad_row_is_named_and_may_be_left_out(
    grade: Callable[..., Done], tmp_path: Path, row: str, words: str
) -> None:
    table = tmp_path / "a.jsonl"
    table.write_text(ROWS + row + "\n")
    done = grade(table, *NAMED)
    assert done.code == 6
    assert words in done.stderr
    done = grade(table, *NAMED, "--skip-bad", "--threshold", 1)
    assert done.code == 0, done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--column", "text=anser"), "no column 'anser'"),
        (("--column", "txet=answer"), "did you mean 'text'?"),
        (("--column", "text"), "not FIELD=COLUMN"),
        (("--column", "text=a", "--column", "text=b"), "given twice"),
        (("--from", "table"), "no column 'text'"),
        (("--from", "inspekt"), "inspekt"),
        (("--input", "nothing.jsonl"), "there is no file nothing.jsonl"),
    ],
)
def test_a_wrong_option_is_exit_2(
    grade: Callable[..., Done], tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    table = tmp_path / "a.jsonl"
    table.write_text(ROWS)
    done = grade(table, *options, "--grader", "exact")
    assert done.code == 2
    assert words in done.stderr


def test_options_for_other_files_are_refused_for_our_own(grade: Callable[..., Done], tmp_path: Path) -> None:
    ours = tmp_path / "a.jsonl"
    ours.write_text('{"key": "1", "task": "t", "question": "t/0", "text": "x", "reference": "x"}\n')
    done = grade(ours, *NAMED)
    assert done.code == 2
    assert "holds outputs of hybrid" in done.stderr
    assert grade(ours, "--grader", "exact", "--threshold", 1).code == 0


@pytest.mark.parametrize(
    ("score", "reason"),
    [("1e999", "too large"), ("NaN", "NaN"), ('"refused"', "the text 'refused'"), ("[]", ""), ("null", "null")],
)
def test_a_score_that_is_no_number_is_counted_with_its_reason_and_never_zero(
    grade: Callable[..., Done], tmp_path: Path, score: str, reason: str
) -> None:
    log = tmp_path / "a.json"
    one = json.dumps(sample(1, scores={"match": {"value": "SCORE"}})).replace('"SCORE"', score)
    log.write_text(json.dumps({**HEADER, "samples": [sample(2)]})[:-2] + f", {one}]}}")
    summary = json.loads(grade(log, "--json").stdout)["summary"]
    assert (summary["n"], summary["score"], summary["questions"]) == (1, 1.0, 2)
    counted = [one["name"] for one in summary["measures"] if one["group"]]
    assert counted == [f"match: {reason or 'no score'}"]


def test_rows_of_nobody_knows_what_are_no_table(grade: Callable[..., Done], tmp_path: Path) -> None:
    table = tmp_path / "a.jsonl"
    table.write_text(ROWS)
    done = grade(table, "--grader", "exact")
    assert done.code == 6
    assert "its columns are id, answer, gold; name one: --column text=COLUMN" in done.stderr


def test_a_line_of_more_than_is_allowed_is_passed_over_in_bounded_memory(
    grade: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid.formats.lines.LARGEST", 1000)
    table = tmp_path / "a.jsonl"
    table.write_text(ROWS + json.dumps({"id": "c", "answer": "x" * 5_000_000}) + "\n" + ROWS.replace("a", "d", 1))
    done = grade(table, *NAMED)
    assert done.code == 6
    assert "line 3: more than the 1,000 bytes allowed in one line" in done.stderr


def test_the_answers_of_a_csv_are_graded(grade: Callable[..., Done], tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text('id,answer,gold,place\n1,"yes, sir","yes, sir",x\n2,no,no,x\n3,no\n')
    done = grade(table, *NAMED, "--column", "group=place")
    assert done.code == 6
    assert "line 4" in done.stderr
    done = grade(table, *NAMED, "--column", "group=place", "--skip-bad", "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["score"] == 1.0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]))
def test_a_stream_reads_the_same_values_as_the_whole_document(rows: list[Any], piece: int, indent: int | None) -> None:
    text = json.dumps({"a": 1, "rows": rows, "z": "end"}, indent=indent, ensure_ascii=False)
    data = text.encode("utf-8", "surrogatepass")
    if any("\ud800" <= one <= "\udfff" for one in text):
        return
    stream = io.BytesIO(data)
    read = stream.read
    stream.read = lambda size=-1: read(min(size, piece))  # type: ignore[method-assign, misc]
    document = JsonStream(stream, "a file")
    found = {}
    for name in document.members():
        found[name] = list(document.elements()) if name == "rows" else document.value()
    document.end()
    assert repr(found) == repr(json.loads(text))


@given(st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=6), st.integers(0, 3), st.booleans())
def test_indented_objects_are_read_as_any_others(rows: list[Any], width: int, torn: bool) -> None:
    """Also where braces of an inner value are indented as the outer ones, which no program writes."""
    text = json.dumps({"a": {}, "rows": rows, "z": "end"}, indent=width)
    text = text.replace("\n" + " " * 3 * width, "\n" + " " * 2 * width) if torn else text
    document = JsonStream(io.BytesIO(text.encode()), "a file")
    found = {name: list(document.elements()) if name == "rows" else document.value() for name in document.members()}
    document.end()
    assert repr(found) == repr(json.loads(text))


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 100), st.sampled_from([None, 2]))
def test_a_cut_document_is_never_taken_for_a_whole_one(rows: list[Any], left: int, indent: int | None) -> None:
    text = json.dumps({"rows": rows}, indent=indent)
    cut = text[: max(1, len(text) - left)]
    document = JsonStream(io.BytesIO(cut.encode()), "a file")
    with pytest.raises(BadData, match="a file: "):
        _ = [list(document.elements()) for _ in document.members()]
