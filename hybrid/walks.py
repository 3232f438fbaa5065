"""Walks: generators whose next questions depend on earlier answers, and how they are resumed: by replaying them.

A walk has no saved state. It is sent the outputs that there are, in the order in which it asked for them, and so comes
to where it was; the items that have no output yet are its frontier, which is what is left to do.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from hybrid.canonical import encode
from hybrid.records import Item, Output

Walk = Generator["Sequence[Item] | Together", Any, Any]
"""It yields a batch of items and is sent their outputs, a list in the items' order; or it yields `Together` and is sent
what its walks returned. What it does depends on its arguments and on what it is sent, and on nothing else.
"""

MOST_QUIET_STEPS = 1000
"""Steps that a walk may make one after another without asking anything new."""


HISTORY = 16
"""Hex digits of a history that are kept with a record."""


class EndlessWalk(RuntimeError):
    """A walk goes on for ever without asking anything new."""


@dataclass(frozen=True, slots=True)
class Together:
    """Walks that advance at the same time, each on its own outputs. Who yields it is sent what they returned, in order.

    They share nothing that changes: which of them goes on first depends on what is answered first. What the first ones
    wait for is asked first, so those that the most depends on stand there.
    """

    walks: Sequence[Walk]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a walk returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class Frontier:
    """The items that a walk waits for, each once, in the order in which it asked for them."""

    items: tuple[Item, ...]


class Strand:
    """One generator of a walk: that of the task, or one of a `Together`. It waits for outputs or for other strands."""

    __slots__ = ("ended", "history", "keys", "order", "parent", "path", "place", "quiet", "unknown", "walk")

    def __init__(self, walk: Walk, path: str, history: bytes, parent: Strand | None = None, place: int = 0) -> None:
        if not isinstance(walk, Generator):
            raise TypeError(f"a walk is a generator, a function with `yield`, not a {type(walk).__name__}")
        self.walk, self.path, self.parent, self.place = walk, path, parent, place
        self.order: tuple[int, ...] = (*parent.order, place) if parent else ()  # its places, from the walk's own on
        self.history = history  # digest of all that it was sent
        self.keys: list[bytes] = []  # the items of its last batch
        self.ended: list[tuple[bytes, Any]] = []  # history and value of each strand that it began last
        self.unknown = 0  # how many items or strands it waits for
        self.quiet = 0  # steps since it asked something new


class Replay:
    """Walks, as far as the outputs of their items are known.

    `key_of` names an item: what has the same key is asked once. `known` gives the output of a key, or None; when there
    is a new one, `tell` says so. In which order outputs become known makes no difference to what the walks ask. The
    histories begin with `seed`.
    """

    def __init__(
        self, key_of: Callable[[Item], bytes], known: Callable[[bytes], Output | None], seed: str = ""
    ) -> None:
        self._key_of, self._known, self._seed = key_of, known, seed.encode()
        self.items: dict[bytes, Item] = {}
        """Every item that was asked for, by key."""
        self.asked_by: dict[bytes, tuple[str, str, int]] = {}
        """By key: the path of the first strand that asked for an item, its history, the item's place in the batch."""
        self.order: dict[bytes, tuple[int, ...]] = {}
        """By key: in which order items are to be answered, equal ones in that of `items`: the place of the strand."""
        self.arrived = deque[bytes]()
        """The items that have come to the frontier; who takes from it sees each once."""
        self.asked_at: dict[str, Collection[bytes]] = {}
        """By history: what a strand asked for then."""
        self.values: dict[str, Any] = {}
        """What the walks that have ended returned, by name."""
        self._waiting: dict[bytes, list[Strand]] = {}

    @property
    def frontier(self) -> Collection[bytes]:
        """The keys of the items without an output, in the order in which they were asked for."""
        return self._waiting.keys()

    def start(self, name: str, walk: Walk) -> None:
        """Advance one more walk as far as the known outputs carry it. Raises what the walk raises."""
        self._advance(Strand(walk, name, _extended(self._seed, name.encode())), None)

    def tell(self, key: bytes) -> None:
        """The output of an item has become known. Raises what a walk raises that goes on with it."""
        for strand in self._waiting.pop(key, ()):
            strand.unknown -= 1
            if not strand.unknown:
                self._advance(strand, self._outputs(strand))

    def _advance(self, strand: Strand, sent: Any) -> None:
        ready = deque([(strand, sent)])
        while ready:
            one, value = ready.popleft()
            try:
                made = one.walk.send(value)
            except StopIteration as end:
                ready += self._ended(one, end.value)
            else:
                ready += self._asked(one, made)

    def _ended(self, strand: Strand, value: Any) -> Iterator[tuple[Strand, Any]]:
        parent = strand.parent
        if parent is None:
            self.values[strand.path] = value
            return
        parent.ended[strand.place] = strand.history, value
        parent.unknown -= 1
        if not parent.unknown:
            parent.history = _extended(parent.history, *(history for history, _ in parent.ended))
            yield parent, [one for _, one in parent.ended]

    def _asked(self, strand: Strand, made: Any) -> Iterator[tuple[Strand, Any]]:
        strand.quiet += 1
        if strand.quiet > MOST_QUIET_STEPS:
            _refuse(strand, EndlessWalk(f"{MOST_QUIET_STEPS:,} steps, one after another, asked nothing new"))
        if isinstance(made, Together):
            yield from _begun(strand, made.walks)
        elif isinstance(made, Sequence) and all(isinstance(item, Item) for item in made):
            self._wait(strand, made)
            if not strand.unknown:
                yield strand, self._outputs(strand)
        else:
            _refuse(strand, TypeError(f"a walk yields a list of Items, or Together, not {made!r:.100}"))

    def _wait(self, strand: Strand, batch: Sequence[Item]) -> None:
        """Let a strand wait for the items of its batch that have no output yet."""
        strand.keys = [self._key_of(item) for item in batch]
        history = strand.history.hex()[:HISTORY]
        self.asked_at[history] = frozenset(strand.keys)
        for place, (key, item) in enumerate(zip(strand.keys, batch, strict=True)):
            if key not in self.items:
                self.items[key], self.asked_by[key], strand.quiet = item, (strand.path, history, place), 0
                self.order[key] = strand.order
        for key in dict.fromkeys(strand.keys):
            if self._known(key) is None:
                if key not in self._waiting:
                    self.arrived.append(key)
                self._waiting.setdefault(key, []).append(strand)
                strand.unknown += 1

    def _outputs(self, strand: Strand) -> list[Output]:
        """The outputs of a strand's batch, which are then part of its history."""
        found = [output for key in strand.keys if (output := self._known(key)) is not None]
        strand.history = _extended(strand.history, *map(_content, found))
        return found


