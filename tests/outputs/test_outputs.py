"""outputs.json: every layout of the same content is read, everything else is refused in one clear line."""

from __future__ import annotations

import hashlib
import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.canonical import MAX_DEPTH, encode
from hybrid.errors import BadData, UsageError
from hybrid.outputs import grades_beside, open_outputs, write_outputs
from hybrid.outputs.document import Document
from hybrid.records import Failure, Output
from hybrid.thoughts import split

RUN = {"id": "seal-eval-0123456789ab", "pipeline": "seal-eval", "about": {"grader": "exact"}}
MODELS = [{"name": "tiny", "digest": "ab", "about": {"engine": "none"}}]
TASKS = {"t2": {"train": []}, "t1": {"train": [[1, 2], [3]]}, "ä\n": None}


def output(key: str, task: str = "t1", question: str = "t1/0", **more: Any) -> Output:
    values: dict[str, Any] = {
        "view": {"transform": "flip0"},
        "sample": 0,
        "text": "yes",
        "error": None,
        "reference": "yes",
    }
    return Output(key=key, task=task, question=question, **{**values, **more})


RECORDS = [
    output("k1", text="two\nlines and \x1b[31m, \u2028 and \U0001f600", tokens=(12, 3), finish="stop"),
    output("k2", view={"small": 1e-05, "large": 1e22, "whole": 2**70}, reference=[[0, 1], [2, 3]]),
    output("k3", "t2", "t2/0", text=None, error=Failure("too-long", "no room")),
]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "outputs.json"
    write_outputs(path, RUN, MODELS, TASKS, RECORDS)
    return path


def content(path: Path) -> tuple[Any, ...]:
    opened = open_outputs(path)
    records = list(opened.records())
    return opened.run, list(opened.models), dict(opened.tasks), records, opened.sha256, opened.count


def refusal(path: Path) -> BadData:
    with pytest.raises(BadData) as caught:
        list(open_outputs(path).records())
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert caught.value.hint
    return caught.value


def test_what_was_written_is_read(written: Path) -> None:
    run, models, tasks, records, sha256, count = content(written)
    assert (run, models, tasks, records, count) == (RUN, MODELS, TASKS, RECORDS, 3)
    assert json.loads(written.read_bytes())["sha256"] == sha256


def test_the_digest_is_the_one_of_the_format_page(written: Path) -> None:
    parts = [RUN, MODELS, *([task, TASKS[task]] for task in sorted(TASKS)), *(record.to_json() for record in RECORDS)]
    expected = hashlib.sha256(b"".join(encode(part) + b"\n" for part in parts)).hexdigest()
    assert content(written)[4] == expected


def test_every_record_stands_on_a_line_of_its_own(written: Path) -> None:
    lines = written.read_bytes().split(b"\n")
    start = lines.index(b'"records":[') + 1
    assert lines[start : start + 3] == [
        encode(RECORDS[0].to_json()) + b",",
        encode(RECORDS[1].to_json()) + b",",
        encode(RECORDS[2].to_json()),
    ]


def test_an_empty_run_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    write_outputs(path, None, [], {}, [])
    assert json.loads(path.read_bytes())["count"] == 0
    assert content(path)[:4] == ({}, [], {}, [])


def test_records_can_be_read_more_than_once(written: Path) -> None:
    opened = open_outputs(written)
    assert list(opened.records()) == list(opened.records()) == RECORDS


