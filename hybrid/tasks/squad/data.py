"""Files of passages with questions, in SQuAD's own layout (1.1 or 2.0) or as SEAL arranged it.

Files are untrusted input: types and sizes are checked. Passages, questions and answers are separated at once, so that a
task holds no answer. docs/qa-eval.md shows both layouts.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.canonical import decode_once
from hybrid.errors import BadData, keys_of
from hybrid.machine.text_files import read_text_file, utf8

SAMPLE = Path(__file__).with_name("sample.json")
"""Twelve short passages with three questions each, written for this project."""

MAX_FILE = 64 * 1024 * 1024  # bytes; the largest part of SQuAD has 42 million
MAX_CONTEXT = 200_000  # characters; the longest passage of SQuAD's development set has 4,063
MAX_TEXT = 10_000  # characters of a title, question or answer
MAX_ANSWERS = 100

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_HINT = "docs/qa-eval.md shows the two layouts that are read"


@dataclass(frozen=True, slots=True)
class SquadQuestion:
    """One question about a passage: its name within it, its text, and the answers that count as right."""

    name: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage and its questions. `id` depends on title and text, never on the position in the file."""

    id: str
    title: str
    context: str
    questions: tuple[SquadQuestion, ...]


@dataclass(frozen=True, slots=True)
class PassageFile:
    """The passages of a file, in its order; `about` has its provenance, the counts, and what was left out."""

    passages: tuple[Passage, ...]
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _RawQuestion:
    """A question as in the file; `impossible` when SQuAD 2.0 marks it as not answerable from the passage."""

    id: str
    text: str
    answers: tuple[str, ...]
    impossible: bool = False


@dataclass(frozen=True, slots=True)
class _RawPassage:
    """A passage as in the file."""

    title: str
    context: str
    questions: list[_RawQuestion]


def read(path: Path) -> PassageFile:
    """The passages of a file. Raises CannotRun when it cannot be read, BadData when it is not such a file."""
    data = read_text_file(path, MAX_FILE, "name a JSON file of passages with questions: --set data=FILE")
    value = decode_once(utf8(data, str(path)), what=str(path), limit=MAX_FILE)
    together: dict[tuple[str, str], _RawPassage] = {}
    for raw in _raw_passages(value, str(path)):  # equal passages are merged
        merged = together.setdefault((raw.title, raw.context), _RawPassage(raw.title, raw.context, []))
        merged.questions.extend(raw.questions)
    counts: Counter[str] = Counter()
    found = [_passage(raw, counts) for raw in together.values()]
    passages = tuple(one for one in found if one.questions)
    if len(passages) < len(found):
        counts["passages without a question, left out"] = len(found) - len(passages)
    if not passages:
        raise BadData(f"{path}: no question with an answer", hint=_HINT)
    files = {path.name: hashlib.sha256(data).hexdigest()}
    size = {"passages": len(passages), "questions": sum(len(passage.questions) for passage in passages)}
    return PassageFile(passages, {"dataset": path.stem, "files": files, "whole file": {**size, **dict(counts)}})


def read_completions(path: Path) -> dict[str, tuple[str, ...]]:
    """Passage id -> the texts that were written about it, of a file in SEAL's layout with `completions`.

    Raises CannotRun when it cannot be read, BadData when it is not such a file.
    """
    data = read_text_file(path, MAX_FILE, "name a JSON file of passages with completions")
    value = decode_once(utf8(data, str(path)), what=str(path), limit=MAX_FILE)
    if not isinstance(value, list):
        raise BadData(f"{path}: not a list of passages with completions", hint=_HINT)
    found: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(value):
        place = f"{path}: [{number}]"
        texts = _list(entry, "completions", place)
        id = passage_id(_title(entry, place), _text(entry, "context", place, MAX_CONTEXT))
        found[id] = tuple(
            _text({"completion": text}, "completion", f"{place}.completions[{i}]", MAX_CONTEXT, empty=True)
            for i, text in enumerate(texts)
        )
    return found


