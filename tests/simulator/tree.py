"""Files and folders by number: in Drive a name is only a label, and several may have the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

ROOT = 0

Narrow = Callable[[list[int]], list[int]]


class Node(NamedTuple):
    """A file, a folder, or something else such as a link, as it is at one moment."""

    parent: int
    name: str
    kind: Literal["file", "folder", "other"]
    data: bytes = b""


class Tree(dict[int, Node]):
    """Number -> node, with an index of what is in which folder. A node may be here before its folder is."""

    def __init__(self) -> None:
        super().__init__()
        self._children: dict[int, dict[int, None]] = {}
        self.put(ROOT, Node(-1, "", "folder"))

    def put(self, number: int, node: Node) -> None:
        self.drop(number)
        self[number] = node
        self._children.setdefault(node.parent, {})[number] = None

    def drop(self, number: int) -> None:
        old = self.pop(number, None)
        if old:
            del self._children[old.parent][number]

    def inside(self, folder: int) -> list[int]:
        """What is directly in a folder, in order of arrival: never of names, which may hold a wall clock's time."""
        return list(self._children.get(folder, ()))

    def find(self, path: str, narrow: Narrow = lambda found: found) -> list[int]:
        """All nodes of that path; `narrow` chooses where several folders have one name."""
        found = [ROOT]
        for part in filter(None, path.split("/")):
            found = [one for folder in narrow(found) for one in self.inside(folder) if self[one].name == part]
        return found

    def path(self, number: int) -> str | None:
        """The path of a node, None when a folder above it is missing."""
        parts: list[str] = []
        while number != ROOT:
            if number not in self:
                return None
            parts.append(self[number].name)
            number = self[number].parent
        return "/".join(reversed(parts))

    def below(self, number: int) -> Iterator[int]:
        """A node and everything under it."""
        yield number
        for one in self.inside(number):
            yield from self.below(one)

    def files(self) -> list[tuple[str, bytes]]:
        """Path and content of every file that can be reached."""
        return [(self.path(one) or "", self[one].data) for one in self.below(ROOT) if self[one].kind == "file"]
