"""Keys that are pressed at the terminal, without waiting for the end of a line."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hybrid.machine.late_imports import import_object

MOST = 64
"""Most bytes that are read at once."""
POLL = 0.05

Pressed = Callable[[float], str]
"""Waits for so many seconds at most; what was pressed meanwhile, "" for nothing."""


@contextmanager
def pressed_keys() -> Iterator[Pressed]:
    """Within the block, keys reach the function that is yielded, and are not shown. Ctrl-C interrupts as ever.

    Without a terminal, and in the background, where reading would stop the process, the function only waits.
    """
    if sys.platform == "win32":
        yield _of_the_console if sys.stdin and sys.stdin.isatty() else _sleep
        return
    file = _terminal()
    if file is None:
        yield _sleep
        return
    termios = import_object("termios", needed_for="keys of a terminal")
    before = termios.tcgetattr(file)
    import_object("tty", needed_for="keys of a terminal").setcbreak(file, termios.TCSADRAIN)
    try:
        yield lambda seconds: _read(file, seconds)
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _terminal() -> int | None:
    """The terminal whose keys this process may read; None where there is none."""
    with suppress(OSError, ValueError, AttributeError):  # closed, replaced, or not the terminal of this session
        file = sys.stdin.fileno()
        if os.isatty(file) and os.tcgetpgrp(file) == os.getpgrp():
            return file
    return None


def _read(file: int, seconds: float) -> str:
    try:
        ready, _, _ = select.select([file], [], [], seconds)
        read = os.read(file, MOST) if ready else b""
    except OSError:
        return _sleep(seconds)
    return read.decode("utf-8", "replace") if read or not ready else _sleep(seconds)  # its end was reached


def _of_the_console(seconds: float) -> str:
    """Windows: the key that is waiting."""
    console, until = import_object("msvcrt", needed_for="keys of the console"), time.monotonic() + seconds
    while not console.kbhit():
        if time.monotonic() >= until:
            return ""
        time.sleep(POLL)
    return str(console.getwch())
