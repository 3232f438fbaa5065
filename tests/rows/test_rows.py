"""Tables that people bring: every format gives the rows that were written, and says which row is bad."""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import io
import json
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.canonical import MAX_DEPTH, MAX_RECORD
from hybrid.errors import BadData, CannotRun, UsageError
from hybrid.rows import ENDINGS, read_rows

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.lists(st.dictionaries(TEXTS, CELLS, max_size=4), max_size=5)


def table(delimiter: str, rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


def read(path: Path, data: bytes, bad: Callable[[int, str], None] | None = None) -> list[Any]:
    path.write_bytes(data)
    return [dict(row.values) for row in read_rows(path, bad=bad)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@settings(deadline=None, max_examples=40)
@given(OBJECTS)
def test_json_lines_and_arrays_give_the_objects_that_were_written(place: Path, objects: list[Any]) -> None:
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects).encode()
    assert read(place / "a.jsonl", lines) == objects
    assert read(place / "lines.json", lines) == objects
    assert read(place / "a.jsonl.zst", zstandard.compress(lines)) == objects
    assert read(place / "a.json", json.dumps(objects, indent=1).encode()) == objects


@settings(deadline=None, max_examples=40)
@given(st.lists(TEXTS, min_size=2, max_size=4, unique=True), st.data())
def test_csv_and_tsv_give_the_cells_that_were_written(place: Path, names: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(TEXTS, min_size=len(names), max_size=len(names)), max_size=4))
    names[0] = f"a,{names[0]}"  # with a comma: semicolons alone would be taken for what is between the cells
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    assert read(place / "a.csv", table(",", [names, *rows])) == expected
    assert read(place / "a.tsv", table("\t", [names, *rows])) == expected


BAD_LINES = st.sampled_from([b"{", b"[1]", b"nonsense", b'{"a": NaN}', b'{"a": "\xff"}', b"7", b"\0\0\0", b'"a"'])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.dictionaries(TEXTS, CELLS, max_size=2) | BAD_LINES, max_size=8))
def test_good_lines_are_kept_and_bad_ones_told_by_their_number(place: Path, lines: list[Any]) -> None:
    told: list[int] = []
    lines = [{}, *lines]  # a file that begins with zeros is refused as a whole
    data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    found = read(place / "mixed.jsonl", data, lambda number, _: told.append(number))
    assert found == [line for line in lines if not isinstance(line, bytes)]
    assert told == [number for number, line in enumerate(lines, start=1) if isinstance(line, bytes)]


LARGE = b'{"a": "' + b"x" * MAX_RECORD + b'"}'
DEEP = b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"

FAULTS: dict[str, tuple[str, bytes, int, str]] = {
    "a line that is cut": ("a.jsonl", b'{"a": 1}\n\n{"a"', 3, "not valid JSON"),
    "a line that is no object": ("a.jsonl", b'{"a": 1}\n[1]\n{"a": 2}', 2, "not a JSON object: it is a list"),
    "a line that is too large": ("a.jsonl", b'{"a": 1}\n' + LARGE + b'\n{"a": 2}', 2, "more than the 16,777,216 bytes"),
    "a line of another encoding": ("a.jsonl", b'{"a": "\xe4"}\n', 1, "not UTF-8: byte 0xe4"),
    "a NUL in a line": ("a.jsonl", b'{"a": "x\0y"}\n', 1, "not valid JSON"),
    "a line that is too deep": ("a.jsonl", DEEP, 1, "nested more than 200 levels"),
    "an element that is too deep": ("a.json", b"[" + DEEP + b"]", 1, "nested more than 200 levels"),
    "an element that is no object": ("a.json", b'[{"a": 1}, 7]', 2, "not a JSON object: it is a number"),
    "a row with too few cells": ("a.csv", b"a,b\n1,2\n3\n", 3, "1 cells, where the first row has 2"),
    "a row with too many cells": ("a.tsv", b"a\tb\n1\t2\t3\n", 2, "3 cells, where the first row has 2"),
    "a NUL in a cell": ("a.csv", b"a,b\n1,2\n3,\0\n", 3, "holds a NUL character"),
    "a cell of another encoding": ("a.csv", b'a,b\n"x\ny",\xe4\n', 2, "not UTF-8: save the file as UTF-8"),
    "a cell that is too large": ("a.csv", b"a\n" + b"x" * (MAX_RECORD + 1) + b"\ny\n", 2, "more than the 16,777,216"),
    "a stray quote": ("a.csv", b'a,b\n"1"x,2\n', 2, "expected after"),
}
ENDS: dict[str, tuple[str, bytes, str]] = {
    "an array that is cut": ("a.json", b'[{"a": 1}, {"a"', "row 2: not valid JSON"),
    "an array with NaN": ("a.json", b'[{"a": NaN}]', "row 1: not valid JSON"),
    "an array that goes on": ("a.json", b'[{"a": 1}] x', "row 2: not valid JSON"),
    "an element that is too large": ("a.json", b"[" + LARGE[:-2] + b"x" * 10**6 + LARGE, "16,777,216 bytes"),
    "another JSON value": ("a.json", b"7", "row 1: neither an array of JSON objects"),
    "a quote that is not closed": ("a.csv", b'a,b\n1,2\n"3,4\n5,6\n', "line 3: unexpected end of data"),
    "a quote that is not closed for long": ("a.csv", b'a\n"' + (b"x" * 10**6 + b"\n") * 20, "a quote is opened here"),
    "a column that is there twice": ("a.csv", b"a,b,a\n1,2,3\n", "line 1: the column 'a' is there twice"),
    "zeros": ("a.jsonl", bytes(100), "begins with zeros"),
    "a damaged packed file": ("a.jsonl.zst", zstandard.compress(b'{"a": 1}\n' * 99)[:-4], "the zstd data ends early"),
}


