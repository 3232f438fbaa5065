"""Who works on a run, by their newest beats: what they said, and how long ago as seen from here.

A beat may have been made by anybody. No clock but this machine's decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid.canonical import Json
from hybrid.execution.index import Index
from hybrid.folder.leases import LeaseTimeouts
from hybrid.folder.medium import Medium
from hybrid.folder.notes import Note, latest_note, writers
from hybrid.machine.terminal import clean_line

MOST = 500
"""Attempts whose beats are read, the last by name."""
MOST_TROUBLES = 10
LONGEST = 300
TIMEOUTS = LeaseTimeouts()


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt last said. A number is None where it did not say it.

    `silent` are the seconds since its newest beat was first seen here, None when that is now: then nobody knows how
    old it is. `stamp` is what its own clock said. `waiting` files of its machine's spool are not in the folder;
    `open_records` are in no file.
    """

    name: str
    state: str  # working, new, silent, gone, ended
    silent: float | None
    number: int
    stamp: str = ""
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
    disk_free: float | None = None
    troubles: Mapping[str, str] = field(default_factory=dict)

    @property
    def at_work(self) -> bool:
        """Whether it may be working, as far as one can tell."""
        return self.state in ("working", "new")

    def to_json(self) -> dict[str, Json]:
        names = [name for name in self.__dataclass_fields__ if name not in ("name", "silent", "number", "stamp")]
        silent = None if self.silent is None else round(self.silent, 1)
        head: dict[str, Json] = {"attempt": self.name, "silent_seconds": silent, "beat": self.number}
        return {**head, "its_clock": self.stamp, **{name: getattr(self, name) for name in names}}


def attempts_of(folder: Medium, run: str, index: Index, now: float, refused: list[str]) -> list[Attempt]:
    """Every attempt that was ever heard of, by name. `now` is this machine's clock. Raises Temporary."""
    found = []
    names = writers(folder, run, "beat")
    if len(names) > MOST:
        refused.append(f"runs/{run}/beats: {len(names)} attempts, only the last {MOST} by name are looked at")
    for name in names[-MOST:]:
        beat = latest_note(folder, run, "beat", name, refused)
        if beat is not None:
            found.append(attempt_of(name, beat, index.heard(run, name, int(beat["number"]), now)))
    return found


def attempt_of(name: str, beat: Note, silent: float | None) -> Attempt:
    """What a beat says, as far as it is of the right types and sizes."""
    spool, progress, gpu = (_object(beat.get(key)) for key in ("spool", "progress", "gpu"))
    fresh, seconds = _number(progress.get("fresh")), _number(progress.get("seconds"))
    return Attempt(
        name=name,
        state=_state(beat, silent),
        silent=silent,
        number=int(beat["number"]),
        stamp=_text(beat.get("time"), 40),
        stage=_text(progress.get("stage"), 120),
        model=_text(beat.get("model"), 64),
        open_records=_number(beat.get("open_records")),
        waiting=_number(spool.get("waiting")),
        unreceipted=_number(spool.get("unreceipted")),
        total=_number(progress.get("total")),
        tokens_per_second=_number(progress.get("tokens_per_second")),
        prompt_tokens_per_second=_number(progress.get("prompt_tokens_per_second")),
        items_per_second=fresh / seconds if fresh and seconds else None,
        gpu=_gpu(gpu),
        disk_free=_number(beat.get("disk_free")),
        troubles=_troubles(beat.get("troubles")),
    )


def _state(beat: Note, silent: float | None) -> str:
    if beat.get("state") == "ended":
        return "ended"
    if silent is None:
        return "new"
    if silent < TIMEOUTS.suspect:
        return "working"
    return "silent" if silent < TIMEOUTS.reclaim else "gone"


def _gpu(said: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {key: _number(said.get(key)) for key in ("memory_used", "memory_total", "busy")}
    return {"name": _text(said.get("name"), 100), **numbers} if said else {}


def _troubles(said: object) -> dict[str, str]:
    known = list(_object(said).items())[:MOST_TROUBLES]
    return {clean_line(what, LONGEST): _text(words, LONGEST) for what, words in known}


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object, limit: int) -> str:
    return clean_line(value, limit) if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    """A number that can be shown: not below 0, and not absurd."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < 1e15 else None  # nan is neither
