"""The records of a stage of rounds: those of one trajectory a series count, as keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import islice

from hybrid.execution.completed import CompletedItems
from hybrid.execution.trajectories import beginning, longest
from hybrid.folder.runs import Run
from hybrid.folder.shards import Shard
from hybrid.loops import Series
from hybrid.protocols import Stage
from hybrid.records import Item, Record


class RoundRecords(CompletedItems):
    """The completed rounds of one model, and the history of each on the trajectory that counts.

    It is looked at by one thread while another adds to it.
    """

    def __init__(
        self, run: Run, stage: Stage, model: str, series: Sequence[Series], keys: Sequence[bytes] | None = None
    ) -> None:
        """`keys` are those of all items of the stage, where they are known already."""
        super().__init__(run, stage.name, model)
        known = iter(keys if keys is not None else (item.digest(stage.identity, model) for item in items_of(series)))
        self.keys = [list(islice(known, one.rounds)) for one in series]
        """The keys of the rounds of each series."""
        self.beginnings = [beginning(stage.identity, model, one.name) for one in series]
        """The history of each series before its first round."""
        self.histories: dict[bytes, str] = {}
        """The history of each round that counts."""
        self._texts: dict[bytes, dict[str, str]] = {}  # key -> history -> text
        self._changing = threading.Lock()

    def look(self) -> None:
        super().look()
        self.choose()

    def take(self, path: str, shard: Shard) -> None:
        self.known.add(path)
        if shard.failed:
            self._failed[path] = dict(shard.failed)
        with self._changing:
            for record in shard.records:
                if record["error"] is None:
                    texts = self._texts.setdefault(bytes.fromhex(record["key"]), {})
                    texts[str(record.get("history", ""))] = record["text"]

    def add(self, record: Record) -> None:
        """Take in a round that was computed here; it counts until the next `look`, which compares trajectories."""
        key, text = bytes.fromhex(record.key), record.completion.text or ""
        with self._changing:
            self._texts.setdefault(key, {})[record.history] = text
            self.histories[key] = record.history
            self.good.add(key)

    def choose(self) -> None:
        """Find the trajectories that count: the longest of each series."""
        with self._changing:
            found: dict[bytes, str] = {}
            for keys, begin in zip(self.keys, self.beginnings, strict=True):
                found.update(zip(keys, longest(begin, [self._texts.get(key, {}) for key in keys]), strict=False))
            self.histories, self.good = found, set(found)

    def forked(self) -> set[bytes]:
        """The rounds with texts of other trajectories alone, and without a failure."""
        return {key for key, texts in self._texts.items() if texts and key not in self.good} - self.failed().keys()


def items_of(series: Sequence[Series]) -> Iterator[Item]:
    """The rounds of all series, in the order of the stage's items."""
    return (item for one in series for item in one.items())
