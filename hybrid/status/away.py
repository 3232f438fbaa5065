"""A folder that is given up when it keeps failing: a mount that hangs costs a minute or two, not one for each file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hybrid.errors import BadData, HybridError, Temporary
from hybrid.folder.medium import Entry, Medium, NotThere, ReadsSeveral, read_or_error

T = TypeVar("T")
MOST = 3
"""Failures that are taken for those of single files."""


class Away(Temporary):
    """The folder was given up."""


class Fading:
    """A Medium to read from. After a few failures every call fails at once, and `check` tells it."""

    def __init__(self, folder: Medium) -> None:
        self._folder, self._failures = folder, list[Temporary]()

    def __str__(self) -> str:
        return str(self._folder)

    def entries(self, place: str) -> list[Entry]:
        return self._asked(lambda: self._folder.entries(place))

    def read(self, path: str, limit: int) -> bytes:
        return self._asked(lambda: self._folder.read(path, limit))

    def read_several(self, paths: Sequence[str], limit: int) -> list[bytes | HybridError]:
        if not isinstance(self._folder, ReadsSeveral):
            return [read_or_error(self, paths[0], limit)]
        self.check()
        found = self._folder.read_several(paths, limit)
        self._failures += [one for one in found if isinstance(one, Temporary) and not isinstance(one, NotThere)]
        return found

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        raise BadData(f"{path}: whoever only looks writes nothing")

    def check(self) -> None:
        """Raise Away when the folder was given up: what was read of it is not all there is."""
        if len(self._failures) >= MOST:
            raise Away(f"{self} keeps failing: {self._failures[-1].message}", hint=self._failures[-1].hint)

    def _asked(self, call: Callable[[], T]) -> T:
        self.check()
        try:
            return call()
        except NotThere:
            raise
        except Temporary as error:
            self._failures.append(error)
            raise
