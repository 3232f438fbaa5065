"""Segments: what verifies and what does not, how many listings a look takes, and hostile neighbours."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from hybrid.errors import BadData, HybridError, Temporary
from hybrid.execution.publications import StagePublications
from hybrid.folder.in_memory import InMemoryFolder
from hybrid.folder.medium import Disk, Entry, Medium
from hybrid.folder.names import SegmentName
from hybrid.folder.notes import pack_note
from hybrid.folder.runs import join_folder, submit
from hybrid.folder.segment_shelf import MOST_TOLD, SegmentShelf
from hybrid.folder.segments import (
    MAX_PACKED,
    MAX_SEGMENT,
    name_of,
    pack_segment,
    stage_place,
    verify_segment,
    window_length,
)
from hybrid.folder.spec import ModelSpec
from hybrid.folder.spool import RECHECK, Spool
from hybrid.loops import Segment
from hybrid.protocols import Inputs
from tests.support.manual_clock import ManualClock

RUN = "p-0123456789ab"
PLACE = stage_place(RUN, "rounds/1", "0" * 64)
LENGTH = window_length(8)
NODES = [f"node-{n}" for n in range(8)]


class Folder(InMemoryFolder):
    """A folder that counts the calls, and removes."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str] = []
        self.taken: list[str] = []
        self.away = 0.0
        self.clock = Clock()

    def entries(self, place: str) -> list[Entry]:
        self._answer()
        self.listed.append(place)
        return super().entries(place)

    def read(self, path: str, limit: int) -> bytes:
        self._answer()
        self.taken.append(path)
        return super().read(path, limit)

    def remove(self, path: str) -> None:
        self._files.pop(path, None)

    def _answer(self) -> None:
        if self.away:
            self.clock.time += self.away
            raise Temporary("the folder does not answer")

    @property
    def files(self) -> dict[str, bytes]:
        return self._files


@dataclass
class Clock:
    time: float = 0.0

    def now(self) -> float:
        return self.time


@dataclass
class Node:
    """A machine with a disk of its own."""

    folder: Folder
    clock: Clock = field(default_factory=Clock)
    own: Folder = field(default_factory=Folder)

    def __post_init__(self) -> None:
        self.shelf = SegmentShelf(PLACE, LENGTH, self.own, self.folder, self.clock.now)
        self.publications = StagePublications(self.shelf)
        self.folder.clock = self.clock

    def upload(self) -> None:
        for path, data in self.own.files.items():
            self.folder.write(path, data)

    def arrived(self, since: int = 0, names: Sequence[str] | None = None, *, later: float = 2.0) -> list[Segment]:
        self.clock.time += later
        return self.publications.arrived(since, names)


def put(folder: Folder, name: str, number: int, data: bytes) -> str:
    path, packed = pack_segment(PLACE, LENGTH, name, number, data)
    folder.write(path, packed)
    return path


def test_a_segment_is_named_by_its_content_and_verified_against_its_place() -> None:
    path, packed = pack_segment(PLACE, LENGTH, "4-4-seed-0-node-3", 61, b"rollouts")
    assert path == f"{PLACE}/0000/000002/segment-000061-4-4-seed-0-node-3-{hashlib.sha256(packed).hexdigest()[:16]}.zst"
    found = verify_segment(path, packed)
    assert found == Segment("4-4-seed-0-node-3", 61, b"rollouts", hashlib.sha256(b"rollouts").hexdigest())
    assert name_of(path) == SegmentName(61, "4-4-seed-0-node-3", path[-20:-4])
    assert pack_segment(PLACE, LENGTH, "4-4-seed-0-node-3", 61, b"rollouts") == (path, packed)
    for wrong in (packed[:-1], packed + b"x", b"", packed[:10] + bytes(8) + packed[18:], b"<html>error</html>"):
        with pytest.raises(BadData, match="cut short, damaged or still on its way"):
            verify_segment(path, wrong)
    other = path.replace(RUN, "p-ba9876543210")
    for elsewhere in (other, path.replace("node-3", "node-4"), path.replace("000061", "000062")):
        with pytest.raises(BadData, match="does not say of itself what its path says"):
            verify_segment(elsewhere, packed)


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a/b", "..", "a" * 61])
def test_what_cannot_be_published_is_refused(name: str) -> None:
    with pytest.raises(BadData, match="a name has 1 to 60"):
        pack_segment(PLACE, LENGTH, name, 0, b"")
    with pytest.raises(BadData, match="no number from 0 to 999,999"):
        pack_segment(PLACE, LENGTH, "a", 1_000_000, b"")


