"""Single calls that fail and single files that are damaged, each once, at each command: the matrix, and its library.

`pytest -s tests/protocol/test_failing_calls.py` prints the matrix.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.failing_calls import FailingCalls, failing_library
from tests.support.fault_matrix import CALLS, COMMANDS, DAMAGES, FILES

__all__ = ["failing_library"]
ROOT = Path(__file__).parents[2]

ATTEMPTS = """
import os, sys
for act in (
    lambda: open("there/file").read(),
    lambda: open("there/file").read(),
    lambda: os.listdir("there"),
    lambda: os.mkdir("there/new"),
    lambda: os.lstat("there/file"),
    lambda: open("there/full", "x").close(),
    lambda: os.write(os.open("there/other", os.O_CREAT | os.O_WRONLY), b"x"),
    lambda: os.unlink("there/file"),
):
    try:
        act()
    except OSError as error:
        print(error.errno)
    else:
        print(0)
"""


def attempted(failing: FailingCalls, place: Path) -> list[int]:
    """The errno of each attempt, 0 where nothing failed."""
    environment = {**os.environ, **failing.environment}
    done = subprocess.run([sys.executable, "-c", ATTEMPTS], env=environment, cwd=place, capture_output=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_calls_fail_as_the_rules_say_and_what_failed_is_told(failing_library: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("x")
    with FailingCalls(failing_library, tmp_path / "rules") as failing:
        failing.fail("open", "*/there/file", "ESTALE", skip=1)
        failing.fail("list,mkdir,stat", f"{tmp_path}/there*", "EIO", times=2)
        failing.fail("create,write", "*/there/*", "ENOSPC", every=2)
        failing.fail("unlink", "*/elsewhere/*", "EIO", times=-1)
        expected = [0, errno.ESTALE, errno.EIO, errno.EIO, 0, errno.ENOSPC, 0, 0]
        assert attempted(failing, tmp_path) == expected
        assert [failing.struck(rule) for rule in range(4)] == [1, 2, 1, 0]
        assert next(failing.told) == f"open {tmp_path}/there/file"


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A place for many small files: on a disk most of the time would go into making them."""
    memory = Path("/dev/shm")  # noqa: S108
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as made:
        yield Path(made)


@pytest.mark.slow
def test_no_fault_of_a_single_file_ends_worse_than_in_a_command_to_be_repeated(
    failing_library: Path, in_memory: Path
) -> None:
    """Never exit code 1, 2 or 7; never said to be done what is not; the next command heals it; no receipt is false."""
    environment = {**os.environ, "LD_PRELOAD": str(failing_library)}
    command = [sys.executable, "-m", "tests.support.fault_matrix", str(in_memory)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((in_memory / "cells.json").read_text())
    cells = sorted(found["cells"], key=lambda cell: (*placed(cell), faults().index(cell["fault"])))
    print("\n" + "\n".join(table(cells, found["clean"])))
    wrong = ["{fault} of {file} at {command}: {wrong}".format(**cell) for cell in cells if cell["wrong"]]
    assert not wrong, "\n".join(wrong)
    assert Counter(cell["command"] for cell in cells).keys() == set(COMMANDS)
    assert {cell["file"] for cell in cells} == set(FILES), "a file of the protocol was not looked at"


def faults() -> list[str]:
    return [*CALLS, *DAMAGES]


def placed(cell: dict[str, Any]) -> tuple[int, int]:
    return list(FILES).index(cell["file"]), COMMANDS.index(cell["command"])


def table(cells: list[dict[str, Any]], clean: dict[str, int]) -> list[str]:
    """A line for each file and command: the exit code without a fault, and for each fault that of the command and of
    the next one; `-` where the command does not touch the file so."""
    widths = [max(len(fault), 5) for fault in faults()]
    heads = " ".join(f"{fault:{width}}" for fault, width in zip(faults(), widths, strict=True))
    lines = [f"{'file':17} {'command':15} whole {heads}".rstrip()]
    for (file, command), some in groupby(cells, key=lambda cell: (cell["file"], cell["command"])):
        codes = {cell["fault"]: f"{cell['code']} > {cell['after']}" + "!" * bool(cell["wrong"]) for cell in some}
        told = " ".join(f"{codes.get(fault, '-'):{width}}" for fault, width in zip(faults(), widths, strict=True))
        lines.append(f"{file:17} {command:15} {clean[command]:<5} {told}".rstrip())
    return lines
