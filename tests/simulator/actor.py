"""A machine: its process, the folder and disk that the process uses, and its clock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from hybrid.errors import HybridError
from tests.simulator.disk import Files, LocalDisk, no_room
from tests.simulator.mount import Folder
from tests.simulator.view import View

if TYPE_CHECKING:
    from tests.simulator.world import World

T = TypeVar("T")

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Killed(BaseException):
    """The process is dead. No `except Exception` may keep it going."""


class Process:
    """One life of a program: every call of its folder and disk comes through here, and one of them may be the last."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.alive = True
        self.left: int | None = None  # calls until its death
        self.with_vm = False

    def call(self, what: str, path: str, act: Callable[[float], T]) -> T:
        """Do it, with the share of it that is done: less than 1 when the process dies within."""
        try:
            result = self._do(act)
        except (HybridError, Killed) as error:
            self._note(what, path, type(error).__name__)
            raise
        self._note(what, path, *(result if isinstance(result, list) else [result]))
        return result

    def _note(self, what: str, path: str, *details: object) -> None:
        self.actor.world.note(self.actor.name, what, path, *details)

    def _do(self, act: Callable[[float], T]) -> T:
        if not self.alive:
            raise Killed
        if self.actor.view.frozen:
            raise RuntimeError(f"{self.actor.name} is frozen: the test may not use it before it is thawed")
        if self.left is None or self.left > 0:
            self.left = self.left and self.left - 1
            return act(1.0)
        with suppress(HybridError):
            if self.actor.world.rng.random() < 0.75:  # else it dies before it has begun
                act(self.actor.world.rng.random())
        (self.actor.die if self.with_vm else self.actor.crash_process)()
        raise Killed


class SimClock:
    """Seconds that also count while the machine is frozen, and a time of day that may be anything."""

    def __init__(self, actor: Actor) -> None:
        self._actor, self._ahead = actor, actor.world.rng.random() * 1e6

    def now(self) -> float:
        if self._actor.world.hit("F17"):
            self._ahead += 3600 * self._actor.world.rng.random()
        return self._actor.world.time + self._ahead

    def stamp(self) -> str:
        world = self._actor.world
        wall = START + timedelta(seconds=world.time + world.wall_error(self._actor.name))
        return f"{wall:%Y-%m-%dT%H:%M:%SZ}"


class Actor:
    """A laptop or a rented machine. `folder`, `disk` and `clock` belong to the process that runs now."""

    folder: Folder
    disk: LocalDisk
    clock: SimClock

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.view = View(world, name)
        self.files = Files()
        self._full_until = 0.0
        self.start()

    @property
    def dead(self) -> bool:
        return self.view.dead

    def start(self) -> None:
        """Start a new process: what the old one held in memory is gone, its disk and mount are there."""
        if self.dead:
            raise RuntimeError(f"{self.name} is dead: start another machine")
        self.process = Process(self)
        self.folder, self.disk, self.clock = Folder(self.process), LocalDisk(self.process), SimClock(self)
        self.world.note(self.name, "start")

    def crash_process(self) -> None:
        """SIGKILL. The mount is a program of its own and goes on uploading."""
        self.process.alive = False
        self.world.note(self.name, "crash")

    def die(self) -> None:
        """The machine is gone, its disk too, and of what was not uploaded any part."""
        self.crash_process()
        self.files = Files()
        self.view.die()

    def kill_after(self, calls: int, *, vm: bool = False) -> None:
        """After so many more calls of folder and disk the process, or with `vm` the machine, dies within the next."""
        self.process.left, self.process.with_vm = calls, vm

    def freeze(self) -> None:
        """A laptop asleep, a VM that stands still: no process, no sync; time passes."""
        self.view.frozen = True
        self.world.note(self.name, "freeze")

    def thaw(self) -> None:
        self.view.frozen = False
        self.world.note(self.name, "thaw")
        self.view.catch_up()

    def needs_room(self, path: str) -> None:
        """Raise Temporary when the local disk is full."""
        if self.world.hit("F13"):
            self._full_until = self.world.time + self.world.long(10, 7200)
        if self.world.time < self._full_until:
            raise no_room(path)

    def pending(self) -> list[str]:
        """The paths of the files that were written into the folder and are not uploaded."""
        tree = self.view.tree
        return [tree.path(one) or "" for one in self.view.pending if tree[one].kind == "file"]

    def calm(self) -> None:
        self._full_until = 0.0
        if not self.dead:
            self.view.calm()
