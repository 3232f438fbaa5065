"""Date, wall time and tokens of a run, over all its stages, from its shards and heartbeats.

Records have their tokens. The name of an attempt has the time of its start. An attempt ends at the time of its last
heartbeat or, without a worker, at the modification time of its last shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain as chain_of
from pathlib import Path
from typing import Any

from hybrid.errors import HybridError
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import Bound, bound
from hybrid.folder.medium import Disk
from hybrid.folder.names import began_at
from hybrid.folder.notes import latest_note
from hybrid.folder.runs import Run, join_folder, open_run
from hybrid.machine import home

MAX_SHARDS = 2000
"""Runs with more shards have no timing, since all would have to be read."""


@dataclass(slots=True)
class Timing:
    """Start and end (UTC) of every attempt, sums over all records of all stages, and the devices that answered."""

    spans: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    records: int = 0
    devices: set[str] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        """Wall time: the time during which at least one attempt was running."""
        total, until = 0.0, datetime.min.replace(tzinfo=UTC)
        for began, ended in sorted(self.spans.values()):
            total += max(0.0, (ended - max(began, until)).total_seconds())
            until = max(until, ended)
        return total


def timing_of(folder: Path, name: str) -> Timing | None:
    """The timing of a run in a folder; None when it is unknown, for example without the run's pipeline."""
    try:
        received = home.received_of(folder)
        run = open_run(join_folder(folder, make=False), name, (Disk(received),))
        return _timed(bound(run, pipeline_of(run)), (folder, received))
    except HybridError:
        return None


def _timed(chain: Bound, roots: tuple[Path, ...]) -> Timing | None:
    timing, ends, run = Timing(), dict[str, datetime](), chain.run
    shards = chain_of.from_iterable(run.shards(stage.name, []) for stage in chain.stages)
    for number, (path, shard) in enumerate(shards):
        if number == MAX_SHARDS:
            return None
        attempt = str(shard.header["attempt"])
        if written := _written(path, roots):
            ends[attempt] = max(written, ends.get(attempt, written))
        timing.devices |= _device(shard.header["model"])
        for record in shard.records:
            timing.records += 1
            timing.prompt_tokens += record["tokens"][0]
            timing.completion_tokens += record["tokens"][1]
    for attempt, written in ends.items():
        began = began_at(attempt)
        if began is not None:
            timing.spans[attempt] = began, _last_beat(run, attempt) or written
    return timing if timing.spans else None


def _written(path: str, roots: tuple[Path, ...]) -> datetime | None:
    """The modification time of the oldest copy of a shard."""
    times = [(root / path).stat().st_mtime for root in roots if (root / path).is_file()]
    return datetime.fromtimestamp(min(times), UTC) if times else None


def _last_beat(run: Run, attempt: str) -> datetime | None:
    with suppress(HybridError, ValueError, TypeError, OverflowError):
        beat = latest_note(run.folder, run.id, "beat", attempt, [])
        if beat is not None:
            return datetime.fromisoformat(beat["time"]).astimezone(UTC)
    return None


def _device(model: Mapping[str, Any]) -> set[str]:
    """The device that a shard's model computed on, if it is told."""
    about = model.get("about")
    device = about.get("device") if isinstance(about, Mapping) else None
    return {device[:100]} if isinstance(device, str) and device else set()
