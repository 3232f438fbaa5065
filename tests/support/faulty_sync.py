"""A faulty sync program between real folders: files arrive late, torn, empty, twice, or out of order.

Every path has one writer, the side where it was first seen. The writer's content is uploaded to a cloud, and from there
copied to all other sides, and back to the writer when its folder has lost it. Any transfer may fail, but each file that
was uploaded arrives in the end. Tensors, of which nobody writes a second copy, are not damaged once they have arrived.
The seed determines the faults, not the times at which processes write.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.simulator.cloud import conflict_name

Mark = tuple[int, int]
"""Size, and when it was changed in nanoseconds."""


class FaultySync:
    """Carries between the folders of `sides`, by name. `fault_rate` is the probability of a fault per transfer."""

    def __init__(self, sides: dict[str, Path], seed: int, fault_rate: float = 0.4) -> None:
        self.sides, self.fault_rate, self.counts = sides, fault_rate, dict[str, int]()
        self._random = random.Random(seed)
        self._cloud: dict[str, bytes] = {}
        self._writer: dict[str, str] = {}
        self._marks: dict[tuple[str, str], Mark] = {}  # side and path -> of what was last carried whole
        self._waits: dict[tuple[str, str], int] = {}  # -> how many rounds it is left alone
        self._damaged: set[tuple[str, str]] = set()
        self._turn = threading.RLock()

    @contextmanager
    def running(self, pause: float = 0.25) -> Iterator[None]:
        """Rounds in the background."""
        stop, faults = threading.Event(), list[BaseException]()

        def rounds() -> None:
            while not stop.wait(pause):
                try:
                    self.round()
                except BaseException as error:  # noqa: BLE001 - told at the end
                    faults.append(error)
                    return

        thread = threading.Thread(target=rounds, name="carrier", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=240)
        assert not faults, faults

    def round(self) -> None:
        """Look at every side once, and transfer what has changed, in random order."""
        with self._turn:
            here = {side: marks(folder) for side, folder in self.sides.items()}
            work = [(side, path) for side, found in here.items() for path in found if self._is_writer(side, path)]
            for side, path in self._shuffled(work):
                self._upload(side, path, here[side][path])
            wanted = [(side, path) for side in self.sides for path in self._cloud]
            for side, path in self._shuffled(wanted):
                self._download(side, path, here[side].get(path))

    def settle(self) -> None:
        """Transfer everything without faults."""
        with self._turn:
            before, self.fault_rate = self.fault_rate, 0.0
            self._waits.clear()
            self.round()
            self.round()
            self.fault_rate = before

    def lose(self, side: str) -> None:
        """Remove a side; what it had not uploaded is lost."""
        with self._turn:
            del self.sides[side]
            for path in [path for path, writer in self._writer.items() if writer == side and path not in self._cloud]:
                del self._writer[path]

    def join(self, side: str, folder: Path) -> None:
        """Add a side, to which everything in the cloud is copied."""
        with self._turn:
            self.sides[side] = folder

    def copy(self, side: str) -> dict[str, bytes]:
        """What a side holds now."""
        with self._turn:
            return {path: read(self.sides[side] / path) or b"" for path in marks(self.sides[side])}

    def restore(self, side: str, older: dict[str, bytes]) -> None:
        """Restore a side's folder to an older state: later files are gone until they are transferred again."""
        with self._turn:
            self._count("restored")
            for path in marks(self.sides[side]).keys() - older.keys():
                (self.sides[side] / path).unlink(missing_ok=True)
                self._marks.pop((side, path), None)
            for path, data in older.items():
                put(self.sides[side] / path, data)
                self._marks.pop((side, path), None)

    def _is_writer(self, side: str, path: str) -> bool:
        return self._writer.setdefault(path, side) == side and (side, path) not in self._damaged

    def _upload(self, side: str, path: str, mark: Mark) -> None:
        if self._marks.get((side, path)) == mark or self._held_back(side, path):
            return
        data = read(self.sides[side] / path)
        if data is None:
            return
        torn = self._hit()
        self._cloud[path] = self._torn(data) if torn else data
        for other in self.sides:
            self._marks.pop((other, path), None)
        if not torn:
            self._marks[side, path] = mark

    def _download(self, side: str, path: str, mark: Mark | None) -> None:
        place, data = self.sides[side] / path, self._cloud[path]
        own = self._writer.get(path) == side and (side, path) not in self._damaged
        if own and mark is not None:
            if self._hit(0.01) and self._marks.get((side, path)) == mark:
                self._count("a torn copy over the writer's own")
                put(place, self._torn(data))
                self._damaged.add((side, path))
                self._waits[side, path] = 4
            return
        if mark is not None and self._marks.get((side, path)) == mark and ("/tensors/" in path or not self._hit(0.02)):
            if "/tensors/" not in path and self._hit(0.005):
                self._count("vanished")
                place.unlink(missing_ok=True)
            return
        if self._held_back(side, path):
            return
        if self._hit():
            put(place, self._torn(data))
            if self._hit():
                put(place.with_name(conflict_name(place.name, self._random.randrange(3))), self._torn(data))
            return
        put(place, data)
        self._damaged.discard((side, path))
        with suppress(FileNotFoundError):
            self._marks[side, path] = mark_of(place)

    def _held_back(self, side: str, path: str) -> bool:
        """Whether this change is late; it is then left alone for some rounds."""
        left = self._waits.get((side, path))
        if left is None and self._hit():
            self._count("late")
            left = self._random.randrange(1, 12)
        if left:
            self._waits[side, path] = left - 1
            return True
        self._waits.pop((side, path), None)
        return False

    def _torn(self, data: bytes) -> bytes:
        how = self._random.choice(["cut", "cut", "empty", "zeros", "error"])
        self._count(how)
        cut = data[: self._random.randrange(len(data) or 1)]
        zeros = cut + bytes(len(data) - len(cut))
        return {"cut": cut, "empty": b"", "zeros": zeros}.get(how, b"<html>503 Service Unavailable</html>")

    def _hit(self, share: float = 1.0) -> bool:
        return self._random.random() < self.fault_rate * share

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _shuffled(self, some: list[tuple[str, str]]) -> list[tuple[str, str]]:
        self._random.shuffle(some)
        return some


def marks(folder: Path) -> dict[str, Mark]:
    """The files of the protocol that are there, without a machine's own files and conflict copies."""
    found: dict[str, Mark] = {}
    for path in [folder / "hybrid.json", *folder.glob("runs/**/*")]:
        with suppress(OSError):
            if path.is_file() and not any(odd in path.name for odd in (" (", ".sync-conflict", ".conflict")):
                found[path.relative_to(folder).as_posix()] = mark_of(path)
    return found


def mark_of(path: Path) -> Mark:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def read(path: Path) -> bytes | None:
    with suppress(OSError):
        return path.read_bytes()
    return None


def put(path: Path, data: bytes) -> None:
    """Write as sync programs without a rename do: the content before is gone at once."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
