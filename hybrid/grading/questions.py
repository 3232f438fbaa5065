"""Outputs grouped by question in flat memory: streamed when they are in order, otherwise sorted on disk first."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from hybrid.canonical import encode
from hybrid.errors import BadData
from hybrid.machine.files import explain_errors
from hybrid.records import Output, Question

CHUNK = 32 * 1024 * 1024
"""Bytes of records that are sorted in memory at a time."""

FAN = 64
"""Sorted files that are merged at a time."""

Keyed = tuple[str, str, int, bool, bytes]
"""Task, question, place in the file, whether the fast parser reads it right, the output as JSON: sorts by question,
keeping the order within one."""


class OutOfOrder(Exception):
    """A question comes after one that should follow it; sort the outputs with `in_order`."""


def grouped(outputs: Iterable[Output], tasks: Mapping[str, Any], name: str) -> Iterator[Question]:
    """The questions of outputs that come in order of task and question. Raises OutOfOrder, BadData for a key twice."""
    task = question = ""
    group: list[Output] = []
    source: Any = None
    for output in outputs:
        if output.question == question and output.task == task:
            group.append(output)
            continue
        if group:
            yield _question(group, source, name)
        if (output.task, output.question) < (task, question):
            raise OutOfOrder
        if output.task != task or not group:
            source = tasks.get(output.task)
        task, question, group = output.task, output.question, [output]
    if group:
        yield _question(group, source, name)


def _question(group: list[Output], source: Any, name: str) -> Question:
    first = group[0]
    if len(group) > 1 and len({output.key for output in group}) < len(group):
        raise BadData(
            f"{name}: question {first.question!r:.80} holds an output twice (the same key)",
            hint="make the file again: hybrid grade RUN puts it together anew",
        )
    return Question(first.task, first.question, first.reference, tuple(group), source)


def in_order(outputs: Iterable[Output]) -> Generator[Output, None, None]:
    """The same outputs in order of task and question, through sorted files in a temporary folder.

    Raises Temporary when the temporary folder's disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="hybrid-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with explain_errors(folder, doing="sorting outputs there"):
            files = list(_sorted_files(outputs, folder))
            level = 0
            while len(files) > FAN:
                level += 1
                files = [
                    _write(_merged(files[start : start + FAN]), folder / f"{level}-{start}")
                    for start in range(0, len(files), FAN)
                ]
        for _, _, _, fast, line in _merged(files):
            value = orjson.loads(line) if fast else json.loads(line)
            yield Output.plain(value) or Output.from_json(value, what="a sorted output")


def _sorted_files(outputs: Iterable[Output], folder: Path) -> Iterator[Path]:
    chunk: list[Keyed] = []
    size = 0
    for place, output in enumerate(outputs):
        fast, line = _line(output)
        chunk.append((output.task, output.question, place, fast, line))
        size += len(line) + 200  # about what the objects around it take
        if size > CHUNK:
            yield _write(sorted(chunk), folder / f"0-{place}")
            chunk, size = [], 0
    yield _write(sorted(chunk), folder / "0-last")


def _line(output: Output) -> tuple[bool, bytes]:
    """The output as JSON, by the fast encoder unless that refuses: whole numbers beyond 64 bits, which it would round
    when it reads them."""
    value = output.to_json()
    try:  # a copy: what orjson returns keeps a buffer of kilobytes alive, and a chunk holds many lines
        return True, bytes(memoryview(orjson.dumps(value)))
    except orjson.JSONEncodeError:
        return False, encode(value)


def _write(rows: Iterable[Keyed], path: Path) -> Path:
    with path.open("wb") as stream:
        for task, question, place, fast, line in rows:
            stream.write(orjson.dumps((task, question, place, fast)) + b"\n" + line + b"\n")
    return path


def _read(path: Path) -> Iterator[Keyed]:
    with path.open("rb") as stream:
        for head in stream:
            task, question, place, fast = orjson.loads(head)
            yield task, question, place, fast, next(stream)[:-1]


def _merged(files: list[Path]) -> Iterator[Keyed]:
    return heapq.merge(*map(_read, files))
