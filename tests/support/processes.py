"""Processes of this machine as /proc tells of them; one that ends meanwhile is no error."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children(pid: int, word: bytes = b"") -> list[int]:
    """The processes that a process has started, of those that still run, oldest first.

    With `word` only those in whose command line it is.
    """
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, *_ = stat.read_text().rsplit(")", 1)[1].split()
            command = (stat.parent / "cmdline").read_bytes()
            if int(parent) == pid and state != "Z" and word in command:
                found.append(int(stat.parent.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False
