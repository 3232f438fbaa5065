"""Records that are read many at a time are those that are read one by one, and so are all refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.canonical import MAX_DEPTH, encode
from hybrid.errors import BadData
from hybrid.outputs import open_outputs, write_outputs
from hybrid.outputs.source import BUFFER
from hybrid.records import Failure, Output

ROWS = 800


def output(row: int) -> Output:
    failed = row % 97 == 0
    return Output(
        key=f"k{row}",
        task=f"t{row // 10:04d}",
        question=f"t{row // 10:04d}/{row % 10}",
        view={},
        sample=0,
        text=None if failed else f"{row} " * (row % 90),
        error=Failure("too-long", "no room") if failed else None,
        reference=[[row, 1.5], "Ä"] if row % 7 == 0 else "yes",
        finish="" if failed else "stop",
        tokens=(12, row),
    )


RECORDS = [output(row) for row in range(ROWS)]


@pytest.fixture(params=["outputs.json", "records.jsonl"])
def written(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The same records as a document and as bare lines; both are longer than what is read at once."""
    path: Path = tmp_path / request.param
    if path.suffix == ".json":
        write_outputs(path, {"id": "run"}, [], {}, RECORDS)
    else:
        path.write_bytes(b"".join(encode(record.to_json()) + b"\n" for record in RECORDS))
    assert path.stat().st_size > 3 * BUFFER
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BadData) as caught:
        list(open_outputs(path).records())
    return caught.value.message


def edit(path: Path, row: int, change: Callable[[bytes], bytes]) -> int:
    """Change one record's line; the number of that line."""
    lines = path.read_bytes().split(b"\n")
    number = next(number for number, line in enumerate(lines) if b'"key":"k%d"' % row in line)
    lines[number] = change(lines[number])
    path.write_bytes(b"\n".join(lines))
    return number + 1


def test_all_records_come_back_in_order_with_one_digest(written: Path) -> None:
    opened = open_outputs(written)
    assert list(opened.records()) == RECORDS
    assert opened.count == ROWS
    if written.suffix == ".json":
        assert opened.sha256 == json.loads(written.read_bytes())["sha256"]


@pytest.mark.parametrize("row", [0, 400, ROWS - 1])
@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b'"sample":0', b'"sample":true', "sample is not a whole number"),
        (b'"sample":0', b'"sample":9223372036854775807', "sample is not a whole number"),
        (b'"view":{}', b'"view":[]', "a view that is an object"),
        (b'"tokens":[12,', b'"tokens":[1,12,', "tokens are two whole numbers"),
        (b'"finish":', b'"finished":', "sha256|not an output"),
        (b'"task":"t', b'"task":["a"],"task":"t', "twice"),
    ],
)
def test_one_bad_record_among_many_is_refused_by_its_place(
    written: Path, row: int, before: bytes, after: bytes, words: str
) -> None:
    number = edit(written, row, lambda line: line.replace(before, after))
    if written.suffix == ".jsonl" and words.startswith("sha256"):
        assert len(list(open_outputs(written).records())) == ROWS  # no digest, and `finish` may be left out
        return
    message = refusal(written)
    assert re.search(words, message)
    assert f"line {number}" in message or "sha256" in words


@pytest.mark.parametrize("levels", [MAX_DEPTH - 1, MAX_DEPTH])
def test_depth_is_counted_in_each_record_alone(written: Path, levels: int) -> None:
    nested = b"[" * levels + b"]" * levels
    number = edit(written, 701, lambda line: line.replace(b'"reference":"yes"', b'"reference":' + nested))
    message = refusal(written) if written.suffix == ".json" or levels == MAX_DEPTH else ""
    assert (f"line {number}" in message and "levels" in message) == (levels == MAX_DEPTH)


def test_numbers_in_another_way_are_the_same_content_as_when_read_alone(written: Path) -> None:
    edit(written, 700, lambda line: line.replace(b"1.5", b"15e-1"))
    assert list(open_outputs(written).records()) == RECORDS


def test_a_number_that_the_fast_parser_rounds_comes_back_whole(written: Path) -> None:
    edit(written, 700, lambda line: line.replace(b"1.5", b"%d" % 2**70))
    path = written.with_suffix(".jsonl")
    lines = [line.removesuffix(b",") for line in written.read_bytes().split(b"\n") if line.startswith(b'{"error"')]
    path.write_bytes(b"\n".join(lines))
    found: Any = list(open_outputs(path).records())[700].reference
    assert found[0][1] == 2**70


def test_a_line_end_in_a_record_that_another_one_lacks_is_only_layout(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    write_outputs(path, {"id": "run"}, [], {}, RECORDS)
    edit(path, 700, lambda line: line.replace(b'"key":', b'\n"key":'))
    data = path.read_bytes()
    path.write_bytes(
        data.replace(b'\n{"error":null,"finish":"stop","key":"k703"', b'{"error":null,"finish":"stop","key":"k703"')
    )
    assert path.read_bytes().count(b"\n") == data.count(b"\n") - 1
    assert list(open_outputs(path).records()) == RECORDS


def test_lines_without_a_record_are_passed_over_in_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\n\n".join(encode(record.to_json()) for record in RECORDS))
    assert list(open_outputs(path).records()) == RECORDS


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3), st.just([]), st.just({})
)
ONE = RECORDS[1].to_json()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from([*ONE, "trained", "other"]), VALUES, max_size=2),
    tokens=st.lists(VALUES, max_size=3) | st.just([1, 2]),
    gone=st.sampled_from([None, *ONE]),
)
def test_the_quick_way_gives_what_the_careful_one_gives_or_nothing(
    changes: dict[str, Any], tokens: list[Any], gone: str | None
) -> None:
    value = {**ONE, "tokens": tokens, **changes}
    if gone:
        value.pop(gone, None)
    quick = Output.plain(value)
    try:
        careful = Output.from_json(value, what="here")
    except BadData:
        careful = None
    assert quick in (None, careful)
    assert Output.plain(ONE) == RECORDS[1]
    assert all(Output.plain(other) is None for other in (None, 5, "text", [1], [], {}))
