"""Run commands of `hybrid` in the test process, which saves half a second each."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from hybrid.cli import main


@dataclass(frozen=True)
class Done:
    """A command's exit code and output."""

    code: int
    stdout: str
    stderr: str


Hybrid = Callable[..., Done]


@contextmanager
def commands(capfd: pytest.CaptureFixture[str]) -> Iterator[Hybrid]:
    """A function that runs a command of `hybrid`. Signal handlers are restored."""
    kept = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(one) for one in arguments])
        said = capfd.readouterr()
        return Done(int(left.value.code or 0), said.out, said.err)

    yield run
    for one, handler in kept.items():
        signal.signal(one, handler)
