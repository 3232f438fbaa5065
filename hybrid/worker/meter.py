"""What a worker measures of its machine while it works: GPU, processor, memory; and a GPU that is idle for long.

A thread samples every few seconds, and takes a twentieth of its time at most: nvidia-smi may need a second. What it
finds is in the worker's heartbeats. Nothing that goes wrong here ends or delays the work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from hybrid.canonical import Json
from hybrid.machine.clock import Clock
from hybrid.machine.gpu_load import GpuLoad, gpu_reader
from hybrid.machine.process_load import process_load
from hybrid.machine.terminal import duration
from hybrid.machine.usage import Sample, UsageLog
from hybrid.worker.worker import Worker

LOG = logging.getLogger("hybrid")
SAMPLE_SECONDS = 5.0
"""Seconds between two samples."""
LOOK_SECONDS = 0.25
"""Seconds between two looks at what the worker does."""
LAST_SECONDS = 3.0
"""Most seconds to wait for the last sample: a driver may hang."""
MAX_SHARE = 0.05
"""Share of its time that the thread may spend on sampling."""
IDLE_BUSY = 5.0
"""Per cent of utilization below which a GPU is idle."""
MIB = 1024 * 1024
TROUBLE = "the GPU"

GpuReader = Callable[[], GpuLoad]


class Meter:
    """Samples the machine, and keeps a log for each run. `read_gpu` is None on a machine without a GPU."""

    def __init__(self, clock: Clock, read_gpu: GpuReader | None) -> None:
        self._clock, self._read_gpu = clock, read_gpu
        self._began = self._last = clock.now()
        self._cpu_seconds = process_load().cpu_seconds
        self._busy_at = self._began  # when a GPU was last seen at work, or could not be read
        self._logs: dict[str, UsageLog] = {}
        self._lock = threading.Lock()

    def sample(self, run: str) -> None:
        """Take one sample, of the time since the last, for the `run` that was worked on; "" for none."""
        now, gpu, process = self._clock.now(), self._read_gpu() if self._read_gpu else None, process_load()
        seconds, cpu = now - self._last, process.cpu_seconds - self._cpu_seconds
        found: dict[str, float | None] = {"memory": None if process.memory is None else process.memory / MIB}
        if seconds > 0:
            found["cpu"] = max(0.0, 100 * cpu / seconds)
        if gpu:
            found |= {"gpu_busy": gpu.busy, "power": gpu.power, "gpu_memory": gpu.memory_used}
        if gpu is None or gpu.busiest is None or gpu.busiest >= IDLE_BUSY:
            self._busy_at = now
        self._last, self._cpu_seconds = now, process.cpu_seconds
        if run:
            self._count(run, now - self._began, found, seconds, gpu)

    def _count(self, run: str, at: float, found: Sample, seconds: float, gpu: GpuLoad | None) -> None:
        with self._lock:
            log = self._logs.setdefault(run, UsageLog())
            if gpu and gpu.count:
                log.gpus, log.gpu_memory_total = gpu.count, gpu.memory_total
            log.add(at, found, seconds)

    def report(self, run: str) -> Mapping[str, Json]:
        """The member `usage` of a heartbeat about `run`; nothing before there is a sample."""
        with self._lock:
            return {"usage": self._logs[run].to_json()} if run in self._logs else {}

    @property
    def idle_seconds(self) -> float:
        """For how long every GPU has been idle; 0 on a machine without one."""
        return self._last - self._busy_at


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
    stop = threading.Event()
    thread = threading.Thread(target=_guarded, args=(worker, stop), name="meter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LAST_SECONDS)


def _guarded(worker: Worker, stop: threading.Event) -> None:
    try:
        _measure(worker, stop)
    except Exception:
        LOG.exception("a fault in hybrid: the machine is no longer measured; the work goes on")


def _measure(worker: Worker, stop: threading.Event) -> None:
    """Take a sample when one is due, when another run is worked on, and at the end."""
    meter = Meter(worker.clock, gpu_reader())
    watchdog = Watchdog(worker, meter, worker.options.idle_alarm)
    worker.courier.usage = meter.report
    run, due, every = run_of(worker), 0.0, min(SAMPLE_SECONDS, worker.options.idle_alarm / 2)
    while not stop.wait(LOOK_SECONDS):
        before, run = run, run_of(worker)
        if run != before or time.monotonic() >= due:
            began = time.monotonic()
            meter.sample(before)
            now = time.monotonic()
            due = now + max(every, (now - began) / MAX_SHARE)
        watchdog.look()
    meter.sample(run)


def run_of(worker: Worker) -> str:
    """The run that a worker works for now: it executes a stage, or loads a model; "" while it waits."""
    session, loader = worker.session, worker.loader
    return session.run if session else loader.run if loader.doing else ""