def test_a_segment_has_a_largest_size() -> None:
    with pytest.raises(BadData, match="more than the 33,554,432 and"):
        pack_segment(PLACE, LENGTH, "a", 0, bytes(MAX_SEGMENT))
    with pytest.raises(BadData, match="more than the 33,554,432 and"):
        pack_segment(PLACE, LENGTH, "a", 0, random.Random(0).randbytes(MAX_PACKED))
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_SEGMENT + 1))
    path = f"{PLACE}/0000/000000/segment-000000-a-{hashlib.sha256(bomb).hexdigest()[:16]}.zst"
    with pytest.raises(BadData, match="unpacks to more"):
        verify_segment(path, bomb)


def test_no_window_gets_more_than_500_entries() -> None:
    for series in (1, 2, 8, 72, 200, 250):
        assert 2 * series * window_length(series) <= 500
    places = {pack_segment(PLACE, 25, "a", number, b"")[0].split("/")[4] for number in range(0, 100_000, 250)}
    assert len(places) == 100_000 // 25 // 250


def test_each_segment_arrives_once_in_an_order_of_names_numbers_and_ids() -> None:
    folder = Folder()
    nodes = [Node(folder) for _ in NODES]
    for number in (1, 0):
        for name, node in zip(NODES, nodes, strict=True):
            id = node.publications.publish(name, number, f"{name} {number}".encode())
            assert id == node.publications.publish(name, number, f"{name} {number}".encode())
            node.upload()
    (again,) = [put(folder, "node-1", 0, b"computed twice")]
    wanted = sorted(
        (verify_segment(path, data) for path, data in folder.files.items()),
        key=lambda one: (one.number, one.name, one.id),
    )
    assert len(wanted) == 17
    for node in nodes:
        assert node.arrived() == wanted
        assert node.arrived() == []
        assert node.publications.read("node-1", 0) == sorted(
            (one for one in wanted if one[:2] == ("node-1", 0)), key=lambda one: one.id
        )
    assert StagePublications(nodes[0].shelf).arrived() == wanted, "another loop of the machine gets them all"
    assert nodes[0].own.taken == []
    assert nodes[0].folder.taken.count(again) == len(nodes), "each machine reads a file once"


def test_a_steady_look_lists_one_folder_and_all_loops_share_it() -> None:
    node = Node(Folder())
    loops = [StagePublications(node.shelf) for _ in NODES]
    for number in range(3 * LENGTH):
        for name, loop in zip(NODES, loops, strict=True):
            loop.publish(name, number, b"%d" % number)
    node.upload()
    before = len(node.folder.listed)
    for _ in range(10):
        node.clock.time += 1.5
        for loop in loops:
            loop.arrived(3 * LENGTH - 3)
    front = [place for place in node.folder.listed[before:] if place.endswith("000002")]
    assert 5 <= len(front) <= 10, "less and less often"
    assert len(node.folder.listed) - before == len(front) + 1, "and the next window once"
    assert node.shelf.listed == len(node.folder.listed)
    border = len(node.folder.listed)
    loops[0].publish("node-0", 3 * LENGTH, b"")
    node.clock.time += 40.0
    loops[0].arrived(3 * LENGTH - 3)
    assert len(node.folder.listed) - border == 2, "at the border of two windows"


