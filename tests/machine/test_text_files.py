"""Text files as editors and shells save them: read alike wherever a user's file is read, or refused with a hint."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from graders.exact import Exact
from hybrid.backends.scripted import ScriptedBackend
from hybrid.errors import BadData
from hybrid.grading.grade_file import grade_file
from hybrid.grading.judge_check import GradedRows
from hybrid.machine.text_files import PIECE, utf8, utf8_stream
from hybrid.outputs import open_outputs, write_outputs
from hybrid.records import Message, Output, Request, Sampling
from hybrid.report.sources import find_source
from hybrid.tasks.arc.data import kaggle
from hybrid.tasks.squad.data import read

TEXT = '{"ä": "\u2028 and \U0001f600"}\n'
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16 little": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16 big": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}
OUTPUT = Output("k", "t", "t/0", {}, 0, "ä\u2028\U0001f600", None, "ä")
SQUAD = [{"title": "Ä", "context": "C", "questions": [{"question": "Q?", "answer": "ä"}]}]
ARC = {"a": {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]], "output": [[4]]}]}}
ROW = {"title": "Ä", "question": "Q?", "gold": "ä", "answer": "ä", "correct": True}
SCRIPT = {"answers": {"ä": "ö"}}


def of_outputs(path: Path) -> Any:
    opened = open_outputs(path)
    return [one.to_json() for one in opened.records()], opened.sha256


def of_script(path: Path) -> Any:
    (done,) = ScriptedBackend(str(path), {}).generate([Request(Sampling(9), (Message("user", "ä"),))])
    return done.text


READERS: dict[str, tuple[str, Any, Callable[[Path], Any]]] = {
    "outputs.jsonl": ("lines", [OUTPUT.to_json()], of_outputs),
    "squad.json": ("json", SQUAD, lambda path: read(path).passages),
    "challenges.json": ("json", ARC, lambda path: (kaggle(path).tasks, kaggle(path).truths)),
    "rows.jsonl": ("lines", [ROW, ROW], lambda path: list(GradedRows(path))),
    "script.json": ("json", SCRIPT, of_script),
}


def written(layout: str, value: Any) -> str:
    lines = [json.dumps(one, ensure_ascii=False) for one in (value if layout == "lines" else [value])]
    return "\r\n".join(lines) + "\r\n"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", READERS)
def test_every_file_of_a_user_is_read_alike_in_every_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    layout, value, reader = READERS[name]
    path = tmp_path / name
    path.write_bytes(written(layout, value).encode())
    plain = reader(path)
    path.write_bytes(ENCODINGS[encoding](written(layout, value)))
    assert reader(path) == plain


@pytest.mark.parametrize("name", READERS)
def test_utf_16_without_a_mark_is_refused_with_a_hint(tmp_path: Path, name: str) -> None:
    layout, value, reader = READERS[name]
    path = tmp_path / name
    path.write_bytes(written(layout, value).encode("utf-16-le"))
    with pytest.raises(BadData, match="UTF-16 without a byte order mark") as caught:
        reader(path)
    assert "UTF-8" in caught.value.hint
    assert str(path) in caught.value.message


@pytest.mark.parametrize("name", READERS)
def test_a_name_that_stands_twice_in_an_object_is_refused(tmp_path: Path, name: str) -> None:
    """Trap: parsers take the last of two and say nothing."""
    layout, value, reader = READERS[name]
    path = tmp_path / name
    path.write_text(written(layout, value).replace('{"', '{"twice": {}, "twice": {}, "', 1), encoding="utf-8")
    with pytest.raises(BadData, match="stands twice in one") as caught:
        reader(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_outputs_and_grades_keep_their_digests_in_every_encoding(tmp_path: Path, encoding: str, packed: bool) -> None:
    path, odd = tmp_path / "outputs.json", tmp_path / ("odd.json.zst" if packed else "odd.json")
    write_outputs(path, {"id": "r"}, [], {"t": None}, [OUTPUT])
    data = ENCODINGS[encoding](path.read_text(encoding="utf-8"))
    odd.write_bytes(zstandard.ZstdCompressor().compress(data) if packed else data)
    assert of_outputs(odd) == of_outputs(path)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_grades_are_found_and_read_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "odd.jsonl").write_bytes(ENCODINGS[encoding](written("lines", [OUTPUT.to_json()])))
    grades = tmp_path / "odd.grades.exact.json"
    grade_file(tmp_path / "odd.jsonl", Exact(), "exact", grades)
    plain = find_source(tmp_path / "odd.jsonl").grades
    grades.write_bytes(ENCODINGS[encoding](grades.read_text(encoding="utf-8")))
    for name in ("odd.jsonl", "odd.grades.exact.json"):
        found = find_source(tmp_path / name).grades
        assert list(found.checked()) == list(plain.grades())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_long_texts_are_read_piece_by_piece_and_characters_at_the_seams_survive(encoding: str) -> None:
    text = "a" * (PIECE - 3) + TEXT * 20_000
    data = ENCODINGS[encoding](text)
    assert utf8(data, "x") == text.encode()
    with utf8_stream(io.BytesIO(data), "x") as stream:
        assert list(stream) == list(io.BytesIO(text.encode()))


@pytest.mark.parametrize("name", READERS)
def test_an_old_encoding_is_named(tmp_path: Path, name: str) -> None:
    layout, value, reader = READERS[name]
    path = tmp_path / name
    path.write_bytes(written(layout, value).encode().replace("ä".encode(), b"\xe4").replace(b"a", b"\xe4"))
    with pytest.raises(BadData, match="not UTF-8: byte 0xe4 at") as caught:
        reader(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("data", [b"", b"{}", TEXT.encode()])
def test_other_texts_are_left_as_they_are(data: bytes) -> None:
    assert utf8(data, "x") == data == utf8_stream(io.BytesIO(data), "x").read()


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF16_LE + b"{",
        codecs.BOM_UTF16_LE + b"\x00\xd8{\x00",
        codecs.BOM_UTF8 + b"\xff",
        "{}".encode("utf-32"),
        codecs.BOM_UTF32_BE,
        b"{\0}\0",
    ],
)
def test_what_is_broken_or_another_encoding_is_refused_with_the_same_hint(data: bytes) -> None:
    for reading in (lambda: utf8(data, "file"), lambda: utf8_stream(io.BytesIO(data), "file").read()):
        with pytest.raises(BadData, match=r"^file: ") as caught:
            reading()
        assert caught.value.hint == "save it as UTF-8"


def test_zeros_that_a_crash_left_are_told_as_such() -> None:
    for reading in (lambda: utf8(bytes(9), "file"), lambda: utf8_stream(io.BytesIO(bytes(9)), "file").read()):
        with pytest.raises(BadData, match=r"^file: begins with zeros"):
            reading()