LAYOUTS: dict[str, Callable[[Any], str]] = {
    "pretty": lambda document: json.dumps(document, indent=2),
    "one line": json.dumps,
    "escaped": lambda document: json.dumps(document, ensure_ascii=True, indent="\t"),
    "members backwards": lambda document: json.dumps(dict(reversed(list(document.items())))),
    "by another encoder": lambda document: json.dumps(document, ensure_ascii=False).replace("1e-05", "0.00001"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_the_same_content_is_the_same(written: Path, tmp_path: Path, layout: str) -> None:
    other = tmp_path / "other.json"
    other.write_text(LAYOUTS[layout](json.loads(written.read_bytes())), encoding="utf-8")
    assert content(other) == content(written)


def test_windows_line_ends_are_only_layout(written: Path) -> None:
    before = content(written)
    written.write_bytes(written.read_bytes().replace(b"\n", b"\r\n"))
    assert content(written) == before


def test_lines_that_write_numbers_in_another_way_are_the_same_content(written: Path) -> None:
    before = content(written)
    data = written.read_bytes()
    assert b"1e-05" in data
    written.write_bytes(data.replace(b"1e-05", b"0.00001").replace(b"1e+22", b"1e22"))
    assert content(written) == before


def test_records_laid_out_in_another_way_after_the_first_are_the_same_content(written: Path) -> None:
    before = content(written)
    second = encode(RECORDS[1].to_json())
    written.write_bytes(written.read_bytes().replace(second, json.dumps(json.loads(second), indent=1).encode()))
    opened = open_outputs(written)
    assert list(opened.records()) == RECORDS
    assert isinstance(opened._reader, Document)
    assert opened.sha256 == before[4]


def test_truncation_at_every_byte_is_refused(written: Path) -> None:
    whole = written.read_bytes()
    for length in range(len(whole) - 1):  # without the last newline it is still the whole document
        written.write_bytes(whole[:length])
        refusal(written)


def test_every_edited_byte_is_refused_or_only_layout(written: Path) -> None:
    whole, before = written.read_bytes(), content(written)
    rng = random.Random(3)
    refused = 0
    for place in range(len(whole)):
        written.write_bytes(
            whole[:place] + bytes([rng.choice([b for b in range(256) if b != whole[place]])]) + whole[place + 1 :]
        )
        try:
            assert content(written) == before
        except BadData:
            refused += 1
    assert refused > 0.9 * len(whole)


def test_a_changed_answer_is_refused_with_the_next_step(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b"no room", b"no rooM"))
    error = refusal(written)
    assert "does not fit its sha256" in error.message
    assert "hybrid grade RUN" in error.hint


def test_a_removed_record_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(encode(RECORDS[0].to_json()) + b",\n", b""))
    assert "2 records and says 3" in refusal(written).message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends in the middle"),
        (b"[1,2]", "not an outputs file: it is a list, not an object"),
        (b'"text"', "not an outputs file: it is a single value"),
        (b'{"hello":1}', "not an outputs file: it has a key 'hello'; needed are format, version, run,"),
        (b'{"format":"other/thing","version":1}', "its format is 'other/thing'"),
        (b'{"format":"hybrid/outputs","version":2,\n"run":{}}', "version 2, this hybrid reads 1"),
        (b'{"format":"hybrid/outputs","version":true,"records":[]}', "version True"),
        (b'{"version":2,"format":"hybrid/outputs","records":[]}', "version 2, this hybrid reads 1"),
        (b'{"version":"v2.0","data":[]}', "begins with the keys 'version' and 'data'; needed are format,"),  # SQuAD's
        (b'{"version":3,"run":{},"records":[]}', "not an outputs file: it has no 'format'"),
        (b'{"version":3,"format":"other/thing"}', "not an outputs file: its format is 'other/thing'"),
        (b"\x89PNG\r\n\x1a\n", "not valid JSON"),
        (
            b'{"format":"hybrid/outputs","version":1,"run":{},"models":[],"tasks":{},"records":[]}',
            "no count and sha256",
        ),
        (
            b'{"format":"hybrid/outputs","version":1,"run":{},"models":[],"tasks":{},"count":0,"sha256":""}',
            "no 'records'",
        ),
        (b'{"format":"hybrid/outputs","version":1,"run":[],"models":[],"tasks":{},"records":[]}', "'run' is not"),
        (
            b'{"format":"hybrid/outputs","version":1,"run":{},"models":[],"tasks":[],"records":[]}',
            "'tasks' is not an object",
        ),
        (b'{"format":"hybrid/outputs","format":"hybrid/outputs","records":[]}', "is there twice"),
        (b'{"format":"hybrid/outputs","version":1,"extra":1,"records":[]}', "unknown key 'extra'"),
        (b'{"format":"hybrid/outputs","records":[],"version":NaN}', "not valid JSON"),
    ],
)
def test_foreign_and_broken_files_are_refused_in_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "outputs.json"
    path.write_bytes(data)
    assert words in refusal(path).message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.pop("question"), "needed are 'key', 'task', 'question', and"),
        (lambda record: record.update(text=None), "needs a text or an error"),
        (lambda record: record.update(view=[1]), "a view that is an object"),
        (lambda record: record.update(text=None, error={}), "an error needs the keys 'kind' and 'message'"),
        (lambda record: record.update(text=5), "needs a text or an error"),
        (lambda record: record.update(sample="many"), "not an output record"),
        (lambda record: record.update(tokens=[1]), "not an output record"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_record_that_lacks_something_is_refused_by_its_place(
    written: Path, change: Any, words: str, indent: int | None
) -> None:
    document = json.loads(written.read_bytes())
    change(document["records"][1])
    written.write_text(json.dumps(document, indent=indent))
    message = refusal_of_any_hint(written)
    assert words in message
    assert "record 2" in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"question": "q", "answer": "a", "gold": "b"}, "its keys are 'answer', 'gold', 'question'"),
        ({"key": "k", "task": "t", "question": "q", "answer": "a"}, "'answer', 'key', 'question', 'task'"),
        ({}, "it is an empty object"),
        ({f"\x1b[2J{n}": n for n in range(1000)}, "and 995 more"),
        ([1], "it is a list, not an object"),
        ("text", "it is a text, not an object"),
        (None, "it is null, not an object"),
    ],
    ids=range(7),
)
def test_a_record_of_another_shape_is_told_its_keys_and_those_needed(tmp_path: Path, line: Any, words: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(line) + "\n")
    message = refusal_of_any_hint(path)
    assert words in message
    assert "line 1: not an output record" in message
    assert "needed are 'key', 'task', 'question', and 'text' or 'error'" in message
    assert len(message) < 1000


