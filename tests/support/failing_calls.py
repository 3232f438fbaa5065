"""System calls that fail on chosen paths, in real processes: a small library for LD_PRELOAD.

`compiled` makes it of failing_calls.c. A test writes its rules with `Failing`; every process that was started with its
environment, and all that they start, share the rules and the counters: "the next open of a path like this fails with
ESTALE" is then so once, whoever makes that call, and `struck` says that it really was.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import pytest

SOURCE = Path(__file__).with_name("failing_calls.c")
HEAD, RULE, MOST = 640, struct.Struct("64s256siiiiii296s"), 96
CALLS = {"open", "create", "read", "write", "fsync", "mkdir", "list", "stat", "unlink", "rename"}
"""`create` is an open for writing, `list` the opening of a folder, to look into it."""


@pytest.fixture(scope="session")
def failing_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, compiled once a session."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs the right to see what a process has open, in /proc: Linux")
    made = tmp_path_factory.mktemp("failing") / "failing.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


class FailingCalls:
    """The rules of one test, in the file at `path`, which is made anew. `environment` brings a process under them."""

    def __init__(self, library: Path, path: Path) -> None:
        self.path = path
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "HYBRID_TEST_FAILING": str(path)}
        path.write_bytes(bytes(HEAD + MOST * RULE.size))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.heal()

    def fail(self, calls: str, pattern: str, error: str, *, times: int = 1, skip: int = 0, every: int = 1) -> int:
        """From now on calls (names of CALLS, with commas) on paths of a pattern fail with the errno of a name.

        After `skip` calls each `every`th one fails, until `times` did; below 0: for ever. Returns the rule's number.
        """
        assert set(calls.split(",")) <= CALLS
        assert len(os.fsencode(pattern)) < 256
        number = self._count
        rule = (f"{calls},".encode(), os.fsencode(pattern), getattr(errno, error), skip, times, every, 0, 0, b"")
        RULE.pack_into(self._shared, HEAD + number * RULE.size, *rule)
        self._count += 1
        self._shared[:4] = struct.pack("i", self._count)
        return number

    def heal(self) -> None:
        """Remove all rules and their counters."""
        self._count = 0
        self._shared[:4] = struct.pack("i", 0)

    def struck(self, number: int = 0) -> int:
        """The number of calls that a rule made fail."""
        return int(self._rule(number)[7])

    def seen(self, number: int = 0) -> int:
        """The number of calls that matched a rule, whether or not they failed."""
        return int(self._rule(number)[6])

    @property
    def told(self) -> Iterator[str]:
        """The last call that each rule made fail, with its path."""
        for number in range(self._count):
            if self.struck(number):
                yield os.fsdecode(self._rule(number)[8].rstrip(b"\0"))

    def _rule(self, number: int) -> tuple[bytes, bytes, int, int, int, int, int, int, bytes]:
        return RULE.unpack_from(self._shared, HEAD + number * RULE.size)  # type: ignore[return-value]
