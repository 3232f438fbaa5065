"""The authoritative content: the nodes that were uploaded, and when each machine learns of a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulator.tree import ROOT, Node, Tree

if TYPE_CHECKING:
    from tests.simulator.view import View
    from tests.simulator.world import World

ODD_NAMES = ("desktop.ini", "Icon\r", ".DS_Store", "back\\slash", "CON", "e\u0301te\u0301.zst", " ", "x\u202ey")


def conflict_name(name: str, manner: int) -> str:
    """The name of a conflict copy as Drive, Syncthing and rclone bisync make it."""
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem, ending = name, ""
    marks = (f"{stem} (1){dot}{ending}", f"{stem}.sync-conflict-20261121-120000-ABCDEFG{dot}{ending}")
    return (*marks, f"{name}.conflict1")[manner]


class Cloud:
    """The authoritative tree. `past` keeps older contents, which a stale read may give."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tree = Tree()
        self.past: dict[int, list[bytes]] = {}

    def put(self, number: int, node: Node, *, by: View | None = None, late: float = 0.0) -> None:
        """Create or change a node and have everybody told, except `by`, `late` seconds later than usual."""
        old = self.tree.get(number)
        if old and old.data != node.data:
            self.past.setdefault(number, []).append(old.data)
        self.tree.put(number, node)
        self._announce(number, by, late)

    def add(self, node: Node, *, late: float = 0.0) -> int:
        """A new node that no machine uploaded."""
        number = self._world.number()
        self.put(number, node, late=late)
        return number

    def erase(self, number: int, *, late: float = 0.0) -> None:
        """Delete a node and everything under it."""
        for one in list(self.tree.below(number)):
            if one != ROOT:
                self.tree.drop(one)
                self._announce(one, None, late)

    def _announce(self, number: int, by: View | None, late: float) -> None:
        for actor in self._world.actors.values():
            if actor.view is not by and not actor.dead:
                actor.view.expect(number, late)

    def receive(self, view: View, number: int) -> None:
        """Take what a machine uploads: the folders above first, as every client does."""
        if not self._has_parent(view, number):
            view.forget(number)
            return
        node = view.tree[number]
        view.pending.pop(number, None)
        self._world.note(view.name, "uploaded", number, node.name, node.data)
        twin = self._twin(number, node)
        if twin is None or self._world.hit("F7"):
            self.put(number, node, by=view)
            self._mischief(number, node)
        else:
            self._merge(view, number, twin)

    def _has_parent(self, view: View, number: int) -> bool:
        parent = view.tree[number].parent
        if parent not in self.tree and parent in view.tree:
            self.receive(view, parent)  # may be merged into another of its name, and its children with it
            parent = view.tree[number].parent
        return parent in self.tree

    def _twin(self, number: int, node: Node) -> int | None:
        if number in self.tree:
            return None
        others = self.tree.inside(node.parent)
        return next((one for one in others if self.tree[one][:3] == node[:3]), None)

    def _merge(self, view: View, number: int, twin: int) -> None:
        """Two made the same: one node, unless the contents differ and become a conflict."""
        node = view.tree[number]
        if node.kind == "file" and node.data != self.tree[twin].data:
            if self._world.hit("F8"):
                self.put(number, node._replace(name=conflict_name(node.name, self._manner())))
                return
            self.put(twin, node, by=view)
        view.merge(number, twin)

    def _mischief(self, number: int, node: Node) -> None:
        """Unintended effects of an upload: duplicates, conflict copies, odd names."""
        if self._world.hit("F7"):
            self.add(node)
        if node.kind == "file" and self._world.hit("F8"):
            self._conflict(number, node)
        if self._world.hit("F20"):
            name = self._world.pick((*ODD_NAMES, node.name.upper(), node.name + " "))
            self.add(node._replace(name=name, kind=self._world.pick(("file", "folder", "other"))))

    def _conflict(self, number: int, node: Node) -> None:
        copy = node._replace(name=conflict_name(node.name, self._manner()))
        how = self._world.rng.random()
        if how < 0.25:  # the original lost: only the copy stays
            self.put(number, copy)
        elif how < 0.5:
            self.add(copy._replace(data=node.data[: len(node.data) // 2]))
        else:
            self.add(copy)

    def _manner(self) -> int:
        return self._world.pick((0, 1, 2))
