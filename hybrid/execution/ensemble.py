"""Several engines that answer one stream of requests at the same time, each those of its role, in a thread of its own.

While the stream's reader thinks, the engines go on with what was read ahead for them.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from hybrid.errors import CannotRun
from hybrid.protocols import Backend, Model
from hybrid.records import Completion, Request

AHEAD = 8
"""Requests that are read from the stream before an engine takes them. What comes later may be more urgent."""
LOOK = 0.05
"""Seconds between two looks for requests while nothing is answered."""
LONGEST_JOIN = 30.0
"""Seconds to wait for an engine that has answered all of its requests."""


class Taken:
    """An engine has taken the last request that was read ahead for it."""


Result = Completion | BaseException | Taken | None
"""What an engine's thread tells: an answer, the error that ended it, that it wants more, or that it has ended."""


def unheard(completion: Completion) -> None:
    """Nobody wants to know of answers before they are yielded."""


class Ensemble:
    """A backend of several: `first` answers requests without a role, `further` those of theirs.

    `on_answer` is called with each answer in the thread of its engine, however long the reader of `generate` thinks.
    """

    def __init__(self, first: Backend, further: Mapping[str, Backend]) -> None:
        self.first, self.further = first, dict(further)
        self.model = first.model
        self.on_answer: Callable[[Completion], None] = unheard

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Completions of all engines as they come."""
        source, results = iter(requests), queue.SimpleQueue[Result]()
        engines = {role: self.further.get(role, self.first) for role in ("", *self.further)}
        # two roles may ask one engine
        by_engine = {id(engine): (engine, Inbox(results)) for engine in engines.values()}
        inboxes = {role: by_engine[id(engine)][1] for role, engine in engines.items()}
        running = [
            threading.Thread(target=self._serve, args=(*one, results), daemon=True) for one in by_engine.values()
        ]
        for thread in running:
            thread.start()
        try:
            yield from _dispatched(source, inboxes, results)
        except BaseException:
            _close(inboxes.values())
            raise
        _close(inboxes.values())
        for thread in running:  # an engine is used by one thread at a time
            thread.join(LONGEST_JOIN)

    def _serve(self, engine: Backend, inbox: Inbox, results: queue.SimpleQueue[Result]) -> None:
        try:
            for completion in engine.generate(inbox):
                inbox.answered()
                self.on_answer(completion)
                results.put(completion)
            results.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that reads the results
            results.put(error)

    def close(self) -> None:
        """The engines are closed by whoever opened them."""


class Elsewhere:
    """The stage's own model, where it is on the other side of a divided search: it is asked nothing here."""

    def __init__(self, name: str, digest: str, about: object) -> None:
        self.model = Model(name, digest, 0, about if isinstance(about, dict) else {})

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Wait until there are no more requests. Raises CannotRun for one."""
        for _ in requests:
            raise CannotRun(f"the model {self.model.name} is on the other side", hint="report it, with this message")
        yield from ()

    def close(self) -> None:
        """Nothing is open."""


class Inbox:
    """The requests for one engine, which reads them in its own thread."""

    def __init__(self, results: queue.SimpleQueue[Result]) -> None:
        self._results = results
        self._changed = threading.Condition()
        self._waiting = deque[Request]()
        self._unanswered = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request | None]:
        return self

    def __next__(self) -> Request | None:
        """The next request; None while there is none and the engine has others to answer. It ends when it is closed."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    raise StopIteration
                if self._unanswered:
                    return None
                self._changed.wait()
            self._unanswered += 1
            request = self._waiting.popleft()
            if not self._waiting:
                self._results.put(Taken())
            return request

    def put(self, request: Request) -> None:
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()

    def answered(self) -> None:
        with self._changed:
            self._unanswered -= 1

    def close(self) -> None:
        """Give out what is waiting no more, and end."""
        with self._changed:
            self._waiting.clear()
            self._closed = True
            self._changed.notify()


def _close(inboxes: Iterable[Inbox]) -> None:
    for inbox in inboxes:
        inbox.close()


def _dispatched(
    source: Iterator[Request | None], inboxes: Mapping[str, Inbox], results: queue.SimpleQueue[Result]
) -> Iterator[Completion]:
    """Hand requests to the engines, and yield what these answer, until all are answered and there are no more."""
    unanswered, ended = 0, False
    while unanswered or not ended:
        while not ended and sum(map(len, set(inboxes.values()))) < AHEAD:
            try:
                request = next(source)
            except StopIteration:
                ended = True
                break
            if request is None:
                break
            unanswered += 1
            inboxes[request.role if request.role in inboxes else ""].put(request)
        if not unanswered:
            continue
        try:
            result = results.get(timeout=LOOK)
        except queue.Empty:
            continue
        if result is None:
            return
        if isinstance(result, Taken):
            continue
        if isinstance(result, BaseException):
            raise result
        unanswered -= 1
        yield result