def walked(replay: Replay, answer: Callable[[bytes, Item], Output], outputs: dict[bytes, Output], most: int) -> None:
    """Answer what the walks wait for, in the order in which they asked, until they have ended or `most` are answered.

    `outputs` is where the replay finds what is known. For tests, and for whoever has no model to wait for.
    """
    while replay.frontier and len(outputs) < most:
        key = next(iter(replay.frontier))
        outputs[key] = answer(key, replay.items[key])
        replay.tell(key)


def replayed(walk: Walk, known: Callable[[Item], Output | None]) -> Finished | Frontier:
    """Where a walk is with the outputs that `known` has: at its end, or at the items that it waits for.

    Raises what the walk raises, and EndlessWalk.
    """
    named: dict[bytes, Item] = {}

    def key_of(item: Item) -> bytes:
        key = item.digest(item.role, "")
        named[key] = item
        return key

    replay = Replay(key_of, lambda key: known(named[key]))
    replay.start("", walk)
    if replay.values:
        return Finished(replay.values[""])
    return Frontier(tuple(named[key] for key in replay.frontier))


def found_in(outputs: Iterable[Output]) -> Callable[[Item], Output | None]:
    """For `replayed`: the output of an item in the outputs of a stage, by task, question, sample and view.

    Raises ValueError when two outputs agree in all of these.
    """
    found: dict[tuple[str, str, int, bytes], Output] = {}
    for one in outputs:
        place = one.task, one.question, one.sample, encode(one.view)
        if found.setdefault(place, one) is not one:
            raise ValueError(
                f"two items of one search have the question {one.question!r:.200} and the same sample and view"
            )
    return lambda item: found.get((item.task, item.question, item.sample, encode(item.view)))


def _begun(strand: Strand, walks: Sequence[Walk]) -> Iterator[tuple[Strand, Any]]:
    """The strands of a `Together`, ready to begin."""
    strand.unknown, strand.ended = len(walks), [(b"", None)] * len(walks)
    if not walks:
        yield strand, []
    for place, walk in enumerate(walks):
        path = f"{strand.path}.{place}"
        yield Strand(walk, path, _extended(strand.history, path.encode()), strand, place), None


def _extended(history: bytes, *sent: bytes) -> bytes:
    return hashlib.sha256(b"".join((history, *sent))).digest()


def _content(output: Output) -> bytes:
    """A digest of what a walk sees of an output, beside its item."""
    told = output.text, output.error, output.finish, output.tokens, output.logprob, output.seconds, output.thought
    vector = b"" if output.vector is None else array("f", output.vector).tobytes()
    return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass") + vector).digest()


def _refuse(strand: Strand, error: Exception) -> NoReturn:
    """Raise the error where the walk stands, so that it is told with the walk's own line."""
    with suppress(StopIteration):
        strand.walk.throw(error)
    raise error
