"""The states of a series that a run keeps: the newest first, without those that were found to be none."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

from hybrid.errors import BadData
from hybrid.execution.loop_state import LoopState
from hybrid.machine.terminal import clean_line
from hybrid.protocols import KeptTensors, Tensors

LOG = logging.getLogger("hybrid")
MOST_REFUSED = 50
"""States that are none, after which no older one is looked for: each of them may have gigabytes."""
MOST_OF_A_NUMBER = 3
"""The same of one number of rounds, after which those of fewer rounds are looked for."""


class KeptStates:
    """The states of at most `most` rounds in `tensors` under `name`.

    States of more rounds do not count: they would be the newest ones for ever. One that is refused is told once, and is
    not read again.
    """

    def __init__(self, tensors: Tensors, name: str, most: int) -> None:
        self._tensors, self._name, self._most = tensors, name, most
        self._refused: set[tuple[int, str]] = set()

    def newest_first(self, after: int = -1) -> Iterator[tuple[KeptTensors, LoopState]]:
        """The states of more than `after` rounds that can be read, each of which is read when it is its turn."""
        known, bad = len(self._refused), Counter[int]()
        for version in self._tensors.versions(self._name, after, self._most + 1):
            if bad[version.number] >= MOST_OF_A_NUMBER:
                continue
            before = len(self._refused)
            if state := self._read(version):
                yield version, state
            bad[version.number] += len(self._refused) - before
            if len(self._refused) - known >= MOST_REFUSED:
                LOG.warning("%d states of the loop were passed over: no older one is looked for", MOST_REFUSED)
                return

    def refuse(self, version: KeptTensors, error: BadData) -> None:
        """Pass over this version from now on: whoever was to go on from it has raised `error`."""
        self._refused.add((version.number, version.sha32))
        words = clean_line(error.message, 500)
        LOG.warning("the state after round %d of the loop is passed over: %s", version.number, words)

    def _read(self, version: KeptTensors) -> LoopState | None:
        if (version.number, version.sha32) in self._refused or (data := version.read()) is None:
            return None
        try:
            state = LoopState.read(data, self._most)
            if len(state.rounds) != version.number:
                raise BadData(f"the state of a loop: has {len(state.rounds)} rounds")
        except BadData as error:
            self.refuse(version, error)
            return None
        return state