def _raw_passages(value: Any, what: str) -> Iterator[_RawPassage]:
    """The passages of either layout, with every type and size checked."""
    if isinstance(value, dict):
        for number, article in enumerate(_list(value, "data", what)):
            place = f"{what}: data[{number}]"
            title = _title(article, place).replace("_", " ")  # titles have underscores there
            for index, paragraph in enumerate(_list(article, "paragraphs", place)):
                yield _official_passage(paragraph, title, f"{place}.paragraphs[{index}]")
        return
    if not isinstance(value, list):
        raise BadData(f"{what}: neither an object nor a list", hint=_HINT)
    for number, entry in enumerate(value):
        place = f"{what}: [{number}]"
        rows = enumerate(_list(entry, "questions", place))
        questions = [_seal_question(row, f"{place}.questions[{i}]") for i, row in rows]
        yield _RawPassage(_title(entry, place), _text(entry, "context", place, MAX_CONTEXT), questions)


def _official_passage(paragraph: Any, title: str, place: str) -> _RawPassage:
    rows = [_official_question(row, f"{place}.qas[{i}]") for i, row in enumerate(_list(paragraph, "qas", place))]
    return _RawPassage(title, _text(paragraph, "context", place, MAX_CONTEXT), rows)


def _official_question(row: Any, place: str) -> _RawQuestion:
    id, text = _id(row, place), _text(row, "question", place)
    if row.get("is_impossible") is True:
        return _RawQuestion(id, text, (), impossible=True)
    listed = _list(row, "answers", place)
    if len(listed) > MAX_ANSWERS:
        raise BadData(f"{place}: {len(listed):,} answers, more than the {MAX_ANSWERS} allowed", hint=_HINT)
    return _RawQuestion(
        id, text, tuple(_text(one, "text", f"{place}.answers[{i}]", empty=True) for i, one in enumerate(listed))
    )


def _seal_question(row: Any, place: str) -> _RawQuestion:
    return _RawQuestion("", _text(row, "question", place), (_text(row, "answer", place, empty=True),))


def _passage(raw: _RawPassage, counts: Counter[str]) -> Passage:
    """The passage with its answerable questions under unique names; counts what is left out or repeated."""
    asked: dict[str, SquadQuestion] = {}
    times: Counter[str] = Counter()
    for row in raw.questions:
        answers = tuple(dict.fromkeys(answer.strip() for answer in row.answers if answer.strip()))
        if not answers:
            counts["impossible, left out" if row.impossible else "without an answer, left out"] += 1
            continue
        wanted = row.id or _short(row.text)
        name = _unused_name(wanted, asked, times)
        if name != wanted:
            counts["asked again"] += 1
        asked[name] = SquadQuestion(name, row.text, answers)
    return Passage(passage_id(raw.title, raw.context), raw.title, raw.context, tuple(asked.values()))


def _unused_name(name: str, taken: Mapping[str, SquadQuestion], times: Counter[str]) -> str:
    """`name`, with a number appended when an earlier question has that name."""
    free = name
    while free in taken:
        times[name] += 1
        free = f"{name}-{times[name] + 1}"
    return free


def passage_id(title: str, context: str) -> str:
    """The name of a passage: some of its title, and a hash of title and text."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    return f"{words or 'passage'}-" + _short(f"{title}\n{context}")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _id(row: Any, place: str) -> str:
    """The file's own id where it can be part of a name, else a hash of it; "" where there is none."""
    value = row.get("id") if isinstance(row, dict) else None
    id = str(value) if isinstance(value, int) else value
    if isinstance(row, dict) and id in (None, ""):
        return ""
    if not isinstance(id, str):
        raise BadData(f"{place}: 'id' is not a text", hint=_HINT)
    return id if _NAME.fullmatch(id) else _short(id)


def _title(value: Any, place: str) -> str:
    """The title of an article; "" when it has none, as in files of some annotation tools."""
    return "" if isinstance(value, dict) and value.get("title") in (None, "") else _text(value, "title", place)


def _keys_instead(value: Any, name: str) -> str:
    """For a message about a missing key: the keys that are there instead."""
    return "" if isinstance(value, dict) and name in value else f": {keys_of(value)}"


def _list(value: Any, name: str, place: str) -> Sequence[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise BadData(f"{place}: '{name}' is not a list{_keys_instead(value, name)}", hint=_HINT)
    return found


def _text(value: Any, name: str, place: str, most: int = MAX_TEXT, *, empty: bool = False) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, str) or not (found.strip() or empty):
        raise BadData(f"{place}: '{name}' is not a text{_keys_instead(value, name)}", hint=_HINT)
    if len(found) > most:
        raise BadData(f"{place}: '{name}' has {len(found):,} characters, more than the {most:,} allowed", hint=_HINT)
    return found