@pytest.mark.parametrize("wait", [0.0, 4.0, 30.0, 50.0])
def test_a_round_that_waits_takes_two_looks_once_it_is_known_how_long(wait: float) -> None:
    node, chance, looks, late = Node(Folder()), random.Random(0), list[int](), list[float]()
    for number in range(20):
        before, began = node.shelf.listed, node.clock.time
        comes = began + wait * (0.9 + 0.2 * chance.random())
        node.publications.publish("node-0", number, b"own %d" % number)
        missing = True
        while missing:
            if node.clock.time >= comes:
                put(node.folder, "node-1", number, b"%d" % number)
            missing = not [one for one in node.arrived(number, later=0.0) if one.name == "node-1"]
            node.clock.time += 0.5 * missing
        looks.append(node.shelf.listed - before)
        late.append(node.clock.time - comes)
        node.clock.time += 20.0
    assert sum(looks[5:]) / len(looks[5:]) <= 2.0
    assert max(late[5:]) <= 1.5 + wait / 2


def test_what_is_older_than_asked_for_is_never_read() -> None:
    folder, paths = Folder(), list[str]()
    for number in range(10 * LENGTH):
        paths.append(put(folder, "node-0", number, b"%d" % number))
    node = Node(folder)
    node.publications.publish("node-1", 10 * LENGTH - 1, b"own")
    found = node.arrived(10 * LENGTH - 5)
    assert [one.number for one in found] == [*range(10 * LENGTH - 5, 10 * LENGTH), 10 * LENGTH - 1]
    assert folder.taken == paths[-5:]
    assert len(folder.listed) == 2


def test_files_that_are_none_are_passed_over_told_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder()
    good = put(folder, "node-0", 0, b"good")
    late, whole = pack_segment(PLACE, LENGTH, "node-1", 0, b"late")
    folder.write(late, whole[:20])
    window = good.rpartition("/")[0]
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_SEGMENT + 1))
    sha16 = hashlib.sha256(bomb).hexdigest()[:16]
    for name in (f"segment-000000-node-2-{sha16}.zst", f"segment-000003-node-2-{sha16}.zst"):
        folder.write(f"{window}/{name}", bomb)
    for name in ("x", "segment-000000-node-0 (1).zst", f"segment-000999-node-0-{sha16}.zst", "desktop.ini"):
        folder.write(f"{window}/{name}", b"garbage")
    folder.write(f"{window}/segment-000000-node-3-{'0' * 16}.zst", whole)
    foreign = pack_segment(PLACE.replace(RUN, "p-ba9876543210"), LENGTH, "node-4", 0, b"of another run")
    folder.write(f"{window}/{foreign[0].rpartition('/')[2]}", foreign[1])
    node = Node(folder)
    assert [one.data for one in node.arrived()] == [b"good"]
    assert len([one for one in caplog.messages if one.startswith("passed over: ")]) == 5
    for _ in range(3):
        assert node.arrived(later=1.0) == []
    folder.files[late] = whole
    assert [one.data for one in node.arrived(later=30.0)] == [b"late"]
    assert len(caplog.messages) == 5, "each is told once"
    before = len(folder.taken)
    for _ in range(60):
        node.arrived(later=1.0)
    assert len(folder.taken) - before < 20, "what stays bad is tried less and less often"


