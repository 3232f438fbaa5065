"""The completed items of a stage, as keys, read from its verified shards as they arrive."""

from __future__ import annotations

from collections.abc import Collection

from hybrid.folder.runs import Run
from hybrid.folder.shards import Shard


class CompletedItems:
    """The keys in the verified shards that one model wrote for a stage. Keys are only added; no shard is read twice."""

    def __init__(self, run: Run, stage: str, model: str) -> None:
        self._run, self._stage, self._model = run, stage, model
        self.known: set[str] = set()  # paths of the shards read so far
        self.good: set[bytes] = set()
        self._failed: dict[str, dict[bytes, str]] = {}  # path -> keys of its failures, and their kinds
        self.refused: list[str] = []  # files passed over by the last `look`, and why

    def look(self) -> None:
        """Read the shards that have arrived since the last call."""
        refused: list[str] = []
        for path, shard in self._run.shards(self._stage, refused, model=self._model, known=self.known):
            self.take(path, shard)
        self.refused = refused

    def take(self, path: str, shard: Shard) -> None:
        """Add the keys of one verified shard."""
        self.known.add(path)
        self.good.update(shard.answered)
        if shard.failed:
            self._failed[path] = dict(shard.failed)

    def failed(self, set_aside: Collection[str] = ()) -> dict[bytes, str]:
        """The items that have failures but no answer, and the kinds; those in the shards `set_aside` do not count."""
        failures = [keys for path, keys in list(self._failed.items()) if path not in set_aside]
        return {key: kind for keys in failures for key, kind in keys.items() if key not in self.good}

    def failed_shards(self) -> set[str]:
        """The shards that hold a failure of an item without an answer."""
        return {path for path, keys in self._failed.items() if not self.good.issuperset(keys)}
