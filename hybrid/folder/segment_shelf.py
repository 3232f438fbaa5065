"""Which segments of a stage have arrived, by few listings: of the window in use often, of the others now and then.

Nothing that others wrote makes it raise, or takes more than a bounded time a call: a file that does not verify is told
once and tried again, later and later; a folder that does not answer, or is slow, is asked less often.
"""

from __future__ import annotations

import hashlib
import logging
import math
import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from hybrid.errors import HybridError
from hybrid.folder.medium import Medium, Store, read_each
from hybrid.folder.names import SegmentName
from hybrid.folder.segments import MAX_PACKED, pack_segment, verify_segment, window_place
from hybrid.loops import Segment
from hybrid.machine.terminal import clean_line

LOG = logging.getLogger("hybrid")
OFTEN, SELDOM = 1.0, 30.0
"""Least seconds between two listings of the window in use, and of another window."""
LONGEST_WAIT = 60.0
"""Seconds that a number in use is expected to be waited for, at most, before it is looked for."""
SHARE = 0.2
"""Share of the time that listings may take."""
SOONER = 0.75
"""Share of a wait that is expected next time when the first look found everything: it was there before, perhaps."""
AHEAD = 2
"""Numbers by which others may be ahead, whose window is listed, too."""
AT_FIRST = 8
"""Windows that one look lists for the first time."""
LONGEST_READ = 5.0
"""Seconds of a call after which no further file is read."""
LONGEST_PAUSE = 300.0
"""Seconds until a folder that did not answer is asked again, at most; until a file that did not verify, twice that."""
KEPT = 64 * 1024 * 1024
"""Bytes of segments that are kept in memory, for several readers."""
MOST_TOLD = 20
"""Files that are told one by one."""
MOST_FAULTY, MOST_NAMES = 20_000, 200_000
"""Files that are remembered: those that did not verify, and all."""


@dataclass
class _Listings:
    """When the windows of a medium were listed."""

    medium: Medium
    now: Callable[[], float]
    at: dict[int, float] = field(default_factory=dict)  # window -> when it was listed
    not_before: float = -math.inf
    away_until: float = -math.inf
    pause: float = 2.5

    def due(self, first: int, front: int, last: int, wait: _Wait) -> list[int]:
        """The windows to list now, of those from `first` to `last`; `front` is in use."""
        now = self.now()
        if now < max(self.not_before, self.away_until):
            return []
        found = [front] if now >= wait.next_look(self.at.get(front, -math.inf)) else []
        others = [one for one in range(first, last + 1) if one != front]
        if unseen := list(islice((one for one in others if one not in self.at), AT_FIRST)):
            return found + unseen
        oldest = min(others, key=self.at.__getitem__, default=front)
        return found + ([oldest] if others and now - self.at[oldest] >= SELDOM else [])

    def names(self, place: str, window: int) -> list[str]:
        """The files of a window; none when the medium does not answer, and then it is not asked for a while."""
        began = self.now()
        if began < self.away_until:
            return []
        try:
            names = [one.name for one in self.medium.entries(window_place(place, window)) if one.kind == "file"]
        except HybridError as error:
            self.failed(error, began)
            return []
        self.at[window] = now = self.now()
        self.not_before, self.pause = now + (now - began) * (1 / SHARE - 1), 2.5
        return names

    def failed(self, error: HybridError, began: float) -> None:
        """The medium did not answer a call that began then."""
        self.pause, now = min(2 * self.pause, LONGEST_PAUSE), self.now()
        self.away_until = now + max(self.pause, (now - began) * (1 / SHARE - 1))
        LOG.warning("cannot look for segments: %s", clean_line(error.message, 500))


@dataclass
class _Wait:
    """How long the numbers in use are waited for: a loop looks when it is likely that what it waits for is there."""

    front: int = -1
    began: float = -math.inf  # when the number in use was first looked for
    news: float = -math.inf  # when something of others came last
    looks: int = 0  # since it was first looked for
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=3))  # seconds that the last numbers took

    def goes_on(self, front: int, now: float) -> None:
        """A number is in use now."""
        if front > self.front:
            if self.front >= 0:
                waited = max(0.0, self.news - self.began)
                self.waits.append(min(LONGEST_WAIT, waited if self.looks > 1 else SOONER * waited))
            self.front, self.began, self.looks = front, now, 0

    def next_look(self, last: float) -> float:
        """When to list the window in use again that was listed at `last`."""
        expected = 1.1 * statistics.median(self.waits) if len(self.waits) > 1 else 0.0
        if last < self.began + expected:
            return max(self.began + expected, last + OFTEN) if expected > OFTEN else last + OFTEN
        late = last - self.began - expected
        return last + max(OFTEN, expected / 4, min(SELDOM, late / 2))


