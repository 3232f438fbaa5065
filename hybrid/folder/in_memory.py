"""A folder in memory: holds the files of a run that is checked before it is written to a real folder."""

from __future__ import annotations

from hybrid.errors import BadData
from hybrid.folder.medium import Entry, NotThere


class InMemoryFolder:
    """A Medium that keeps its files in memory."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def __str__(self) -> str:
        return "a draft"

    def entries(self, place: str) -> list[Entry]:
        begin = f"{place}/"
        below = (path.removeprefix(begin).partition("/") for path in self._files if path.startswith(begin))
        kinds = {name: bool(slash) for name, slash, _ in below}
        return [Entry(name, "folder" if holds else "file") for name, holds in kinds.items()]

    def read(self, path: str, limit: int) -> bytes:
        if path not in self._files:
            raise NotThere(f"{path}: no such file in a draft")
        if len(self._files[path]) > limit:
            raise BadData(f"{path}: larger than the {limit:,} bytes allowed")
        return self._files[path]

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        self._files[path] = data
