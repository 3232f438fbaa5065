"""OpenMP threads on a shared machine: how long they spin while they wait, and how many there should be.

llama.cpp and torch split each operation over threads and wait for the last one, about a thousand times a token. A
waiting thread spins. On idle cores the wait is short; on a busy core the spinning thread uses the time slice of the
thread that it waits for, and throughput collapses. Sleeping after a short spin is as fast on an idle machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SPIN_SETTINGS = {
    "GOMP_SPINCOUNT": "1000",  # GNU's runtime: iterations, some 30 microseconds; its default is 300,000
    "KMP_BLOCKTIME": "0",  # LLVM's and Intel's: milliseconds; its default is 200, on Apple silicon 0
}
"""Environment variables that OpenMP runtimes read once, when they are loaded. Microsoft's runtime has none."""


def limit_spinning() -> None:
    """Make waiting OpenMP threads sleep after a short spin, unless the user has set how they wait.

    Applies to libraries that are loaded afterwards, in this process and its children.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in SPIN_SETTINGS.items():
            os.environ.setdefault(name, value)


def thread_count() -> int:
    """The number of compute threads: `OMP_NUM_THREADS` if the user has set it, else one for each usable core."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is for nested levels
    return int(first) if first.isdecimal() and int(first) else available_cores()


def available_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: its CPU affinity, limited by the CPU quota of its container.

    A container with a quota of 2 of 64 cores sees all 64, and 64 threads would be throttled most of the time.
    `root` is the directory that holds `proc` and `sys`.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *map(int, _cpu_limits(root))]))


def _cpu_limits(root: Path) -> Iterator[float]:
    """The CPU quota, in cores, of each control group around this process that has one."""
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
            yield from _cpu_limit(group)
            if group == top:
                break


def _cpu_limit(group: Path) -> Iterator[float]:
    """quota / period of one control group, version 1 or 2; nothing when it has no quota."""
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
