"""A circuit breaker around a folder: a mount that hangs costs a minute or two in all, not for every file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hybrid.errors import BadData, HybridError, Temporary
from hybrid.folder.medium import Entry, Medium, NotThere, ReadsSeveral, read_or_error

T = TypeVar("T")
MAX_FAILURES = 3
"""Failures that are attributed to single files; at this number the folder counts as unavailable."""


class FolderUnavailable(Temporary):
    """The circuit is open: the folder failed too often to be read on."""


class CircuitBreaker:
    """A read-only Medium. After MAX_FAILURES failures every call fails at once with FolderUnavailable."""

    def __init__(self, folder: Medium) -> None:
        self._folder, self._failures = folder, list[Temporary]()

    def __str__(self) -> str:
        return str(self._folder)

    def entries(self, place: str) -> list[Entry]:
        return self._call(lambda: self._folder.entries(place))

    def read(self, path: str, limit: int) -> bytes:
        return self._call(lambda: self._folder.read(path, limit))

    def read_several(self, paths: Sequence[str], limit: int) -> list[bytes | HybridError]:
        if not isinstance(self._folder, ReadsSeveral):
            return [read_or_error(self, paths[0], limit)]
        self.check()
        results = self._folder.read_several(paths, limit)
        self._failures += [one for one in results if isinstance(one, Temporary) and not isinstance(one, NotThere)]
        return results

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        raise BadData(f"{path}: the status of runs is read-only")

    def check(self) -> None:
        """Raise FolderUnavailable when the circuit is open: what was read is then not all that the folder has."""
        if len(self._failures) >= MAX_FAILURES:
            last = self._failures[-1]
            raise FolderUnavailable(f"{self} keeps failing: {last.message}", hint=last.hint)

    def _call(self, call: Callable[[], T]) -> T:
        self.check()
        try:
            return call()
        except NotThere:
            raise
        except Temporary as error:
            self._failures.append(error)
            raise
