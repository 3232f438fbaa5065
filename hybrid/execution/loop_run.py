"""Advances the loop of one series on this machine, and keeps its state in the run now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from hybrid.errors import BadData, HybridError
from hybrid.execution.kept_states import KeptStates
from hybrid.execution.loop_state import DoneRound, LoopState
from hybrid.loops import CountingLoop, Loop, NotYet, PublishingLoop, RoundFailed, SharingLoop
from hybrid.machine.signals import deferred_signals
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Tensors

LOG = logging.getLogger("hybrid")
LONGEST = 900.0
"""Seconds between two states that are kept, at most, unless more is asked for."""
SHARE = 0.02
"""Share of the time that keeping states may take."""
BYTES = 500_000
"""Bytes of states a second, on average: so much a home line can upload."""
SHORT = 30.0
"""Seconds of a round after which a signal waits for the end of the next one, so that no such rounds are lost."""


class LoopRun:
    """The loop of a series of `rounds` rounds, whose states are kept in `tensors` under `name`.

    `make` makes the loop. `least` are the seconds between two states that are kept; more pass when they are large, or
    slow to keep, unless it is 0, as it is for a loop that shares something. `tell` is told the text of every round as
    soon as it is computed. `now` is a clock in seconds.
    """

    def __init__(
        self,
        make: Callable[[], Loop],
        tensors: Tensors,
        name: str,
        rounds: int,
        least: float,
        tell: Callable[[str], None] = lambda text: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._tensors, self._name, self._now = make, tensors, name, now
        self._most, self._least, self._tell = rounds, least, tell
        self._states = KeptStates(tensors, name, rounds)
        self._state = LoopState()
        self._loop: Loop | None = None  # one that waits for others
        self._kept = now()
        self._safe = self._told = 0  # rounds in a state that is kept, and those of them that were yielded
        self._pause = least
        self.stays = False
        """Whether the loop, while it waits, is to be gone on with here: not all of its rounds need be safe then."""

    def rounds(self, go_on: Callable[[], bool], *, claimed: bool = False) -> Iterator[tuple[int, DoneRound]]:
        """Number and result of every round from the first, each once a state that contains it is safe.

        The rounds of the newest state come at once. It ends after the round in hand when `go_on` says no; a first
        signal waits for its end, too, where the round before it was short and is not safe yet. Raises RoundFailed and
        NotYet, after the rounds before it; Temporary when a state cannot be kept. After NotYet, call it
        again, or `close`: it then goes on with the rounds that were not yielded yet, unless another worker has taken
        the series meanwhile, which is not looked for where the series was `claimed` all the time.
        """
        loop, raised = self._opened(claimed=claimed), None
        try:
            yield from self._untold()
            while len(self._state.rounds) < self._most and raised is None:
                try:
                    if not self._goes_on(go_on, loop):
                        break
                    with self._deferring() as asked:
                        raised = self._round(loop)
                        if asked():  # what is raised here would be hidden by the signal
                            self._keep_if_possible(loop)
                        elif self._now() - self._kept >= self._pause:
                            self._keep(loop)
                finally:  # of a signal, too: what is safe now is told first
                    yield from self._untold()
            if not (isinstance(raised, NotYet) and self.stays):
                self._keep(loop)
                yield from self._untold()
        finally:
            if isinstance(raised, NotYet):
                self._loop = loop
            else:
                loop.close()
        if raised:
            raise raised

    def _goes_on(self, go_on: Callable[[], bool], loop: Loop) -> bool:
        """What `go_on` says. No round is in hand: a signal meanwhile loses none, nor does a folder that is away."""
        try:
            return go_on()
        except (KeyboardInterrupt, HybridError):
            self._keep_if_possible(loop)
            raise

    def _deferring(self) -> AbstractContextManager[Callable[[], bool]]:
        """What a round is computed in: it is not cut by a first signal where short rounds before it would be lost."""
        unsafe = self._state.rounds[self._safe :]
        short = unsafe and unsafe[-1].seconds <= SHORT
        return deferred_signals(self._tell_what_waits) if short else nullcontext(lambda: False)

    def _tell_what_waits(self) -> None:
        if lost := len(self._state.rounds) - self._safe:
            LOG.warning(
                "the round in hand ends first, and its state is kept; one more signal ends it at once, and the rounds "
                "since the last state are lost: %d",
                lost,
            )

    def close(self) -> None:
        """Close a loop that waits, after its state was kept, if that can be."""
        if self._loop is None:
            return
        try:
            self._keep_if_possible(self._loop)
        finally:
            self._loop.close()
            self._loop = None

    def _opened(self, *, claimed: bool) -> Loop:
        """The loop that waits, unless another worker has gone on with its series; else one of the newest state."""
        loop, self._loop = self._loop, None
        if loop is not None:
            if claimed or next(self._states.newest_first(len(self._state.rounds)), None) is None:
                return loop
            loop.close()
        self._state, self._told = LoopState(), 0
        loop = self._resumed()
        self._safe = len(self._state.rounds)
        self.stays = isinstance(loop, PublishingLoop) and not isinstance(loop, SharingLoop)
        if isinstance(loop, SharingLoop):  # what is shared must not be newer than every state
            self._least = self._pause = 0.0
        return loop

    def _resumed(self) -> Loop:
        """The loop, gone on from the newest state that it accepts."""
        loop = self._make()
        for version, state in self._states.newest_first():
            try:
                loop.load(state.data)
                _refuse_other_rounds(loop, len(state.rounds))
            except BadData as error:
                self._states.refuse(version, error)
                loop.close()
                loop = self._make()
            else:
                self._state = state
                LOG.info("going on after round %d of %d", len(state.rounds), self._most)
                break
        return loop

    def _untold(self) -> Iterator[tuple[int, DoneRound]]:
        """The rounds that are safe and were not yielded yet."""
        while self._told < self._safe:
            number, self._told = self._told, self._told + 1
            yield number, self._state.rounds[number]

    def _round(self, loop: Loop) -> RoundFailed | NotYet | None:
        began = self._now()
        try:
            made = loop.round(len(self._state.rounds))
            text = made.to_text()
        except (RoundFailed, NotYet) as error:
            return error
        costs = {name: dict(values) for name, values in made.costs.items()}
        self._state.rounds.append(DoneRound(text, self._now() - began, costs))
        self._tell(text)
        return None

    def _keep_if_possible(self, loop: Loop) -> None:
        try:
            self._keep(loop)
        except HybridError as error:
            lost = len(self._state.rounds) - self._safe
            LOG.warning("the last %d rounds of a loop are lost: %s", lost, clean_line(error.message, 500))

    def _keep(self, loop: Loop) -> None:
        """Keep the state, unless that of the last round is kept. A signal waits until it is."""
        if (count := len(self._state.rounds)) <= self._safe:
            return
        with deferred_signals():
            began = self._now()
            self._state.data = loop.state()
            packed = self._state.pack()
            self._state.data = b""
            self._tensors.keep(self._name, count, packed)
            self._kept, self._safe = self._now(), count
            if self._least:
                cost = min(LONGEST, max((self._kept - began) / SHARE, len(packed) / BYTES))
                self._pause = max(self._least, cost)


def _refuse_other_rounds(loop: Loop, rounds: int) -> None:
    """Raise BadData for a loop that counts other rounds in the state that it has loaded."""
    done = loop.rounds_done if isinstance(loop, CountingLoop) else None
    if done is not None and done != rounds:
        raise BadData(f"it holds {rounds:,} rounds, and the loop has done {done:,}")