def refusal_of_any_hint(path: Path) -> str:
    with pytest.raises(BadData) as caught:
        list(open_outputs(path).records())
    return caught.value.message


def test_a_bad_line_is_named_by_its_number(written: Path) -> None:
    lines = written.read_bytes().replace(b'"key":"k2",', b"").split(b"\n")
    written.write_bytes(b"\n".join(lines))
    where = next(number for number, line in enumerate(lines, start=1) if b'"large"' in line)
    assert f"line {where}:" in refusal_of_any_hint(written)


def test_a_name_twice_in_one_record_is_refused_in_every_layout(written: Path) -> None:
    doubled = written.read_bytes().replace(b'"key":"k1"', b'"key":"k0","key":"k1"')
    written.write_bytes(doubled)
    assert "twice" in refusal_of_any_hint(written)
    written.write_bytes(doubled.replace(b",\n", b",\n "))
    assert "twice" in refusal_of_any_hint(written)


def test_nan_in_a_record_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b"1e-05", b"NaN"))
    assert "not valid JSON" in refusal(written).message


def test_a_number_beyond_all_floats_is_refused_in_every_layout(written: Path) -> None:
    data = written.read_bytes().replace(b"1e-05", b"1e999")
    written.write_bytes(data)
    assert "number that is too large" in refusal(written).message


def test_nesting_without_end_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b"1e-05", b"[" * 5000 + b"]" * 5000))
    assert "levels" in refusal(written).message


@pytest.mark.parametrize("text", ["NaN", "lone \ud800"])
def test_what_json_cannot_hold_is_not_written(tmp_path: Path, text: str) -> None:
    bad = output("k", view={"x": float("nan")}) if text == "NaN" else output("k", text=text)
    with pytest.raises(BadData, match="cannot be written as JSON"):
        write_outputs(tmp_path / "outputs.json", {}, [], {}, [bad])
    assert list(tmp_path.iterdir()) == []


def test_json_lines_are_read_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(b"\n\n".join(encode(record.to_json()) for record in RECORDS))
    assert content(path)[:4] == ({}, [], {}, RECORDS)