@pytest.mark.parametrize(("name", "data", "number", "reason"), FAULTS.values(), ids=list(FAULTS))
def test_a_bad_row_is_refused_by_its_number(tmp_path: Path, name: str, data: bytes, number: int, reason: str) -> None:
    unit = "row" if name.endswith(".json") else "line"
    with pytest.raises(BadData, match=f"{unit} {number}: .*{reason}"):
        read(tmp_path / name, data)
    told: list[tuple[int, str]] = []
    read(tmp_path / name, data, lambda *one: told.append(one))
    assert [(one, reason in why) for one, why in told] == [(number, True)]


@pytest.mark.parametrize(("name", "data", "reason"), ENDS.values(), ids=list(ENDS))
def test_what_makes_the_rest_unreadable_ends_the_reading(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    with pytest.raises(BadData, match=reason):
        read(tmp_path / name, data, lambda *_: None)


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", '{"a": "ä"}\n'), ("a.json", '[{"a": "ä"}]'), ("a.csv", "a\r\nä\r\n")]
)
def test_files_as_editors_save_them_are_read(tmp_path: Path, name: str, text: str) -> None:
    for data in (codecs.BOM_UTF8 + text.encode(), codecs.BOM_UTF16_LE + text.encode("utf-16-le")):
        assert read(tmp_path / name, data) == [{"a": "ä"}]


def test_a_table_of_a_spreadsheet_with_semicolons_is_read(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"a;b\n1,5;2\n") == [{"a": "1,5", "b": "2"}]


def test_the_number_of_a_row_is_the_line_where_it_begins(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a\n"x\ny"\n\nz\n')
    assert [(row.place, row.values["a"]) for row in read_rows(tmp_path / "a.csv")] == [
        ("line 2", "x\ny"),
        ("line 5", "z"),
    ]


def test_what_is_no_table_is_refused_with_the_endings_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"x")
    for path in (tmp_path / "a.docx", tmp_path / "missing.csv", tmp_path):
        with pytest.raises(UsageError) as raised:
            read_rows(path)
        assert all(ending in raised.value.hint for ending in ENDINGS)


@pytest.mark.parametrize(
    ("name", "head", "row"),
    [("a.jsonl", b"", b'{"a": "%s"}\n'), ("a.csv", b"a,b\n", b"%s,y\n"), ("a.json", b"[", b'{"a": "%s"},')],
)
def test_a_file_is_read_in_the_memory_of_a_row(tmp_path: Path, name: str, head: bytes, row: bytes) -> None:
    with (tmp_path / name).open("wb") as stream:
        stream.write(head)
        for _ in range(300):
            stream.write(row % (b"x" * 100_000))
        stream.write(b"{}]" if name == "a.json" else b"")
    tracemalloc.start()
    assert sum(1 for _ in read_rows(tmp_path / name)) >= 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    if find_spec("pyarrow") is None:
        pytest.skip("needs pyarrow: pip install '.[parquet]'")
    arrow, writer = import_module("pyarrow"), import_module("pyarrow.parquet")
    writer.write_table(arrow.table(columns), path)
    return path


def test_parquet_gives_the_cells_that_were_written(tmp_path: Path) -> None:
    columns = {
        "text": ["ä", None],
        "number": [1.5, float("nan")],
        "list": [["a"], []],
        "object": [{"a": 1}, None],
        "day": [dt.date(2026, 1, 2), None],
        "price": [Decimal("1.20"), None],
    }
    found = [dict(row.values) for row in read_rows(parquet(tmp_path / "a.parquet", columns))]
    assert found[0] == {
        "text": "ä", "number": 1.5, "list": ["a"], "object": {"a": 1}, "day": "2026-01-02", "price": "1.20"
    }  # fmt: skip
    assert found[1] == dict.fromkeys(columns) | {"list": []}


def test_a_bad_or_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"a": ["x", "y"], "b": [b"x", None]})
    with pytest.raises(BadData, match="row 1: holds bytes"):
        list(read_rows(path))
    told: list[int] = []
    assert [row.number for row in read_rows(path, bad=lambda number, _: told.append(number))] == [2]
    assert told == [1]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadData, match="cannot be read"):
        list(read_rows(path))


def test_without_the_library_a_parquet_file_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(CannotRun) as raised:
        read_rows(tmp_path / "a.parquet")
    assert "[parquet]" in raised.value.hint
