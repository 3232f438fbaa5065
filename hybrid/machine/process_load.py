"""Processor time and memory of this process and of those that it has started."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """`cpu_seconds`: processor time so far, of all threads. `memory`: bytes in memory now; None where it is unknown."""

    cpu_seconds: float
    memory: int | None


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    ticks: int
    pages: int


def process_load(proc: Path = PROC) -> ProcessLoad:
    """The load of this process and its descendants, such as the engine of vLLM; where there is no /proc, of itself.

    A child that has ended counts for its parent. A server that somebody else started, as Ollama's, is not included.
    """
    stats = dict(_stats(proc))
    if os.getpid() not in stats:
        return ProcessLoad(time.process_time(), None)
    family = [stats[one] for one in _descendants(stats, os.getpid())]
    seconds = sum(one.ticks for one in family) / os.sysconf("SC_CLK_TCK")
    return ProcessLoad(seconds, sum(one.pages for one in family) * os.sysconf("SC_PAGE_SIZE"))


def _stats(proc: Path) -> Iterator[tuple[int, _Stat]]:
    """Every process that can be read; proc(5) lists the fields. The name, in brackets, may hold anything."""
    with suppress(OSError):
        for place in proc.iterdir():
            with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
                if place.name.isdecimal():
                    line = (place / "stat").read_text(encoding="ascii", errors="replace")
                    fields = line.rpartition(")")[2].split()
                    yield int(place.name), _Stat(int(fields[1]), sum(map(int, fields[11:15])), int(fields[21]))


def _descendants(stats: dict[int, _Stat], top: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for process, stat in stats.items():
        children.setdefault(stat.parent, []).append(process)
    found, waiting = set[int](), [top]
    while waiting:
        process = waiting.pop()
        if process not in found:
            found.add(process)
            yield process
            waiting += children.get(process, [])
