"""The worker process: a thread for the courier, signals, the deadline, and progress lines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import filelock

from hybrid.errors import HybridError, NotFinished, Temporary, nearest
from hybrid.machine.files import explain_errors
from hybrid.machine.redaction import redacted
from hybrid.machine.signals import Stops, counted_signals
from hybrid.machine.terminal import count_of, duration
from hybrid.worker.capability import RunState
from hybrid.worker.courier import LONGEST_LINE
from hybrid.worker.meter import metered
from hybrid.worker.worker import TIME_IS_UP, Worker

LOG = logging.getLogger("hybrid")
GRACE = 60.0
"""Seconds after the deadline in which requests in flight may finish."""
SAY = 20.0
"""Seconds between two progress lines."""
START_S = 10.0
"""Most seconds to wait for other workers that start at the same moment."""
STOPPED = "stopped"


class UploadedLog(logging.Handler):
    """Adds log records to the log that the worker's courier uploads, with secrets redacted."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.INFO)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        note(self._worker, f"{record.levelname.lower()}: {record.getMessage()}")


def note(worker: Worker, line: str) -> None:
    """Add a line to the uploaded log, with its time and with secrets redacted."""
    worker.courier.lines.append(f"{worker.clock.stamp()} {redacted(line)}"[:LONGEST_LINE])


def serve(worker: Worker, say: Callable[[str], None], show: Callable[[str], None] | None = None) -> None:
    """Run a worker until it ends. On Ctrl-C, SIGTERM and SIGHUP it closes the open shard, uploads it and ends; one
    more while it leaves ends the waiting for a folder that is away. The exit code is that of `verdict` in any case.

    `say` gets lines for the user, and `show`, by default `say`, those of progress; the uploaded log gets both. Raises
    the error that `verdict` returns.
    """

    def stop() -> None:
        worker.stopping = worker.stopping or STOPPED

    stops = counted_signals(stop)
    handler = UploadedLog(worker)
    logging.getLogger("hybrid").addHandler(handler)

    def tell(line: str) -> None:
        say(line)
        note(worker, line)

    def tell_progress() -> None:
        (show or say)(line := progress(worker))
        note(worker, line)

    worker.loader.tell = tell
    failure: HybridError | None = None
    try:
        with stops.obeyed(after=0), _courier(worker, tell_progress), metered(worker), _deadline(worker, stops):
            _drive(worker, tell)
    except KeyboardInterrupt:
        stop()
    except HybridError as error:
        failure = error
    _leave(worker, tell, stops, stops.count)
    logging.getLogger("hybrid").removeHandler(handler)
    failure = failure or verdict(worker)
    if failure:
        raise failure


def _drive(worker: Worker, say: Callable[[str], None]) -> None:
    told = dict[str, str]()
    with closing(worker.work()) as waits:
        for wait in waits:
            time.sleep(wait)
            _report_run_states(worker, told, say)
    _report_run_states(worker, told, say)


def _report_run_states(worker: Worker, told: dict[str, str], say: Callable[[str], None]) -> None:
    for run, run_state in worker.run_states.items():
        if told.get(run) != run_state.words:
            told[run] = run_state.words
            say(f"{run}: {run_state.words}")


def progress(worker: Worker) -> str:
    """One line: the stage, its rate, the files that are not uploaded or received yet, and errors."""
    session, spool = worker.session, worker.spool
    parts = [worker.loader.doing or f"waiting for work, leaves in {duration(max(0.0, worker.leaves_in))}"]
    if session:
        counts = session.counts
        parts = [f"{session.run} {counts.stage}: {counts.done}/{counts.total}", counts.pace]
        parts += [f"{counts.failed:,} failed"] if counts.failed else []
    if spool.waiting:
        parts.append(f"{count_of(len(spool.waiting), 'file')} not yet in the folder")
    if spool.unreceipted:
        parts.append(f"{count_of(len(spool.unreceipted), 'shard')} without a receipt")
    return ", ".join([*parts, *_troubles(worker)])


def leaving(worker: Worker, linger: float) -> str:
    """One line: what a worker that is ending waits for, at most `linger` seconds."""
    spool = worker.spool
    what = f"for the receipts of {count_of(len(spool.unreceipted), 'shard')}, {duration(linger)} at most"
    if spool.carriable:
        what = f"until {count_of(len(spool.carriable), 'file')} more can be put into the folder"
    return ", ".join([f"leaving: waits {what}", *_troubles(worker)])


def _troubles(worker: Worker) -> list[str]:
    return [f"{what}: {why}" for what, why in sorted(worker.courier.troubles.items())]


