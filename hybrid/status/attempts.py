"""The workers of a run by their newest heartbeats: what they reported, and how long ago by this machine's clock.

Heartbeats are untrusted input. The clocks of other machines decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hybrid.canonical import Json
from hybrid.execution.index import Index
from hybrid.folder.leases import LeaseTimeouts
from hybrid.folder.medium import Medium
from hybrid.folder.names import began_at
from hybrid.folder.notes import Note, latest_note, writers
from hybrid.machine.terminal import clean_line
from hybrid.machine.usage import Usage, quantity
from hybrid.metrics import RoundMetrics

MAX_ATTEMPTS = 500
"""Most attempts whose heartbeats are read, the last by name."""
MAX_TROUBLES = 10
MAX_LENGTH = 300
MAX_METRICS, MAX_NAME = 6, 40
MOST_SECONDS = 366 * 86400.0
"""Longest time of an attempt that is believed."""
TIMEOUTS = LeaseTimeouts()


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last report of an attempt. A number that it did not report is None.

    `silent_seconds` is the time since its newest heartbeat was first seen here, None when it is seen for the first
    time: its age is then unknown. `worker_time` is the time by the worker's own clock. `waiting` files of its machine's
    spool are not in the folder yet; `open_records` are in no file yet. Of a stage of rounds, `metrics` are those of the
    last `round` of a `series`.
    """

    name: str
    state: str  # working, new, silent, gone, ended
    silent_seconds: float | None
    beat_number: int
    worker_time: str = ""
    stage: str = ""
    model: str = ""
    open_records: float | None = None
    waiting: float | None = None
    unreceipted: float | None = None
    total: float | None = None
    tokens_per_second: float | None = None
    prompt_tokens_per_second: float | None = None
    items_per_second: float | None = None
    gpu: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage | None = None
    device: str = ""
    disk_free: float | None = None
    troubles: Mapping[str, str] = field(default_factory=dict)
    series: str = ""
    round: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """The time from its start to its newest heartbeat, by its own clock; None when that is unknown."""
        began = began_at(self.name)
        with suppress(ValueError, TypeError):
            seconds = (datetime.fromisoformat(self.worker_time) - began).total_seconds() if began else -1.0
            return seconds if 0 <= seconds <= MOST_SECONDS else None
        return None

    @property
    def at_work(self) -> bool:
        """Whether it may be running, as far as its heartbeats tell."""
        return self.state in ("working", "new")

    def to_json(self) -> dict[str, Json]:
        renamed = ("name", "silent_seconds", "beat_number", "worker_time")
        names = [name for name in self.__dataclass_fields__ if name not in renamed]
        silent = None if self.silent_seconds is None else round(self.silent_seconds, 1)
        head: dict[str, Json] = {"attempt": self.name, "silent_seconds": silent, "beat": self.beat_number}
        rest: dict[str, Json] = {name: getattr(self, name) for name in names}
        rest["seconds"] = self.seconds
        rest["usage"] = self.usage.to_json() if self.usage else None
        return {**head, "its_clock": self.worker_time, **rest}


def read_attempts(folder: Medium, run: str, index: Index, now: float, refused: list[str]) -> list[Attempt]:
    """Every attempt with a heartbeat, by name. `now` is this machine's clock. Appends to `refused` what is skipped.

    Raises Temporary when the folder cannot be listed.
    """
    attempts = []
    names = writers(folder, run, "beat")
    if len(names) > MAX_ATTEMPTS:
        refused.append(f"runs/{run}/beats: {len(names)} attempts, only the last {MAX_ATTEMPTS} by name are read")
    for name in names[-MAX_ATTEMPTS:]:
        beat = latest_note(folder, run, "beat", name, refused)
        if beat is not None:
            attempts.append(attempt_of(name, beat, index.heartbeat_age(run, name, int(beat["number"]), now)))
    return attempts


def attempt_of(name: str, beat: Note, silent_seconds: float | None) -> Attempt:
    """The attempt that a heartbeat describes. Members with wrong types or sizes are left out."""
    spool, progress, gpu = (_object(beat.get(key)) for key in ("spool", "progress", "gpu"))
    fresh, seconds = quantity(progress.get("fresh")), quantity(progress.get("seconds"))
    return Attempt(
        name=name,
        state=_state(beat, silent_seconds),
        silent_seconds=silent_seconds,
        beat_number=int(beat["number"]),
        worker_time=_text(beat.get("time"), 40),
        stage=_text(progress.get("stage"), 120),
        model=_text(beat.get("model"), 64),
        open_records=quantity(beat.get("open_records")),
        waiting=quantity(spool.get("waiting")),
        unreceipted=quantity(spool.get("unreceipted")),
        total=quantity(progress.get("total")),
        tokens_per_second=quantity(progress.get("tokens_per_second")),
        prompt_tokens_per_second=quantity(progress.get("prompt_tokens_per_second")),
        items_per_second=fresh / seconds if fresh and seconds else None,
        gpu=_gpu(gpu),
        usage=Usage.from_json(beat.get("usage")),
        device=_text(beat.get("device"), 100),
        disk_free=quantity(beat.get("disk_free")),
        troubles=_troubles(beat.get("troubles")),
        **_round(_object(beat.get("round"))),
    )


def _round(reported: Mapping[str, Any]) -> dict[str, Any]:
    try:
        last = RoundMetrics.from_text(str(reported.get("text")))
    except ValueError:
        return {}
    metrics = {clean_line(name, MAX_NAME): value for name, value in list(last.metrics.items())[:MAX_METRICS]}
    return {"series": _text(reported.get("series"), 120), "round": last.round, "metrics": metrics}


def _state(beat: Note, silent_seconds: float | None) -> str:
    if beat.get("state") == "ended":
        return "ended"
    if silent_seconds is None:
        return "new"
    if silent_seconds < TIMEOUTS.suspect:
        return "working"
    return "silent" if silent_seconds < TIMEOUTS.reclaim else "gone"


def _gpu(reported: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {key: quantity(reported.get(key)) for key in ("memory_used", "memory_total", "busy")}
    return {"name": _text(reported.get("name"), 100), **numbers} if reported else {}


def _troubles(reported: object) -> dict[str, str]:
    shown = list(_object(reported).items())[:MAX_TROUBLES]
    return {clean_line(subject, MAX_LENGTH): _text(message, MAX_LENGTH) for subject, message in shown}


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object, limit: int) -> str:
    return clean_line(value, limit) if isinstance(value, str) else ""
