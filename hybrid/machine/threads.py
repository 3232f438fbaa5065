"""OpenMP's threads beside other work: how long they spin while they wait, and how many there should be.

llama.cpp and torch share each operation out to threads and wait for the last of them, a thousand times a token. A
thread that waits spins. With cores to itself the wait is over at once; on a busy core it spends the time slice that the
thread it waits for should have had, and everything crawls. A short spin, then sleep, is as quick on a quiet machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

WAITING = {
    "GOMP_SPINCOUNT": "1000",  # GNU's runtime: turns of a loop, some 30 microseconds; by itself 300,000
    "KMP_BLOCKTIME": "0",  # LLVM's and Intel's: whole milliseconds; by itself 200, 0 on Apple silicon
}
"""What the runtimes of OpenMP read, once, when they are loaded. Microsoft's has no such switch."""


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon when they wait; a setting of the user's stays, and one for all runtimes is one.

    Counts for libraries that are loaded after it, in this process and in those that it starts.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)


def number() -> int:
    """Threads that compute at once: `OMP_NUM_THREADS` where the user has set it, else one for each core."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is for nested ones
    return int(first) if first.isdecimal() and int(first) else cores()


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: those that it is bound to, and not more than its container is given.

    A container with the time of 2 of 64 cores sees all 64; threads on each would be stopped together most of the time.
    `root` is where Linux's own files are.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *map(int, _shares(root))]))


def _shares(root: Path) -> Iterator[float]:
    """The cores' worth of time that each control group around this process may use, of those that have a limit."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if number == "0":
            top = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            top = root / "sys/fs/cgroup" / controllers
        else:
            continue
        inside = top / place.strip("/")
        for group in (inside, *inside.parents):
            yield from _share(group)
            if group == top:
                break


def _share(group: Path) -> Iterator[float]:
    """quota / period of one control group, of either version of their files; nothing where time is not limited."""
    words = _read(group / "cpu.max").split() or [
        *_read(group / "cpu.cfs_quota_us").split(),
        *_read(group / "cpu.cfs_period_us").split(),
    ]
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):  # "max" and -1: no limit
        yield int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
