"""The load of this machine while it executes a run, kept beside the run's results for the report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hybrid.canonical import decode, encode
from hybrid.errors import HybridError
from hybrid.folder.names import allowed, new_attempt
from hybrid.machine import home
from hybrid.machine.clock import SystemClock
from hybrid.machine.files import read_bounded
from hybrid.machine.meter import Meter, Work, metered
from hybrid.machine.replacing import replacing
from hybrid.machine.usage import Usage

FORMAT = "hybrid/load"
BEGINS = b'{"format":"hybrid/load"'
KEPT_SECONDS = 120.0
"""Seconds between two times at which the file is written, for a run that is killed."""
MOST_BYTES = 1024 * 1024
MOST_FILES = 200
"""Most files of a run that are read, the last by name."""


class LocalLoad:
    """Measures for a run from `begin` on: before that nothing is left to do, or nobody knows yet."""

    def __init__(self, folder: Path, run: str) -> None:
        self._path = place_of(folder, run) / f"{new_attempt()}.json"
        self._run, self._begun, self._kept = run, False, time.monotonic()
        self._meter: Meter | None = None

    def begin(self) -> None:
        """An engine is opened: the machine works for the run."""
        self._begun = True

    def run(self) -> str:
        return self._run if self._begun else ""

    def look(self, meter: Meter) -> None:
        self._meter = meter
        if time.monotonic() - self._kept >= KEPT_SECONDS:
            self._kept = time.monotonic()
            self.keep()

    def keep(self) -> None:
        """Write what was measured so far, if anything was. What cannot be written is not kept."""
        usage = self._meter.report(self._run).get("usage") if self._meter else None
        if usage is not None:
            with suppress(HybridError), replacing(self._path, BEGINS, home.parts_folder()) as stream:
                stream.write(encode({"format": FORMAT, "version": 1, "run": self._run, "usage": usage}))


@contextmanager
def local_load(folder: Path, run: str) -> Iterator[LocalLoad]:
    """The measurement of a run that this process executes while the block runs."""
    load = LocalLoad(folder, run)
    try:
        with metered(SystemClock(), Work(load.run, load.look)):
            yield load
    finally:
        load.keep()


def loads_here(folder: Path, run: str) -> Iterator[tuple[str, Usage]]:
    """The name and the measurements of each process that executed a run here, by its start; damaged ones left out."""
    if not allowed(run):
        return
    place = place_of(folder, run)
    with suppress(OSError):
        for path in sorted(place.glob("*.json"))[-MOST_FILES:]:
            with suppress(HybridError):
                value: Any = decode(read_bounded(path, MOST_BYTES), what=str(path))
                said = value if isinstance(value, Mapping) and value.get("format") == FORMAT else {}
                if said.get("run") == run and (usage := Usage.from_json(said.get("usage"))):
                    yield path.stem, usage


def place_of(folder: Path, run: str) -> Path:
    """The folder of a run's measurements."""
    return folder / "results" / run / "load"
