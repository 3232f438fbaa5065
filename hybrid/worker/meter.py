"""What a worker measures of its machine is in its heartbeats; a GPU that is idle for long is a problem."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hybrid.machine import meter
from hybrid.machine.meter import SAMPLE_SECONDS, Meter, Work
from hybrid.machine.terminal import duration
from hybrid.worker.worker import Worker

LOG = logging.getLogger("hybrid")
TROUBLE = "the GPU"


class Watchdog:
    """Says when a worker has finished no item for `limit` seconds and its GPUs were idle meanwhile. It ends nothing."""

    def __init__(self, worker: Worker, meter: Meter, limit: float) -> None:
        self._worker, self._meter, self._limit = worker, meter, limit
        self._known: object = None
        self._since = worker.clock.now()

    def look(self) -> None:
        """Compare with the last look; put what is wrong among the worker's problems, or take it away."""
        session, now = self._worker.session, self._worker.clock.now()
        known = session and (id(session), session.counts.done)
        if known != self._known:
            self._known, self._since = known, now
        idle, waited = self._meter.idle_seconds, now - self._since
        troubles = self._worker.courier.troubles
        if session is None or min(idle, waited) < self._limit:
            troubles.pop(TROUBLE, None)
            return
        if TROUBLE not in troubles:
            LOG.warning("the GPU is idle, and no item was finished, for %s", duration(min(idle, waited)))
        troubles[TROUBLE] = f"idle for {duration(idle)}, and no item was finished for {duration(waited)}"


@contextmanager
def metered(worker: Worker) -> Iterator[None]:
    """Measure the machine in a thread while the block runs, and once more at its end."""
    watchdogs: list[Watchdog] = []

    def look(measured: Meter) -> None:
        if not watchdogs:
            watchdogs.append(Watchdog(worker, measured, worker.options.idle_alarm))
            worker.courier.usage = measured.report
        watchdogs[0].look()

    every = min(SAMPLE_SECONDS, worker.options.idle_alarm / 2)
    with meter.metered(worker.clock, Work(lambda: run_of(worker), look, every)):
        yield


def run_of(worker: Worker) -> str:
    """The run that a worker works for now: it executes a stage, or loads a model; "" while it waits."""
    session, loader = worker.session, worker.loader
    return session.run if session else loader.run if loader.doing else ""