def test_json_lines_may_begin_with_a_header(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    tasks = {**TASKS, "beyond 64 bits": 2**70}
    head = {"format": "hybrid/outputs", "version": 1, "run": RUN, "models": MODELS, "tasks": tasks}
    path.write_bytes(b"\n".join(encode(line) for line in [head, *(record.to_json() for record in RECORDS)]))
    twin = tmp_path / "outputs.json"
    write_outputs(twin, RUN, MODELS, tasks, RECORDS)
    assert content(path) == content(twin)


@pytest.mark.parametrize("name", ["some.jsonl.zst", "outputs.json.zst"])
def test_zstd_is_unpacked_and_a_cut_one_refused(written: Path, tmp_path: Path, name: str) -> None:
    data = written.read_bytes() if "jsonl" not in name else b"\n".join(encode(record.to_json()) for record in RECORDS)
    half = len(data) // 2
    packed = zstandard.compress(data[:half]) + zstandard.compress(data[half:])  # two frames are one stream
    path = tmp_path / name
    path.write_bytes(packed)
    assert content(path)[3] == RECORDS
    for length in range(4, len(packed)):
        if length != len(zstandard.compress(data[:half])):
            path.write_bytes(packed[:length])
            assert "ends early" in refusal(path).message


def test_a_cut_json_line_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(encode(RECORDS[0].to_json()) + b"\n" + encode(RECORDS[1].to_json())[:-5])
    assert f"{path}, line 2: not valid JSON" in refusal_of_any_hint(path)


def test_no_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        open_outputs(tmp_path / "outputs.json")


def test_a_task_named_twice_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b'"t2":{', b'"t1":{', 1))
    assert "t1" in refusal(written).message


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


ANSWER = st.text(max_size=20).filter(lambda text: split(text).text == text)
"""A thought in a text is taken apart when it is read."""


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    views=st.lists(st.tuples(st.dictionaries(st.text(max_size=3), JSON, max_size=3), ANSWER, JSON), max_size=4),
    tasks=st.dictionaries(st.text(max_size=4), JSON, max_size=3),
    indent=st.sampled_from([None, 0, 2]),
)
def test_anything_json_can_hold_comes_back_from_any_layout(
    tmp_path_factory: pytest.TempPathFactory, views: Any, tasks: Any, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("any") / "outputs.json"
    records = [output(f"k{n}", view=view, text=text, reference=truth) for n, (view, text, truth) in enumerate(views)]
    sha256 = write_outputs(path, RUN, [], tasks, records)
    assert content(path) == (RUN, [], tasks, records, sha256, len(records))
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=indent), encoding="utf-8")
    assert content(path) == (RUN, [], tasks, records, sha256, len(records))
    if records and all(abs(n) < 2**53 for n in _integers([views, tasks])):
        document = json.loads(path.read_bytes())
        path.write_bytes(orjson.dumps(document))
        assert content(path)[4] == sha256


def _integers(value: Any) -> list[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for one in value for number in _integers(one)]
    return [value] if isinstance(value, int) else []


def test_standard_input_is_read_like_a_file(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BytesIO(written.read_bytes())

    monkeypatch.setattr(sys, "stdin", Input)
    opened = open_outputs("-")
    assert list(opened.records()) == RECORDS
    assert opened.sha256 == content(written)[4]
    opened.close()


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def line_of(reference: Any, **more: Any) -> bytes:
    return encode({"key": "k", "task": "t", "question": "t/0", "text": "x", "reference": reference, **more})


HEADER = {"format": "hybrid/outputs", "version": 1, "run": {}, "models": [], "tasks": {}}


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 300, 900])
def test_one_depth_is_the_limit_of_every_layout_and_of_what_is_written(tmp_path: Path, levels: int) -> None:
    lines, document, ours = (tmp_path / name for name in ("a.jsonl", "b.json", "outputs.json"))
    for task, inside in ((levels, 1), (1, levels)):
        header = encode({**HEADER, "tasks": {"t": nested(task)}})
        lines.write_bytes(header + b"\n" + line_of(nested(inside)) + b"\n")
        document.write_bytes(
            header[:-1] + b', "records": [' + line_of(nested(inside)) + b'], "count": 1, "sha256": ""}'
        )
        ours.write_bytes(
            b'{"format":"hybrid/outputs","version":1,\n"run":{},\n"models":[],\n"tasks":{\n"t":%s\n},\n'
            b'"records":[\n%s\n],\n"count":1,"sha256":""}\n' % (encode(nested(task)), line_of(nested(inside)))
        )
        assert [f"more than {MAX_DEPTH} levels" in refusal(path).message for path in (lines, document, ours)] == [
            True
        ] * 3
    with pytest.raises(BadData, match="levels"):
        write_outputs(tmp_path / "new.json", {}, [], {}, [output("k", reference=nested(levels))])
    assert not (tmp_path / "new.json").exists()


