"""Checkpoints that a worker has uploaded and newer ones have replaced: removed, so that no long run fills the folder.

A reader whose listing is old may still look for a replaced one, so the newest two stay. Only the process that uploaded
a checkpoint removes it.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

from hybrid.errors import HybridError
from hybrid.folder.medium import Medium, Removes
from hybrid.folder.names import TensorName

STAY = 2
"""Complete checkpoints of a name that stay."""


class Checkpoints:
    """The parts of the checkpoints that this process has uploaded."""

    def __init__(self) -> None:
        self._parts: defaultdict[str, dict[int, set[str]]] = defaultdict(dict)  # place -> number -> paths

    def uploaded(self, path: str, name: TensorName) -> None:
        """A part is in the folder."""
        place = path.rsplit("/", 2)[0]
        self._parts[place].setdefault(name.number, set()).add(path)

    def remove_outdated(self, folder: Medium) -> None:
        """Remove what newer checkpoints have replaced; what cannot be removed now is tried again next time."""
        if not isinstance(folder, Removes):
            return
        for numbers in self._parts.values():
            whole = sorted(number for number, paths in numbers.items() if _complete(paths))
            oldest = whole[-STAY] if len(whole) >= STAY else 0
            for number in [one for one in numbers if one < oldest]:
                with suppress(HybridError):
                    for path in sorted(numbers[number]):
                        folder.remove(path)
                    del numbers[number]


def _complete(paths: set[str]) -> bool:
    name = TensorName.parse(next(iter(paths)).rpartition("/")[2])
    return name is not None and len(paths) == name.of
