"""Many jobs in flight, from one thread: an event loop that runs whenever a result is asked for.

No thread is started. Whoever stops reading, or presses Ctrl-C, cancels what is in flight: connections close, and the
server stops computing. A result is given out after the model was seen unchanged at a moment after it was finished.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Generic, TypeVar

from hybrid.backends.ollama.client import Refused, cannot_use, digest_in
from hybrid.backends.ollama.link import Gone, Link, Trouble, Waits
from hybrid.backends.ollama.pace import Pace
from hybrid.errors import CannotRun, Temporary
from hybrid.machine.terminal import clean_line

Job = TypeVar("Job")
Result = TypeVar("Result")
Done = TypeVar("Done")

SHARE = 0.02
"""Most of the time that looking at the model's digest may take."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two looks."""

POLITE = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
"""Signals that ask to stop. Those that Python handles are kept until the loop stands still."""


class RequestPool(Generic[Job, Result]):
    """Serves `jobs` by `serve`, as many at once as `pace` says. `model` is the model's name and its digest."""

    def __init__(
        self,
        serve: Callable[[Link, Job], Coroutine[Any, Any, Result]],
        jobs: Iterable[Job],
        *,
        url: str,
        waits: Waits,
        pace: Pace,
        model: tuple[str, str],
    ) -> None:
        self._serve, self._jobs = serve, iter(jobs)
        self._url, self._waits, self._pace = url, waits, pace
        self._name, self._digest = model
        self._tasks: set[asyncio.Task[Result]] = set()
        self._finished: list[Result] = []  # no look at the digest has begun since
        self._awaiting: list[Result] = []  # finished before the look began that is under way
        self._look: asyncio.Task[float] | None = None
        self._next_look = 0.0
        self._more = True
        self._fatal: BaseException | None = None

    def results(self) -> Iterator[Result]:
        """In any order. Raises what `serve` raises, after giving what was finished before."""
        _refuse_inside_a_loop()
        link = Link(self._url, self._waits)
        loop = asyncio.new_event_loop()
        try:
            paused = time.monotonic()
            while True:
                self._take_off(loop, link)
                ready = run_safely(loop, self._wait(link, paused)) or []
                paused = time.monotonic()
                yield from ready
                if not (ready or self._more or self._tasks):
                    return
        finally:
            run_safely(loop, self._land(link), to_the_end=True)
            loop.close()

    def _take_off(self, loop: asyncio.AbstractEventLoop, link: Link) -> None:
        """Pull jobs only as capacity frees, outside of the loop: a source of jobs may run one of its own."""
        while self._has_room():
            try:
                job = next(self._jobs)
            except StopIteration:
                self._more = False
            else:
                self._tasks.add(loop.create_task(self._serve(link, job)))
                self._pace.flying = len(self._tasks)

    def _has_room(self) -> bool:
        return self._more and self._fatal is None and len(self._tasks) < self._pace.limit

    async def _wait(self, link: Link, paused: float) -> list[Result]:
        """The results that can be given out; none when jobs are to be pulled, or when nothing is left."""
        link.resume(time.monotonic() - paused)
        while True:
            self._gather()
            ready = self._seen()
            if ready or self._has_room():
                return ready
            if not (self._tasks or self._finished or self._awaiting):
                if self._fatal:
                    raise self._fatal
                return []
            self._start_look(link)
            waited_for = {*self._tasks, self._look} if self._look else self._tasks
            pause = None if self._look or not self._finished else max(0.0, self._next_look - time.monotonic())
            await asyncio.wait(waited_for, timeout=pause, return_when=asyncio.FIRST_COMPLETED)

    def _gather(self) -> None:
        """Take what has finished. An error ends everything else."""
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

    def _start_look(self, link: Link) -> None:
        now = time.monotonic()
        if self._look is None and self._finished and (now >= self._next_look or not self._tasks):
            self._awaiting, self._finished = self._finished, []
            self._look = asyncio.get_running_loop().create_task(self._compare(link))

    def _seen(self) -> list[Result]:
        """What was finished when the look began that has just ended."""
        if self._look is None or not self._look.done():
            return []
        ready, self._awaiting = self._awaiting, []
        error, look, self._look = self._look.exception(), self._look, None
        if error is None:
            cost = look.result()
            self._next_look = time.monotonic() + min(max(cost / SHARE, SHORTEST_PAUSE), LONGEST_PAUSE)
            return ready
        self._fatal = self._fatal or error
        self._finished.clear()  # nothing says which model it came from
        for task in self._tasks:
            task.cancel()
        return []

    async def _compare(self, link: Link) -> float:
        """Look at the model's digest; the seconds that it took. Raises CannotRun when it is another one."""
        patience = time.monotonic() + self._waits.patience
        while True:
            started = time.monotonic()
            try:
                found = digest_in(await link.get("/api/tags"), self._name)
            except Gone as error:
                if self._fatal:
                    raise self._fatal from error
                await link.wait_for_server(error)
            except Trouble as error:
                if started > patience:
                    raise Temporary(
                        f"Ollama does not tell which models it has: {error.message}",
                        hint="is it well? restart it (`ollama serve`), then run the same command again",
                    ) from error
                await asyncio.sleep(0.2)
            except Refused as error:
                raise cannot_use(error, self._name) from error
            else:
                _compare(self._name, self._digest, found)
                return time.monotonic() - started

    async def _land(self, link: Link) -> None:
        """Cancel what is in flight, and wait until its connections are closed."""
        tasks = [*self._tasks, *([self._look] if self._look else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await link.close()
        await asyncio.get_running_loop().shutdown_asyncgens()


def run_safely(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Done], *, to_the_end: bool = False
) -> Done | None:
    """Run `work`. Ctrl-C comes when it is cancelled, or has ended: between two callbacks it would break the loop.

    None when whoever handles Ctrl-C wants to go on.
    """
    task = loop.create_task(work)
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        if not to_the_end:
            loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.getsignal(number) for number in POLITE}
    mine = [number for number, handler in before.items() if callable(handler)] if _in_main_thread() else []
    for number in mine:
        signal.signal(number, note)
    try:
        return loop.run_until_complete(task)
    except asyncio.CancelledError:
        return None
    finally:
        for number in mine:
            signal.signal(number, before[number])
        for number in came[:1]:
            before[number](number, None)  # type: ignore[operator, misc]


def _in_main_thread() -> bool:
    """Only there does Python let anybody listen to signals."""
    return threading.current_thread() is threading.main_thread()


def _compare(name: str, digest: str, found: str) -> None:
    """Raises CannotRun when the digest that was found is not that of the model that was opened."""
    name = clean_line(name)
    if not found:
        raise CannotRun(
            f"Ollama has no model '{name}' any more: it was removed while it was used",
            hint=f"hybrid models pull {name}; what was answered before is kept",
        )
    if found != digest:
        raise CannotRun(
            f"the model '{name}' is another one now: its digest was {digest[:12]} and is {found[:12]}",
            hint="what it answered before is kept, nothing after; `ollama cp` keeps a model under a name of its own",
        )


def _refuse_inside_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise CannotRun(
        "the backend 'ollama' cannot be used from inside an event loop, as in a notebook's cell",
        hint="use the command line, `!hybrid ...`, or a thread of its own",
    )