class SegmentShelf:
    """The segments at a stage's `place`, with windows of `length` numbers: in `own`, where they are written, and in
    the shared `folder`, unless that is the same. `now` is a clock in seconds.
    """

    def __init__(self, place: str, length: int, own: Store, folder: Medium | None, now: Callable[[], float]) -> None:
        self._place, self._length, self._own, self._folder, self._now = place, length, own, folder, now
        self._listings = [_Listings(own, now), *([_Listings(folder, now)] if folder else [])]
        self._names: dict[str, SegmentName] = {}
        self._mine: set[str] = set()  # those of them on the own disk, as far as is known
        self._kept: OrderedDict[str, Segment] = OrderedDict()  # the last that were used, by path
        self._faulty: dict[str, tuple[int, float]] = {}  # path -> how often it was tried, and when to try it again
        self._wait = _Wait()
        self._watched: tuple[int, int] | None = None  # what was looked for last
        self.listed = 0
        """Listings of the folder so far."""

    def put(self, name: str, number: int, data: bytes) -> Segment:
        """Write a segment. Raises Temporary, CannotRun, BadData."""
        path, packed = pack_segment(self._place, self._length, name, number, data)
        self._own.write(path, packed, heal=True)
        self._names[path] = SegmentName(number, name, path[-20:-4])
        self._mine.add(path)
        segment = Segment(name, number, data, hashlib.sha256(data).hexdigest())
        self._keep(path, segment)
        return segment

    def look(self, since: int, front: int) -> None:
        """List the windows that are due, of the numbers from `since` on; `front` is the number in use."""
        self._watched = since, front
        self._wait.goes_on(front, self._now())
        before = len(self._names)
        first, now, last = (number // self._length for number in (since, front, front + AHEAD))
        for listings in self._listings:
            for window in listings.due(first, now, last, self._wait):
                self._list(listings, window)
        if len(self._names) > before:
            self._wait.news = self._now()

    def news(self) -> bool:
        """Whether a file has come that was not there before, where a loop has looked last."""
        before = len(self._names)
        if self._watched:
            self.look(*self._watched)
        return len(self._names) > before

    def look_once(self, number: int) -> None:
        """List the window of a number where it was never listed."""
        for listings in self._listings:
            window = number // self._length
            if window not in listings.at:
                self._list(listings, window)

    def _list(self, listings: _Listings, window: int) -> None:
        place = window_place(self._place, window)
        if listings is self._listings[-1]:
            self.listed += 1
            self._wait.looks += window == self._wait.front // self._length
        for name in listings.names(self._place, window):
            found = SegmentName.parse(name)
            if found and found.number // self._length == window and len(self._names) < MOST_NAMES:
                self._names.setdefault(path := f"{place}/{name}", found)
                if listings.medium is self._own:
                    self._mine.add(path)

    def names(self) -> Iterator[tuple[str, SegmentName]]:
        """Path and name of every segment that was listed or written here, whole or not."""
        yield from self._names.items()

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, Segment]]:
        """The segments at these paths that are here and whole, in no order; as many as can be read in some seconds."""
        began, absent = self._now(), list[str]()
        for path in paths:
            if self._faulty.get(path, (0, -math.inf))[1] > self._now():
                continue
            if (segment := self._here(path)) is not None:
                yield path, segment
            else:
                absent.append(path)
        yield from self._fetched(absent, began)

    def _here(self, path: str) -> Segment | None:
        """A segment in memory or on the own disk."""
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        if path not in self._mine:
            return None
        try:
            segment = verify_segment(path, self._own.read(path, MAX_PACKED))
        except HybridError as error:
            if self._folder is None:
                self._fault(path, error.message)
            else:
                self._mine.discard(path)
            return None
        self._keep(path, segment)
        return segment

    def _fetched(self, paths: list[str], began: float) -> Iterator[tuple[str, Segment]]:
        """The segments in the folder; those that were tried least come first."""
        listings = self._listings[-1]
        if self._folder is None or not paths or self._now() < listings.away_until:
            return
        paths.sort(key=lambda one: (self._faulty.get(one, (0, 0.0))[0], one))
        for path, data in read_each(self._folder, paths, MAX_PACKED):
            late = self._now() - began > LONGEST_READ
            if isinstance(data, HybridError):
                self._fault(path, data.message)
                if late:
                    listings.failed(data, began)
            elif (segment := self._verified(path, data)) is not None:
                yield path, segment
            if late:
                return

    def _verified(self, path: str, data: bytes) -> Segment | None:
        try:
            segment = verify_segment(path, data)
        except HybridError as error:
            self._fault(path, error.message)
            return None
        self._faulty.pop(path, None)
        self._keep(path, segment)
        return segment

    def _keep(self, path: str, segment: Segment) -> None:
        self._kept[path] = segment
        self._kept.move_to_end(path)
        size = sum(len(one.data) for one in self._kept.values())
        while size > KEPT and len(self._kept) > 1:
            size -= len(self._kept.popitem(last=False)[1].data)

    def _fault(self, path: str, message: str) -> None:
        """Tell a file once, and remember when to try it again."""
        if path not in self._faulty and len(self._faulty) < MOST_TOLD:
            LOG.warning("passed over: %s", clean_line(message, 500))
        elif path not in self._faulty and len(self._faulty) == MOST_TOLD:
            LOG.warning("more segments are passed over; they are not told one by one")
        elif len(self._faulty) >= MOST_FAULTY:
            self._faulty.clear()
        tries = self._faulty.get(path, (0, 0.0))[0] + 1
        self._faulty[path] = tries, self._now() + min(2 * LONGEST_PAUSE, 2.0**tries)
