"""The courier: all transfers between a worker's machine and the folder, so that the model never waits for a mount.

It is called in rounds. A round does each step that is due; a step that fails is logged once and retried later.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Protocol

from hybrid.canonical import Json
from hybrid.errors import HybridError
from hybrid.folder.leases import BeatMonitor, LeaseTimeouts
from hybrid.folder.medium import Medium
from hybrid.folder.notes import pack_note, read_notes
from hybrid.folder.orders import Orders
from hybrid.folder.spool import Spool, guard
from hybrid.machine.clock import Clock
from hybrid.machine.redaction import redacted

LOG = logging.getLogger("hybrid")
READ_SECONDS = 30.0
"""Seconds between two reads of the folder, and least seconds between two heartbeats."""
SETTLING_SECONDS = 10.0
"""The same while workers divide a stage."""
EAGER_READ_SECONDS = 5.0
"""Seconds between two reads while a caller waits for receipts."""
LOG_SECONDS = 60.0
"""Seconds between two log notes."""
LONGEST_PAUSE = 300.0
"""Seconds: the longest pause before a failed step is tried again."""
LONGEST_LINE = 2000
MOST_LINES = 2000
"""Lines of the log that wait for the next log note."""


class Session(Protocol):
    """The stage that a worker executes now, as the courier sees it."""

    @property
    def run(self) -> str:
        """The run's id."""
        ...

    def tick(self) -> None:
        """Close the open shard when it is due. Raises Temporary on a full disk."""
        ...

    def look(self, set_aside: Collection[str]) -> None:
        """Read the records of others. Raises Temporary."""
        ...

    def claim(self) -> Mapping[str, Json]:
        """The blocks that are held."""
        ...

    @property
    def settling(self) -> bool:
        """Whether workers are dividing the stage now, so that claims should be heard of soon."""
        ...

    def report(self) -> Mapping[str, Json]:
        """The content of a heartbeat beside the claim."""
        ...


