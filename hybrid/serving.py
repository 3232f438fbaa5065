"""A worker as a process: a thread for the courier, signals, the end of the shift, and what it says meanwhile."""

from __future__ import annotations

import _thread
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import filelock

from hybrid.errors import HybridError, NotFinished, Temporary, nearest
from hybrid.folder.files import speaking
from hybrid.redaction import redacted
from hybrid.worker import TIME_IS_UP, Standing, Worker

LOG = logging.getLogger("hybrid")
GRACE = 60.0
"""Seconds after the end of the shift that answers in flight get to finish."""
SAY = 20.0
"""Seconds between two lines about progress."""
LONGEST_LINE = 2000
STOPPED = "stopped"


class Lines(logging.Handler):
    """Hands what is logged to the worker's courier, without secrets, so that the other side can read it."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.INFO)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {redacted(record.getMessage())}"
        self._worker.courier.lines.append(line[:LONGEST_LINE])


def serve(worker: Worker, say: Callable[[str], None]) -> None:
    """Run a worker until it leaves. Ctrl-C, SIGTERM and SIGHUP end it in order: close the shard, carry it, leave.

    `say` gets a line now and then, and so does the other side, by the logs. Raises what `verdict` finds.
    """
    for polite in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(polite, signal.default_int_handler)
    handler = Lines(worker)
    logging.getLogger("hybrid").addHandler(handler)

    def tell(line: str) -> None:
        say(line)
        worker.courier.lines.append(redacted(line)[:LONGEST_LINE])

    stopped = False
    failure: HybridError | None = None
    try:
        with _courier(worker), _deadline(worker):
            _drive(worker, tell)
    except KeyboardInterrupt:
        stopped = not worker.stopping
        worker.stopping = worker.stopping or STOPPED
    except HybridError as error:
        failure = error
    _leave(worker, 0.0 if stopped else worker.shift.linger, tell)
    logging.getLogger("hybrid").removeHandler(handler)
    failure = failure or verdict(worker)
    if failure:
        raise failure


def _drive(worker: Worker, say: Callable[[str], None]) -> None:
    said, told = time.monotonic(), dict[str, str]()
    with closing(worker.work()) as waits:
        for wait in waits:
            time.sleep(wait)
            _tell_standings(worker, told, say)
            if time.monotonic() - said >= SAY:
                said = time.monotonic()
                say(progress(worker))
    _tell_standings(worker, told, say)


def _tell_standings(worker: Worker, told: dict[str, str], say: Callable[[str], None]) -> None:
    for run, standing in worker.standings.items():
        if told.get(run) != standing.words:
            told[run] = standing.words
            say(f"{run}: {standing.words}")


def progress(worker: Worker) -> str:
    """One line: what is being done, how fast, what is not safe yet, and what is wrong."""
    session, spool = worker.session, worker.spool
    parts = ["waiting for work"]
    if session:
        tally = session.tally
        parts = [f"{session.run} {tally.stage}: {tally.done}/{tally.total}", f"{tally.tokens_per_second:.0f} tokens/s"]
        parts += [f"{tally.failed} failed"] if tally.failed else []
    if spool.waiting:
        parts.append(f"{len(spool.waiting)} files not yet in the folder")
    if spool.unreceipted:
        parts.append(f"{len(spool.unreceipted)} shards without a receipt")
    parts += [f"{what}: {why}" for what, why in sorted(worker.courier.troubles.items())]
    return ", ".join(parts)


@contextmanager
def _courier(worker: Worker) -> Iterator[None]:
    """Rounds of the courier from a thread of their own, while the block runs."""
    stop = threading.Event()
    pause = min(2.0, worker.shift.shard_seconds)

    def rounds() -> None:
        while not stop.wait(pause):
            try:
                worker.step()
            except Exception:
                LOG.exception("a fault in hybrid: the courier's round failed; it goes on")

    thread = threading.Thread(target=rounds, name="courier", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(worker.shift.patience.beat)


@contextmanager
def _deadline(worker: Worker) -> Iterator[None]:
    """Interrupt the work when answers in flight outlive the end of the shift."""
    left = worker.shift.until - worker.clock.now() + GRACE
    timer = threading.Timer(min(left, threading.TIMEOUT_MAX), _too_late, [worker])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _too_late(worker: Worker) -> None:
    worker.stopping = worker.stopping or TIME_IS_UP
    _thread.interrupt_main()


def _leave(worker: Worker, linger: float, say: Callable[[str], None]) -> None:
    try:
        for wait in worker.leave(linger):
            say(f"leaving: {progress(worker)}")
            time.sleep(wait)
    except KeyboardInterrupt:
        say("leaving at once")
        with suppress(KeyboardInterrupt):
            worker.finish()


def verdict(worker: Worker) -> HybridError | None:
    """What is to be said about a worker that has left; None when all it saw is done."""
    standings = worker.standings
    kept = [path for path in worker.spool.waiting if path.split("/")[1] in standings or path in worker.spool.carriable]
    if kept:
        why = "; ".join(sorted(set(worker.courier.troubles.values()))) or "there was no time"
        return Temporary(
            f"{len(kept)} files are on this machine's disk only: {why}",
            hint="start the worker again here when the folder is back: it carries them first",
        )
    if "the runs" in worker.courier.troubles:
        return Temporary(worker.courier.troubles["the runs"], hint="is the folder mounted? start the worker again")
    if not standings:
        return _nothing_seen(worker)
    return _unfinished(standings)


def _nothing_seen(worker: Worker) -> HybridError | None:
    if worker.stopping in (STOPPED, TIME_IS_UP):
        return NotFinished(f"{worker.stopping} before anything was begun", hint="start the worker again")
    if worker.shift.run:
        known = nearest(worker.shift.run, worker.runs)
        return Temporary(f"no run in the folder begins with '{worker.shift.run}', or not yet", hint=known)
    return None


def _unfinished(standings: Mapping[str, Standing]) -> HybridError | None:
    """The error of the runs that are not done: what helps first, then what cannot be done here at all."""
    left = {run: one for run, one in standings.items() if one.state not in ("done", "cancelled")}
    words = "; ".join(f"{run}: {one.words}" for run, one in sorted(left.items()))
    for one in left.values():
        if one.error and one.state == "unfinished":
            return one.error
    refused = [one.error for one in left.values() if one.error and one.state == "refused"]
    if refused and len(refused) == len(left):
        return type(refused[0])(words if len(refused) > 1 else refused[0].message, hint=refused[0].hint)
    sides = sorted({one.side for one in left.values() if one.side})
    if sides and all(one.side or one.state == "refused" for one in left.values()):
        return NotFinished(words, hint=f"a worker there goes on; `--side {sides[0]}` does it on this machine")
    return NotFinished(words, hint="start a worker again to go on; `hybrid status` tells more") if left else None


@contextmanager
def alive(locks: Path, attempt: str) -> Iterator[set[str]]:
    """Hold a lock that shows other workers of this machine that `attempt` lives; gives the attempts that do not.

    A process that was killed leaves its lock free: what it held can be taken over at once.
    """
    with speaking(locks, doing="making it"):
        locks.mkdir(parents=True, exist_ok=True)
    gone = {path.stem for path in locks.glob("*.lock") if _free(path)}
    lock = filelock.FileLock(locks / f"{attempt}.lock", timeout=2)
    with suppress(OSError, filelock.Timeout):
        lock.acquire()
    try:
        yield gone
    finally:
        lock.release()
        with suppress(OSError):
            Path(lock.lock_file).unlink()


def _free(path: Path) -> bool:
    try:
        with filelock.FileLock(path, timeout=0):
            return True
    except (filelock.Timeout, OSError):
        return False
