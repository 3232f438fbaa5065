"""`-o -`: the file that a command makes goes to standard output, messages to standard error."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybrid.errors import UsageError

STDOUT = Path("-")


def refuse_both_on_stdout(output: Path | None, *, as_json: bool) -> None:
    """Raise UsageError when a file and JSON are both to go to standard output."""
    if output == STDOUT and as_json:
        raise UsageError("-o - and --json both want standard output", hint="leave one of them out")


def copy_to_stdout(path: Path) -> None:
    """Copy a file to standard output."""
    sys.stdout.flush()
    with path.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


@contextmanager
def writable_path(output: Path) -> Iterator[Path]:
    """The path to write `output` to; for standard output a temporary file, which is copied there at the end."""
    if output != STDOUT:
        yield output
        return
    with spare_path() as path:
        yield path
        copy_to_stdout(path)


@contextmanager
def spare_path() -> Iterator[Path]:
    """The path of a temporary file, which is not made yet."""
    with tempfile.TemporaryDirectory(prefix="hybrid-") as folder:
        yield Path(folder) / "output"