def test_ten_thousand_files_of_somebody_else_cost_no_round(caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder()
    window = put(folder, "node-0", 0, b"good").rpartition("/")[0]
    for number in range(10_000):
        folder.write(f"{window}/segment-000000-foreign-{number:05d}-{number:016x}.zst", b"garbage")
    node = Node(folder)
    assert [one.data for one in node.arrived(0, NODES)] == [b"good"]
    assert len(folder.taken) == 1, "other names than those of the swarm are not even read"
    for path in list(folder.files)[1_500:]:
        folder.remove(path)
    slow = Node(Slow(folder, 0.1))
    before, found = slow.clock.time, slow.arrived(0, later=0.0)
    assert slow.clock.time - before < 6.0
    while not found:
        found = slow.arrived()
    assert [one.data for one in found] == [b"good"]
    told = [one for one in caplog.messages if "passed over" in one]
    assert len(told) == MOST_TOLD + 1


class Slow(Folder):
    """A folder in which every reading takes a time."""

    def __init__(self, folder: Folder, seconds: float) -> None:
        super().__init__()
        self._files, self.seconds = folder.files, seconds

    def read(self, path: str, limit: int) -> bytes:
        self.clock.time += self.seconds
        return super().read(path, limit)


def test_a_folder_that_does_not_answer_takes_a_small_part_of_the_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    folder = Folder()
    node = Node(folder)
    put(folder, "node-1", 0, b"there")
    folder.away, spent = 120.0, 0.0
    for _ in range(600):
        before = node.clock.time
        node.publications.publish("node-0", 0, b"own")
        assert [one.data for one in node.arrived(later=0.0)] in ([], [b"own"])
        spent += node.clock.time - before
        node.clock.time += 10.0
    assert spent < 0.3 * node.clock.time
    folder.away = 0.0
    node.clock.time += 300.0
    assert [one.data for one in node.arrived()] == [b"there"]


def test_a_damaged_copy_on_the_own_disk_is_made_good_by_the_folder() -> None:
    node = Node(Folder())
    path = put(node.folder, "node-0", 0, b"good")
    node.own.files[path] = b"torn"
    assert [one.data for one in node.arrived()] == [b"good"]


def test_a_history_of_arrivals_does_not_depend_on_when_they_came() -> None:
    """With delays, reordering, cut files and deaths of the reader each has got the same set, each segment once."""
    for seed in range(8):
        chance = random.Random(seed)
        folder, due = Folder(), list[tuple[float, str, bytes]]()
        for number in range(12):
            for name in NODES[:3]:
                path, packed = pack_segment(PLACE, LENGTH, name, number, f"{name} {number}".encode())
                when = 10.0 * number + chance.choice((0.0, 5.0, 1800.0)) * chance.random()
                due.append((when, path, packed))
                if chance.random() < 0.2:
                    due.append((when - chance.random(), path, packed[: chance.randrange(len(packed))]))
        node, got = Node(folder), list[Segment]()
        while node.clock.time < 3600.0:
            for when, path, data in due:
                if when <= node.clock.time and len(folder.files.get(path, b"")) < len(data):
                    folder.files[path] = data
            got += node.arrived(later=chance.choice((0.1, 1.0, 20.0)))
            if chance.random() < 0.01 and node.clock.time < 1800.0:
                node.publications, got = StagePublications(node.shelf), []
        assert len({one.id for one in got}) == len(got) == 36
        assert sorted(one.data for one in got) == sorted(
            verify_segment(*one[1:]).data for one in due if is_whole(*one[1:])
        )


def is_whole(path: str, data: bytes) -> bool:
    try:
        return bool(verify_segment(path, data))
    except HybridError:
        return False


def test_segments_are_uploaded_before_all_else_and_freed_once_they_were_seen_again(tmp_path: Path) -> None:
    clock, folder = ManualClock(), join_folder(tmp_path / "folder", make=True)
    run = submit(folder, "p", {}, Inputs({}, {}, {}), {"": ModelSpec("none", "none", "0" * 64)})
    spool = Spool(Disk(tmp_path / "spool"), clock)
    spool.write(*pack_note(run.id, "log", "one", 0, {"lines": []}))
    path, packed = pack_segment(stage_place(run.id, "rounds/1", "0" * 64), LENGTH, "node-0", 0, b"published")
    spool.write(path, packed)
    full = Full(folder)
    with pytest.raises(Temporary):
        spool.carry(full)  # type: ignore[arg-type]
    assert full.asked == [path], "nothing was before it"
    spool.carry(folder)
    assert spool.waiting == []
    assert folder.read(path, MAX_PACKED) == packed
    clock.time += RECHECK
    (tmp_path / "folder" / path).write_bytes(b"lost by the mount")
    spool.recheck(folder)
    assert spool.waiting == [path]
    spool.carry(folder)
    clock.time += RECHECK
    spool.recheck(folder)
    assert (spool.waiting, spool.entries(path.rpartition("/")[0])) == ([], [])
    assert folder.read(path, MAX_PACKED) == packed


class Full:
    """A folder without room."""

    def __init__(self, folder: Medium) -> None:
        self._folder, self.asked = folder, list[str]()

    def read(self, path: str, limit: int) -> bytes:
        return self._folder.read(path, limit)

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        self.asked.append(path)
        raise Temporary("no room")
