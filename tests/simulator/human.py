"""People who change files in the drive's web page, and a sync program that takes a bad listing for a deletion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulator.tree import ROOT, Node

if TYPE_CHECKING:
    from tests.simulator.world import World


class Human:
    """Changes the cloud at once, whatever machines see. A path stands for all nodes that have it."""

    def __init__(self, world: World) -> None:
        self._world, self._cloud = world, world.cloud
        self._backup: dict[int, Node] = {}

    def delete(self, path: str) -> None:
        for number in self._found(path):
            self._cloud.erase(number)

    def rename(self, path: str, name: str) -> None:
        for number in self._found(path):
            self._place(number, self._cloud.tree[number].parent, name)

    def move(self, path: str, place: str) -> None:
        """Into another folder, which must be there."""
        target = self._found(place)[0]
        for number in self._found(path):
            self._place(number, target, self._cloud.tree[number].name)

    def copy(self, path: str, name: str) -> None:
        """A second one beside the first."""
        for number in self._found(path):
            self._copy(number, self._cloud.tree[number].parent, name)

    def replace(self, path: str, data: bytes) -> None:
        """Another content, as by an editor in the web page."""
        for number in self._found(path):
            self._cloud.put(number, self._cloud.tree[number]._replace(data=data))

    def open_with_docs(self, path: str) -> None:
        """Add an entry that is not a file, as opening with Docs does."""
        for number in self._found(path):
            self._docs(number)

    def meddle(self) -> None:
        """One random action on one random file or folder."""
        number = self._anything()
        if number is None:
            return
        name = self._cloud.tree[number].name
        act = self._world.pick(("delete", "rename", "move", "copy", "docs"))
        self._world.note("human", act, number, name)
        if act == "delete":
            self._cloud.erase(number)
        elif act == "rename":
            self._place(number, self._cloud.tree[number].parent, f"old {name}")
        elif act == "move":
            self._place(number, self._anywhere(number), name)
        elif act == "copy":
            self._copy(number, self._cloud.tree[number].parent, f"Copy of {name}")
        else:
            self._docs(number)

    def mistaken_sync(self) -> None:
        """Files of one folder vanish for everybody."""
        number = self._anything()
        for one in self._cloud.tree.inside(self._cloud.tree[number].parent) if number else []:
            if self._cloud.tree[one].kind == "file" and not self._is_spared(one) and self._world.rng.random() < 0.5:
                self._world.note("sync", "delete", one, self._cloud.tree[one].name)
                self._cloud.erase(one)

    def back_up_or_restore(self) -> None:
        """Back up, or restore the last backup, at random."""
        if self._backup and self._world.rng.random() < 0.5:
            self.restore()
        else:
            self.back_up()

    def back_up(self) -> None:
        """Keep a copy of the folder."""
        self._backup = dict(self._cloud.tree)

    def restore(self) -> None:
        """Put the copy that was kept in the folder's place."""
        tree = self._cloud.tree
        self._world.note("human", "restores", len(self._backup))
        for number in [one for one in tree if one not in self._backup]:
            if number in tree and not self._is_spared(number):
                self._cloud.erase(number)
        for number, node in self._backup.items():
            if tree.get(number) != node:
                self._cloud.put(number, node)

    def _found(self, path: str) -> list[int]:
        found = self._cloud.tree.find(path)
        if not found:
            raise ValueError(f"{path} is not in the cloud")
        self._world.note("human", "takes", path)
        return found

    def _is_spared(self, number: int) -> bool:
        tree = self._cloud.tree
        return any(self._world.spared(tree.path(one) or "") for one in tree.below(number))

    def _anything(self) -> int | None:
        tree = self._cloud.tree
        some = [one for one in tree.below(ROOT) if one != ROOT and not self._is_spared(one)]
        return self._world.pick(some) if some else None

    def _anywhere(self, number: int) -> int:
        """A folder that is not in the node itself."""
        tree = self._cloud.tree
        own = dict.fromkeys(tree.below(number))
        return self._world.pick([one for one in tree.below(ROOT) if tree[one].kind == "folder" and one not in own])

    def _place(self, number: int, parent: int, name: str) -> None:
        """Move a node: one step for the drive; with F9 a creation and a deletion, in random order."""
        if self._world.hit("F9"):
            late = self._world.long(10, 7200)
            first = self._world.rng.random() < 0.5
            self._copy(number, parent, name, late=0.0 if first else late)
            self._cloud.erase(number, late=late if first else 0.0)
        else:
            self._cloud.put(number, self._cloud.tree[number]._replace(parent=parent, name=name))

    def _copy(self, number: int, parent: int, name: str, late: float = 0.0) -> None:
        tree = self._cloud.tree
        new = self._cloud.add(tree[number]._replace(parent=parent, name=name), late=late)
        for one in tree.inside(number):
            self._copy(one, new, tree[one].name, late)

    def _docs(self, number: int) -> None:
        node = self._cloud.tree[number]
        self._cloud.add(node._replace(name=f"{node.name}.gdoc", kind="other", data=b""))