@contextmanager
def _courier(worker: Worker, tell_progress: Callable[[], None]) -> Iterator[None]:
    """Run the courier's rounds in a thread while the block runs, with a progress line every `SAY` seconds:
    an answer or the loading of a model may take long.
    """
    stop = threading.Event()
    pause = min(2.0, worker.options.shard_seconds)

    def rounds() -> None:
        said = time.monotonic()
        while not stop.wait(pause):
            try:
                worker.step()
                if time.monotonic() - said >= SAY:
                    said = time.monotonic()
                    tell_progress()
            except Exception:
                LOG.exception("a fault in hybrid: the courier's round failed; it goes on")

    thread = threading.Thread(target=rounds, name="courier", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(worker.options.timeouts.beat)


@contextmanager
def _deadline(worker: Worker, stops: Stops) -> Iterator[None]:
    """Interrupt the work when requests in flight have not ended `GRACE` seconds after the deadline."""
    left = worker.options.until - worker.clock.now() + GRACE
    timer = threading.Timer(min(left, threading.TIMEOUT_MAX), _too_late, [worker, stops])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _too_late(worker: Worker, stops: Stops) -> None:
    worker.stopping = worker.stopping or TIME_IS_UP
    stops.interrupt()


def _leave(worker: Worker, say: Callable[[str], None], stops: Stops, known: int) -> None:
    """Wait for the folder and, where no signal has come, for the laptop, until one comes that is not among the `known`
    ones; another one ends all.
    """
    said, linger = "", 0.0 if known else worker.options.linger
    try:
        with stops.obeyed(after=known):
            for wait in worker.leave(linger):
                if (line := leaving(worker, linger)) != said:
                    said = line
                    say(line)
                time.sleep(wait)
    except KeyboardInterrupt:
        say("leaving at once")
        with suppress(KeyboardInterrupt), stops.obeyed(after=stops.count):
            worker.finish()


def verdict(worker: Worker) -> HybridError | None:
    """The error of a worker that has ended; None when all runs that it saw are done."""
    run_states = worker.run_states
    kept = [path for path in worker.spool.waiting if path.split("/")[1] in run_states or path in worker.spool.carriable]
    if kept:
        why = "; ".join(sorted(set(worker.courier.troubles.values()))) or "there was no time"
        return Temporary(
            f"{count_of(len(kept), 'file')} on this machine's disk only: {why}",
            hint="start the worker again here once the folder can be written to: it carries them first",
        )
    if "the runs" in worker.courier.troubles:
        return Temporary(worker.courier.troubles["the runs"], hint="is the folder mounted? start the worker again")
    if not run_states:
        return _nothing_seen(worker)
    return _unfinished(run_states) or (_cancelled(run_states) if worker.options.run else None)


def _nothing_seen(worker: Worker) -> HybridError | None:
    if worker.stopping in (STOPPED, TIME_IS_UP):
        return NotFinished(f"{worker.stopping} before anything was begun", hint="start the worker again")
    if worker.options.run:
        known = nearest(worker.options.run, worker.runs)
        return Temporary(f"no run in the folder begins with '{worker.options.run}', or not yet", hint=known)
    return None


def _cancelled(run_states: Mapping[str, RunState]) -> HybridError | None:
    """The error of runs that the worker was started for and that were cancelled: nobody does the rest of them."""
    words = "; ".join(f"{run}: {one.words}" for run, one in sorted(run_states.items()) if one.state == "cancelled")
    return (
        NotFinished(words, hint="the worker ends now; start it again once the run was submitted again")
        if words
        else None
    )


def _unfinished(run_states: Mapping[str, RunState]) -> HybridError | None:
    """The error of the runs that are not done: first one that a retry may clear, then one that is permanent here."""
    left = {run: one for run, one in run_states.items() if one.state not in ("done", "cancelled")}
    words = "; ".join(f"{run}: {one.words}" for run, one in sorted(left.items()))
    for one in left.values():
        if one.error and one.state == "unfinished":
            return one.error
    refused = [one.error for one in left.values() if one.error and one.state == "refused"]
    if refused and len(refused) == len(left):
        return type(refused[0])(words if len(refused) > 1 else refused[0].message, hint=refused[0].hint)
    if models := [one.error for one in left.values() if one.error and one.state == "other side"]:
        return NotFinished(words, hint=models[0].hint)
    sides = sorted({one.side for one in left.values() if one.side})
    if sides and all(one.side or one.state == "refused" for one in left.values()):
        return NotFinished(words, hint=f"a worker there goes on; `--side {sides[0]}` does it on this machine")
    return NotFinished(words, hint="start a worker again to go on; `hybrid status` tells more") if left else None


@contextmanager
def alive(locks: Path, attempt: str) -> Iterator[set[str]]:
    """Hold a file lock while `attempt` runs; yields the attempts of this machine whose processes have ended.

    The system releases the lock of a killed process, so its leases can be taken over at once.
    """
    with explain_errors(locks, doing="making it"):
        locks.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(locks / f"{attempt}.lock", timeout=2)
    with _one_after_the_other(locks):
        gone = {path.stem for path in locks.glob("*.lock") if _free(path)}
        with suppress(OSError, filelock.Timeout):
            lock.acquire()
    try:
        yield gone
    finally:
        lock.release()
        with suppress(OSError):
            Path(lock.lock_file).unlink()


@contextmanager
def _one_after_the_other(locks: Path) -> Iterator[None]:
    """Processes that start together go through the block in turn: the lock of one that has just made its file, and is
    about to lock it, looks like that of an ended one.
    """
    turn = filelock.FileLock(locks / "starting", timeout=START_S)
    with suppress(OSError, filelock.Timeout):
        turn.acquire()
    try:
        yield
    finally:
        turn.release()


def has_ended(locks: Path, attempt: str) -> bool:
    """Whether the process of an attempt on this machine has ended."""
    path = locks / f"{attempt}.lock"
    return not path.exists() or _free(path)


def _free(path: Path) -> bool:
    try:
        with filelock.FileLock(path, timeout=0):
            return True
    except (filelock.Timeout, OSError):
        return False