def test_as_many_levels_as_are_allowed_come_back_from_every_layout(tmp_path: Path) -> None:
    path, reference = tmp_path / "outputs.json", nested(MAX_DEPTH - 1)  # a record is one level of its own
    write_outputs(path, {}, [], {}, [output("k", reference=reference)])
    for data in (path.read_bytes(), json.dumps(json.loads(path.read_bytes()), indent=0).encode()):
        path.write_bytes(data)
        assert [record.reference for record in open_outputs(path).records()] == [reference]


@pytest.mark.parametrize("tasks", [b"5", b'"text"', b"[1]", b"null"])
def test_tasks_that_are_no_object_are_refused(tmp_path: Path, tasks: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(encode({**HEADER, "tasks": 0}).replace(b'"tasks":0', b'"tasks":' + tasks))
    assert "'tasks' is not what it should be" in refusal(path).message


@pytest.mark.parametrize("place", ["run", "models", "tasks", "name"])
def test_half_a_character_is_refused_wherever_it_stands(tmp_path: Path, place: str) -> None:
    half = b'"\\ud800"'
    parts = {"run": b"{}", "models": b"[]", "tasks": b'"t":1'}
    parts |= {
        "run": {"run": b'{"id":' + half + b"}"},
        "models": {"models": b"[" + half + b"]"},
        "tasks": {"tasks": b'"t":' + half},
        "name": {"tasks": half + b":1"},
    }[place]
    path = tmp_path / "outputs.json"
    path.write_bytes(
        b'{"format":"hybrid/outputs","version":1,\n"run":%s,\n"models":%s,\n"tasks":{\n%s\n},\n'
        b'"records":[\n],\n"count":0,"sha256":""}\n' % (parts["run"], parts["models"], parts["tasks"])
    )
    assert refusal(path).exit_code == 6
    path.write_bytes(path.read_bytes().replace(b"\n", b" "))
    assert refusal(path).exit_code == 6


def test_an_unknown_member_after_the_records_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b'"count":3,', b'"count":3,"evil":[1],'))
    assert "unknown key 'evil'" in refusal(written).message


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": None},
        {"task": {"a": 1}},
        {"question": 5},
        {"finish": None},
        {"sample": True},
        {"sample": "1"},
        {"sample": 1.5},
        {"sample": 2**63},
        {"tokens": [1]},
        {"tokens": [1, None]},
        {"tokens": "12"},
        {"view": []},
        {"text": None, "error": {"kind": None, "message": ""}},
        {"text": None, "error": {"kind": "x", "message": 1}},
    ],
    ids=str,
)
def test_a_record_with_a_value_of_another_type_is_refused_and_never_turned_into_text(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line_of("x", **wrong) + b"\n")
    assert "line 1: not an output record" in refusal(path).message


def test_other_files_of_the_same_middle_take_the_place_of_no_grades(tmp_path: Path) -> None:
    named = (
        "grades.exact.json",
        "report.exact.html",
        "scores.exact.json",
        "base.grades.exact.json",
        "base.grades.f1.json",
    )
    for name in named:
        (tmp_path / name).touch()
    assert grades_beside(tmp_path / "outputs.json") == {"exact": tmp_path / "grades.exact.json"}
    of_base = {grader: tmp_path / f"base.grades.{grader}.json" for grader in ("exact", "f1")}
    assert grades_beside(tmp_path / "base.jsonl") == of_base
