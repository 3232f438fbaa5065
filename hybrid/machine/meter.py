"""Measures this machine while it works for a run: GPU, processor, memory.

A thread samples every few seconds, and takes a twentieth of its time at most: nvidia-smi may need a second. Nothing
that goes wrong here ends or delays the work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from hybrid.canonical import Json
from hybrid.machine.clock import Clock
from hybrid.machine.gpu_load import GpuLoad, gpu_reader
from hybrid.machine.process_load import process_load
from hybrid.machine.usage import Sample, UsageLog

LOG = logging.getLogger("hybrid")
SAMPLE_SECONDS = 5.0
"""Seconds between two samples."""
LOOK_SECONDS = 0.25
"""Seconds between two looks at what is worked on."""
LAST_SECONDS = 10.0
"""Most seconds to wait for the last sample: a driver may hang."""
MAX_SHARE = 0.05
"""Share of its time that the thread may spend on sampling."""
IDLE_BUSY = 5.0
"""Per cent of utilization below which a GPU is idle."""
MIB = 1024 * 1024

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


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured: `run` tells for which run the machine works now, "" for none; `look`, which is given the
    meter, is called between samples, `every` so many seconds at most.
    """

    run: Callable[[], str]
    look: Callable[[Meter], None]
    every: float = SAMPLE_SECONDS


@contextmanager
def metered(clock: Clock, work: Work) -> Iterator[None]:
    """Measure the machine in a thread while the block runs, and once more at its end."""
    stop = threading.Event()
    thread = threading.Thread(target=_guarded, args=(clock, work, stop), name="meter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LAST_SECONDS)


def _guarded(clock: Clock, work: Work, stop: threading.Event) -> None:
    try:
        _measure(Meter(clock, gpu_reader()), work, stop)
    except Exception:
        LOG.exception("a fault in hybrid: the machine is no longer measured; the work goes on")


def _measure(meter: Meter, work: Work, stop: threading.Event) -> None:
    """Take a sample when one is due, when another run is worked on, and at the end."""
    run, due = work.run(), 0.0
    work.look(meter)
    while not stop.wait(LOOK_SECONDS):
        before, run = run, work.run()
        if run != before or time.monotonic() >= due:
            began = time.monotonic()
            meter.sample(before)
            now = time.monotonic()
            due = now + max(work.every, (now - began) / MAX_SHARE)
        work.look(meter)
    meter.sample(run or work.run())  # what was worked on until now, even if that is over
    work.look(meter)
