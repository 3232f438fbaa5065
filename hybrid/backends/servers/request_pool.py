"""A pool of requests in flight, without threads: its event loop runs whenever the caller asks for a result.

When the caller stops reading, or at Ctrl-C, the requests in flight are cancelled: their connections close and the
server stops computing. A result is yielded only after a later check that the model is still the same, if there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from hybrid.backends.servers.connection import Connection, Endpoint, Timeouts
from hybrid.backends.servers.replies import ReplyError, ServerUnavailable
from hybrid.errors import CannotRun, Temporary
from hybrid.machine.signals import Handler, replaced_handlers

Job = TypeVar("Job")
Result = TypeVar("Result")
Done = TypeVar("Done")

Check = Callable[[Connection], Coroutine[Any, Any, None]]

CHECK_SHARE = 0.02
"""Largest fraction of the time that is spent on checking the model."""

LOOK = 0.05
"""Seconds between two looks for a job while there is none."""

MIN_CHECK_PAUSE, MAX_CHECK_PAUSE = 0.05, 1.0
"""Seconds between two checks."""


class Concurrency(Protocol):
    """How many requests may be in flight now (`limit`), and how many are, set by the pool."""

    limit: int
    in_flight: int


class RequestPool(Generic[Job, Result]):
    """Runs `serve` on each of `jobs`, as many at once as `concurrency` allows.

    A None among the jobs says that there is none now, while a result is awaited. `check` raises HybridError when the
    server has another model now; it may raise ServerUnavailable and ReplyError, and is then called again. Without it
    results are yielded at once.
    """

    def __init__(
        self,
        serve: Callable[[Connection, Job], Coroutine[Any, Any, Result]],
        jobs: Iterable[Job | None],
        *,
        endpoint: Endpoint,
        timeouts: Timeouts,
        concurrency: Concurrency,
        check: Check | None,
    ) -> None:
        self._serve, self._jobs = serve, iter(jobs)
        self._endpoint, self._timeouts, self._concurrency = endpoint, timeouts, concurrency
        self._confirm = check
        self._tasks: set[asyncio.Task[Result]] = set()
        self._finished: list[Result] = []  # no check of the digest has started since
        self._under_check: list[Result] = []  # finished before the current check started
        self._check: asyncio.Task[float] | None = None
        self._next_check = 0.0
        self._more_jobs = True
        self._starved = False  # there was no job when one was looked for last
        self._fatal: BaseException | None = None

    def results(self) -> Iterator[Result]:
        """Results in any order. Raises what `serve` raises, after yielding what was finished before."""
        refuse_inside_a_loop()
        connection = Connection(self._endpoint, self._timeouts)
        loop = asyncio.new_event_loop()
        try:
            paused = time.monotonic()
            while True:
                self._start_jobs(loop, connection)
                ready = run_interruptibly(loop, self._wait(connection, paused)) or []
                paused = time.monotonic()
                yield from ready
                if not (ready or self._more_jobs or self._tasks):
                    return
        finally:
            run_interruptibly(loop, self._cancel_all(connection), uninterruptible=True)
            loop.close()

    def _start_jobs(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        """Start jobs as capacity frees. Jobs are read outside of the loop, since their source may run its own loop."""
        self._starved = False
        while self._has_room():
            try:
                job = next(self._jobs)
            except StopIteration:
                self._more_jobs = False
                break
            if job is None:
                self._starved = True
            else:
                self._tasks.add(loop.create_task(self._serve(connection, job)))
                self._concurrency.in_flight = len(self._tasks)

    def _has_room(self) -> bool:
        wanted = self._more_jobs and not self._starved and self._fatal is None
        return wanted and len(self._tasks) < self._concurrency.limit

    async def _wait(self, connection: Connection, paused: float) -> list[Result]:
        """Results that can be yielded; none when jobs can be started, or when nothing is left."""
        connection.resume(time.monotonic() - paused)
        while True:
            self._collect()
            ready = self._checked_results()
            if ready or self._has_room():
                return ready
            if not (self._tasks or self._finished or self._under_check):
                if self._fatal:
                    raise self._fatal
                return []
            self._start_check(connection)
            waited_for = {*self._tasks, self._check} if self._check else self._tasks
            pause = None if self._check or not self._finished else max(0.0, self._next_check - time.monotonic())
            if self._starved:
                pause = LOOK if pause is None else min(pause, LOOK)
            await asyncio.wait(waited_for, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            self._starved = False  # perhaps there is a job by now

    def _collect(self) -> None:
        """Collect finished jobs. An error cancels the others."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._fatal = self._fatal or error
            elif not task.cancelled():
                self._finished.append(task.result())
        if self._fatal:
            for task in self._tasks:
                task.cancel()

    def _start_check(self, connection: Connection) -> None:
        now = time.monotonic()
        if self._confirm is None:
            return
        if self._check is None and self._finished and (now >= self._next_check or not self._tasks):
            self._under_check, self._finished = self._finished, []
            self._check = asyncio.get_running_loop().create_task(self._check_model(self._confirm, connection))

    def _checked_results(self) -> list[Result]:
        """Results that the check that has just ended confirms; all that are finished, when there is none to make."""
        if self._confirm is None:
            ready, self._finished = self._finished, []
            return ready
        if self._check is None or not self._check.done():
            return []
        ready, self._under_check = self._under_check, []
        error, check, self._check = self._check.exception(), self._check, None
        if error is None:
            cost = check.result()
            self._next_check = time.monotonic() + min(max(cost / CHECK_SHARE, MIN_CHECK_PAUSE), MAX_CHECK_PAUSE)
            return ready
        self._fatal = self._fatal or error
        self._finished.clear()  # it is unknown which model they came from
        for task in self._tasks:
            task.cancel()
        return []

    async def _check_model(self, confirm: Check, connection: Connection) -> float:
        """Check that the model is the same; returns the seconds that it took. Raises HybridError when it is not."""
        patience = time.monotonic() + self._timeouts.patience
        while True:
            started = time.monotonic()
            try:
                await confirm(connection)
            except ServerUnavailable as error:
                if self._fatal:
                    raise self._fatal from error
                await connection.wait_for_server(error)
            except ReplyError as error:
                if started > patience:
                    raise Temporary(
                        f"{self._endpoint.name} does not tell which models it has: {error.message}",
                        hint=f"is it well? {self._endpoint.restart}; then run the same command again",
                    ) from error
                await asyncio.sleep(0.2)
            else:
                return time.monotonic() - started

    async def _cancel_all(self, connection: Connection) -> None:
        """Cancel everything in flight, and wait until the connections are closed."""
        tasks = [*self._tasks, *([self._check] if self._check else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await connection.close()
        await asyncio.get_running_loop().shutdown_asyncgens()


def run_interruptibly(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Done], *, uninterruptible: bool = False
) -> Done | None:
    """Run `work` in the loop. Signals are handled after it has ended or was cancelled, not between two callbacks.

    None when it was cancelled and the signal's handler returned.
    """
    task = loop.create_task(work)
    received: list[Callable[[], Any]] = []  # calls of the handlers that the signals were meant for

    def record(handler: Handler, number: int, _: object) -> None:
        received.append(partial(handler, number, None))
        if not uninterruptible:
            loop.call_soon_threadsafe(task.cancel)

    try:
        with replaced_handlers(record):
            return loop.run_until_complete(task)
    except asyncio.CancelledError:
        return None
    finally:
        for deliver in received[:1]:
            deliver()


def refuse_inside_a_loop() -> None:
    """Raise CannotRun when this thread runs an event loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise CannotRun(
        "a backend that asks a server cannot be used from inside an event loop, as in a notebook's cell",
        hint="use the command line, `!hybrid ...`, or a thread of its own",
    )