class Courier:
    """Uploads shards and logs, writes heartbeats, reads orders and the heartbeats of others, for one attempt."""

    def __init__(
        self,
        folder: Medium,
        spool: Spool,
        clock: Clock,
        attempt: str,
        timeouts: LeaseTimeouts,
        gone: Collection[str] = (),
    ) -> None:
        self.folder, self.spool, self.attempt, self.timeouts = folder, spool, attempt, timeouts
        self._clock, self._gone = clock, gone
        self.confirmed = clock.now()  # when a heartbeat of ours was last written
        self.troubles: dict[str, str] = {}
        self.usage: Callable[[str], Mapping[str, Json]] = lambda run: {}  # what was measured of the machine
        self.lines: deque[str] = deque(maxlen=MOST_LINES)
        self._pauses: dict[str, tuple[float, float]] = {}  # what -> (not before, how long the pause was)
        self._done_at: dict[str, float] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._claimed: object = None
        self._machine: dict[str, dict[str, Json]] = {}  # run -> what it was computed on, as the last heartbeat says
        self._orders: dict[str, Orders] = {}
        self._monitors: dict[str, BeatMonitor] = {}
        self._acks: set[str] = set()

    @property
    def fenced(self) -> bool:
        """Whether other workers may take this one for dead: it takes no new work until a heartbeat is written."""
        return self._clock.now() - self.confirmed > self.timeouts.fence

    def orders(self, run: str) -> Orders:
        """The orders for a run that were read so far."""
        return self._orders.setdefault(run, Orders())

    def monitor(self, run: str) -> BeatMonitor:
        """The heartbeats of the other attempts at a run."""
        return self._monitors.setdefault(run, BeatMonitor(self._clock, self.attempt, self._gone))

    def step(self, session: Session | None, *, eager: bool = False) -> None:
        """One round. `eager`: a caller waits for receipts, so the folder is read more often."""
        if session:
            self._try("the open shard", session.tick)
        self._try("the upload", self._upload)
        if session:
            self._try("the heartbeat", lambda: self._beat(session))
            self._try("the log", lambda: self._write_log(session.run))
        seconds = SETTLING_SECONDS if session and session.settling else READ_SECONDS
        self._try("reading the folder", lambda: self._read(session, EAGER_READ_SECONDS if eager else seconds))

    def _try(self, what: str, act: Callable[[], None]) -> None:
        """Call `act`; after an error, log it and double the pause before the next try."""
        not_before, pause = self._pauses.get(what, (-math.inf, 2.5))
        if self._clock.now() < not_before:
            return
        try:
            act()
        except HybridError as error:
            if self.troubles.get(what) != error.message:
                LOG.warning("%s: %s; it is tried again", what, error.message)
            self.troubles[what] = error.message
            pause = min(2 * pause, LONGEST_PAUSE)
            self._pauses[what] = self._clock.now() + pause, pause
        else:
            self._pauses.pop(what, None)
            self.troubles.pop(what, None)

    def _due(self, what: str, seconds: float) -> bool:
        """Whether `what` last succeeded at least `seconds` ago."""
        return self._clock.now() - self._done_at.get(what, -math.inf) >= seconds

    def _did(self, what: str) -> None:
        self._done_at[what] = self._clock.now()

    def _upload(self) -> None:
        self.spool.carry(self.folder)
        self.troubles.pop("some files", None)
        if self.spool.stranded:
            self.troubles["some files"] = "; ".join(sorted(self.spool.stranded.values()))
        if self._due("recheck", LOG_SECONDS):
            self.spool.recheck(self.folder)
            self._did("recheck")

    def _beat(self, session: Session) -> None:
        what, claim = f"beat {session.run}", session.claim()
        least = SETTLING_SECONDS if session.settling else READ_SECONDS
        changed = claim != self._claimed and self._due(what, min(least, self.timeouts.beat / 4))
        if changed or self._due(what, self.timeouts.beat):
            report = session.report()
            self._machine[session.run] = {name: report[name] for name in ("device", "gpu") if name in report}
            self.beat(session.run, {"state": "working", "claim": claim, **report})
            self._claimed = claim
            self._did(what)

    def show(self, run: str, body: Mapping[str, Json]) -> None:
        """Write a heartbeat of a worker that waits for work of a run, when one is due. Raises Temporary."""
        if self._due(f"beat {run}", self.timeouts.beat):
            self.beat(run, body)
            self._did(f"beat {run}")

    def beat(self, run: str, body: Mapping[str, Json]) -> None:
        """Write a heartbeat now. Raises Temporary when that fails."""
        number, began = self._numbers.get((run, "beat"), 0), self._clock.now()
        guard(self.folder, run)
        self._numbers[run, "beat"] = number + 1  # even if writing fails: a number is used once
        waits = {"waiting": len(self.spool.waiting), "unreceipted": len(self.spool.unreceipted)}
        common: dict[str, Json] = {"time": self._clock.stamp(), "spool": waits, "troubles": dict(self.troubles)}
        common.update(self.usage(run))
        self.folder.write(*pack_note(run, "beat", self.attempt, number, {**common, **body}))
        self.confirmed = began

    def note_refusal(self, run: str, why: str) -> None:
        """Write why this machine does nothing for a run as a log note, so that the laptop can read it.

        It is tried once and not spooled: a folder that refuses it may be why the run is refused.
        """
        number = self._numbers.get((run, "log"), 0)
        self._numbers[run, "log"] = number + 1
        now = self._clock.stamp()
        line = f"{now} refused here: {redacted(why)}"[:LONGEST_LINE]
        with suppress(HybridError):
            guard(self.folder, run)
            self.folder.write(*pack_note(run, "log", self.attempt, number, {"time": now, "lines": [line]}))

    def _write_log(self, run: str, *, now: bool = False) -> None:
        """Write the log lines since the last note as a note into the spool."""
        if not self.lines or not (now or self._due("log", LOG_SECONDS)):
            return
        number = self._numbers.get((run, "log"), 0)
        lines = [self.lines.popleft() for _ in range(len(self.lines))]
        body: dict[str, Json] = {"time": self._clock.stamp(), "lines": lines}
        self.spool.write(*pack_note(run, "log", self.attempt, number, body))
        self._numbers[run, "log"] = number + 1
        self._did("log")

    def _read(self, session: Session | None, seconds: float) -> None:
        if not self._due("read", min(seconds, self.timeouts.beat / 4)):
            return
        runs = {path.split("/")[1] for path in self.spool.unreceipted}
        for run in sorted(runs):
            self._read_receipts(run)
        if session:
            self.read_orders(session.run)
            session.look(self.orders(session.run).set_aside)
        self._did("read")

    def read_orders(self, run: str) -> None:
        """Read new orders and heartbeats. Raises Temporary."""
        orders = self.orders(run)
        for path, note in read_notes(self.folder, run, "order", known=orders.known, refused=[]):
            orders.add(path, note)
        self.monitor(run).look(self.folder, run)

    def _read_receipts(self, run: str) -> None:
        """Read new receipts, and delete the shards that they name from the spool."""
        for path, note in read_notes(self.folder, run, "ack", known=self._acks, refused=[]):
            received = note.get("received")
            if isinstance(received, dict):
                self.spool.release(received)
            self._acks.add(path)

    def finish(self, runs: Collection[str]) -> None:
        """Upload the remaining files, and write a heartbeat with the state `ended` to every run of this attempt."""
        for run in sorted(runs):
            self._try(f"the last log of {run}", lambda run=run: self._write_log(run, now=True))  # type: ignore[misc]
        self._try("the last upload", self._upload)
        for run in sorted(runs):
            self._try(f"the last heartbeat of {run}", lambda run=run: self._last_beat(run))  # type: ignore[misc]

    def _last_beat(self, run: str) -> None:
        """The heartbeat that stays: it says what the run was computed on, for what that has cost."""
        self.beat(run, {"state": "ended", **self._machine.get(run, {})})
