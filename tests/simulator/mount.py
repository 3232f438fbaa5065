"""The shared folder as a process sees it through its mount: a Medium whose every call may fail or lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid.errors import BadData, Temporary
from hybrid.folder.medium import Entry, NotThere
from tests.simulator.disk import Files
from tests.simulator.tree import Node

if TYPE_CHECKING:
    from tests.simulator.actor import Process

BIG = 500
"""So many names in one place can always be listed."""


class Folder:
    """The Medium of one process."""

    def __init__(self, process: Process) -> None:
        self._process, self._actor = process, process.actor
        self._world, self._view = process.actor.world, process.actor.view

    def __str__(self) -> str:
        return f"{self._actor.name}'s folder"

    def entries(self, place: str) -> list[Entry]:
        return self._process.call("entries", place, lambda _: self._entries(place))

    def read(self, path: str, limit: int) -> bytes:
        return self._process.call("read", path, lambda _: self._read(path, limit))

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        self._process.call("write", path, lambda share: self._write(path, data, share, heal))

    def _entries(self, place: str) -> list[Entry]:
        instead, view = self._instead(), self._view
        if instead:
            return instead.entries(place)
        found = view.find(place)
        if found and all(view.tree[one].kind != "folder" for one in found):
            raise BadData(f"{place}: Not a directory")
        folders = view.one_of_a_name(found)
        nodes = [view.tree[one] for folder in folders for one in view.tree.inside(folder)]
        if len(nodes) > BIG and self._world.hit("F15"):
            self._hang(f"{place}: listing it timed out")
        if self._world.hit("F4"):
            nodes = self._wrong(nodes, folders)
        return [Entry(node.name, node.kind) for node in self._world.shuffled(nodes)]

    def _wrong(self, nodes: list[Node], folders: list[int]) -> list[Node]:
        """A stale listing: names are missing, all or some, and deleted ones are still there."""
        kept = self._world.pick((0.0, 0.5, 1.0))
        ghosts = [node for node in self._view.ghosts.values() if node.parent in folders]
        return [node for node in nodes if self._world.rng.random() < kept] + ghosts[
            : self._world.pick((0, len(ghosts)))
        ]

    def _read(self, path: str, limit: int) -> bytes:
        instead, view = self._instead(), self._view
        if instead:
            return instead.read(path, limit)
        found = view.find(path)
        if not found or self._world.hit("F4"):
            raise NotThere(f"{path}: no such file, or not yet")
        number = self._world.pick(found)
        if view.tree[number].kind != "file":
            raise BadData(f"{path}: not a regular file")
        if view.away.get(number, 0.0) > self._world.time:
            self._hang(f"{path}: a placeholder whose content cannot be fetched")
        data = self._perhaps_stale(number)
        if len(data) > limit:
            raise BadData(f"{path}: larger than the {limit:,} bytes allowed")
        return data

    def _perhaps_stale(self, number: int) -> bytes:
        past = self._world.cloud.past.get(number)
        if past and self._world.hit("F5"):
            return self._world.pick(past)
        return self._view.content(number)

    def _write(self, path: str, data: bytes, share: float, heal: bool) -> None:
        self._actor.needs_room(path)
        instead = self._instead()
        if instead:
            instead.write(path, data, share, heal=heal)
            return
        self._quota(path)
        self._view.write(path, data, share, heal=heal)
        if self._world.hit("F25"):
            raise Temporary(f"{path}: no reply to the write")

    def _quota(self, path: str) -> None:
        """A full quota is told to one half of the writers; the other files stay where they are and nobody says so."""
        world = self._world
        if world.hit("F14") and world.time >= world.quota_until:
            world.quota_until = world.time + world.long(60, 36_000)
        if world.time < world.quota_until and world.rng.random() < 0.5:
            raise Temporary(f"{path}: the storage quota is used up")

    def _instead(self) -> Files | None:
        """What the path shows in place of the folder, None when the mount works. Raises Temporary when it is dead."""
        if self._view.mode == "up":
            self._strike()
        if self._view.mode == "away":
            raise Temporary(f"{self}: Transport endpoint is not connected")
        return self._view.local.get(self._view.mode)

    def _strike(self) -> None:
        """The moment at which a mount may stop working."""
        world, view = self._world, self._view
        if world.hit("F12"):
            self._break(world.pick(("io", "hang", "away", "void")))
        elif world.hit("F21"):
            view.fail("away", world.long(3600, 86_400))
        elif world.hit("F22"):
            view.local["foreign"] = self._foreign()
            view.fail("foreign", world.long(60, 36_000))

    def _break(self, how: str) -> None:
        if how == "io":
            raise Temporary(f"{self}: Input/output error")
        if how == "hang":
            self._hang(f"{self}: the mount did not answer")
        self._view.fail("away" if how == "away" else "void", self._world.long(60, 36_000))

    def _hang(self, message: str) -> None:
        """Time passes until the caller gives up."""
        self._world.wait(30 + 90 * self._world.rng.random())
        raise Temporary(message)

    def _foreign(self) -> Files:
        """A folder of another account: perhaps of the same format, with another run in it."""
        files, tree = Files(), self._world.cloud.tree
        if self._world.rng.random() < 0.5:
            files.held = {tree[one].name: tree[one].data for one in tree.inside(0) if tree[one].kind == "file"}
        files.held["runs/foreign-0123456789ab/run.json"] = b'{"format":"hybrid/run","version":1}'
        return files
