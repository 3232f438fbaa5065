"""What one machine sees of the cloud: each change after its own delay, its own writes before they are uploaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from hybrid.errors import BadData
from tests.simulator.disk import Files, inside, prefix
from tests.simulator.tree import ROOT, Node, Tree

if TYPE_CHECKING:
    from tests.simulator.world import World

NEVER = 1e15
ERROR_TEXT = b'{"error": {"code": 403, "message": "User Rate Limit Exceeded", "status": "PERMISSION_DENIED"}}'

Mode = Literal["up", "away", "void", "foreign"]


class Lane:
    """One direction of the connection. Without F2 changes arrive in order."""

    def __init__(self, world: World) -> None:
        self._world, self._last, self._slot = world, 0.0, 0.0

    def arrival(self, *, paced: bool = False) -> float:
        """When something that is sent now arrives. `paced`: F16 holds, as for uploads."""
        world = self._world
        wait = world.long(10, 32_400) if world.hit("F3") else 1.0
        if paced and world.hit("F16"):
            self._slot = max(self._slot + 0.5, world.time)
            wait += self._slot - world.time
        if world.hit("F2"):
            return world.time + wait + 60 * world.rng.random()
        self._last = max(self._last, world.time + wait)
        return self._last


class View:
    """The mount's picture of the folder. A machine that cannot sync catches up when it can again."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
        self.tree = Tree()
        self.pending: dict[int, int] = {}  # changed here, not uploaded -> the upload that counts
        self.ghosts: dict[int, Node] = {}  # deleted, and may still be listed
        self.away: dict[int, float] = {}  # placeholders, and until when
        self.frozen = self.dead = False
        self.mode: Mode = "up"
        self.local = {"void": Files(), "foreign": Files()}  # what the path shows instead in these modes
        self._spoiled: dict[int, tuple[float, str, float]] = {}
        self._missed: dict[int, None] = {}
        self._outage = 0
        self._down, self._up = Lane(world), Lane(world)

    @property
    def syncs(self) -> bool:
        return self.mode == "up" and not self.frozen

    def mount(self) -> None:
        """See the folder for the first time."""
        for number in list(self._world.cloud.tree):
            if self._world.hit("F3"):
                self.expect(number)
            else:
                self.refresh(number)

    def expect(self, number: int, late: float = 0.0) -> None:
        """Be told of a change of the cloud, some time."""
        self._world.at(self._down.arrival() + late, partial(self.refresh, number))

    def refresh(self, number: int) -> None:
        """See a node as it is in the cloud now. What was changed here and is not uploaded stays as it is here."""
        if not self.syncs:
            self._missed[number] = None
            return
        old, new = self.tree.get(number), self._world.cloud.tree.get(number)
        if self.dead or number in self.pending or number == ROOT or old == new:
            return
        self._world.note(self.name, "sees", number, new.name if new else None)
        if new is None:
            self._gone(number)
            return
        self.tree.put(number, new)
        self._arrives(number, new)

    def _gone(self, number: int) -> None:
        self.ghosts[number] = self.tree[number]
        self.tree.drop(number)

    def _arrives(self, number: int, node: Node) -> None:
        if node.kind == "file" and self._world.hit("F6"):
            how = self._world.pick(("empty", "cut", "hollow", "error"))
            self._spoiled[number] = (self._world.time + self._world.long(1, 7200), how, self._world.rng.random())
        if node.kind == "file" and self._world.hit("F24"):
            self.away[number] = self._world.time + self._world.long(10, 7200)

    def content(self, number: int) -> bytes:
        """The bytes that a read gets: spoiled until they heal."""
        data = self.tree[number].data
        until, how, share = self._spoiled.get(number, (0.0, "", 0.0))
        if self._world.time >= until:
            return data
        kept = data[: int(share * len(data))]
        return {"empty": b"", "cut": kept, "hollow": kept + bytes(len(data) - len(kept)), "error": ERROR_TEXT}[how]

    def one_of_a_name(self, found: list[int]) -> list[int]:
        """Of two folders of a name a mount looks into one; some show what is in both."""
        folders = [one for one in found if self.tree[one].kind == "folder"]
        return [self._world.pick(folders)] if len(folders) > 1 and self._world.hit("F7") else folders

    def find(self, path: str) -> list[int]:
        return self.tree.find(inside(path), self.one_of_a_name)

    def write(self, path: str, data: bytes, share: float = 1.0, *, heal: bool = False) -> None:
        """As Medium.write, up to a share of the bytes. Seen here at once, uploaded later."""
        parent, _, name = inside(path).rpartition("/")
        known = self.find(path)
        if self._world.hit("F4"):  # not found; what waits here for its upload is always known here
            known = [one for one in known if one in self.pending]
        if any(self.tree[one].kind != "file" for one in known):
            raise BadData(f"{path}: not a file")
        contents = {one: self.content(one) for one in known}
        if data in contents.values():
            return
        if known and not (heal or data.startswith(contents[known[0]])):
            raise BadData(f"{path}: holds other content")
        number = known[0] if known else self._world.number()
        self._spoiled.pop(number, None)
        self._change(number, Node(self._folder(parent), name, "file", prefix(data, share)))

    def _folder(self, place: str) -> int:
        if not place:
            return ROOT
        found = self.find(place)
        known = self.one_of_a_name(found)
        if known:
            return known[0]
        if found:
            raise BadData(f"{place}: Not a directory")
        parent, _, name = place.rpartition("/")
        number, above = self._world.number(), self._folder(parent)
        self._change(number, Node(above, name, "folder"))
        return number

    def _change(self, number: int, node: Node) -> None:
        self.tree.put(number, node)
        self._send(number)

    def _send(self, number: int) -> None:
        self._upload_at(NEVER if self._world.hit("F11") else self._up.arrival(paced=True), number)

    def _upload_at(self, when: float, number: int) -> None:
        self.pending[number] = ticket = self._world.number()
        self._world.at(when, partial(self.upload, number, ticket))

    def upload(self, number: int, ticket: int) -> None:
        """Try to bring a change to the cloud; what cannot go now goes when the machine catches up."""
        if self.pending.get(number) != ticket or not self.syncs:
            return
        if self._world.time < self._world.quota_until:
            self._upload_at(self._world.quota_until, number)
        else:
            self._world.cloud.receive(self, number)

    def merge(self, number: int, twin: int) -> None:
        """Another machine had made the same: from now on both see that one."""
        for child in self.tree.inside(number):
            self.tree.put(child, self.tree[child]._replace(parent=twin))
        self.tree.drop(number)
        self.refresh(twin)

    def forget(self, number: int) -> None:
        """Lose a change that was not uploaded: a new file vanishes, a changed one is as it was."""
        self._world.note(self.name, "lost", number, self.tree[number].name)
        self.tree.drop(number)
        self.pending.pop(number, None)
        self.refresh(number)

    def fail(self, mode: Mode, seconds: float) -> None:
        """The mount stops working for a while."""
        self._outage += 1
        self.mode, self.local["void"] = mode, Files()
        self._world.note(self.name, "mount", mode)
        self._world.at(self._world.time + seconds, partial(self.heal, self._outage))

    def heal(self, outage: int | None = None) -> None:
        """The mount is made anew; what it had not uploaded may be lost with the old one's cache."""
        if outage not in (None, self._outage) or self.mode == "up":
            return
        self.mode = "up"
        self._world.note(self.name, "mount", "up")
        for number in [one for one in self.pending if self._world.hit("F1")]:
            self.forget(number)
        self.catch_up()

    def catch_up(self) -> None:
        """Do what could not be done while nothing was synced."""
        if not self.syncs:
            return
        missed, self._missed = self._missed, {}
        for number in missed:
            self.expect(number)
        for number in list(self.pending):
            self._send(number)

    def calm(self) -> None:
        self._spoiled.clear()
        self.away.clear()
        self._down, self._up = Lane(self._world), Lane(self._world)
        self.heal()
        self.catch_up()

    def die(self) -> None:
        """The machine is gone. Of what it had not uploaded some is on its way, and nobody knows what."""
        world = self._world
        self.dead, self.frozen, self.mode = True, False, "up"
        kept = world.rng.random()
        lost = [one for one in self.pending if world.hit("F1") and world.rng.random() >= kept]
        for number in lost:
            world.note(self.name, "lost", number, self.tree[number].name)
            del self.pending[number]
        for number in list(self.pending):
            self._last_upload(number)

    def _last_upload(self, number: int) -> None:
        world, node = self._world, self.tree[number]
        if node.kind == "file" and world.hit("F6"):
            self.tree.put(number, node._replace(data=prefix(node.data, world.rng.random())))
        late = world.long(60, 86_400) if world.hit("F18") else world.rng.random()
        self._upload_at(world.time + late, number)
