"""The simulated folder shows exactly the faults that are switched on, and no others."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest

from hybrid.errors import BadData, HybridError, UsageError
from hybrid.folder.medium import Disk, Medium, Store
from tests.simulator import FAULTS, SETTLE, Actor, Faults, Killed, World
from tests.simulator.small_worlds import HOUR, LIMIT, fill, names, pair, said, world
from tests.support.hash_seeds import printed_by_hash_seed

# what holds without any fault


def exercise(store: Medium) -> list[object]:
    """What a Medium answers to the calls that the protocol makes."""
    answers: list[object] = [store.entries("a"), said(store.read, "a/x", 9), said(store.read, "a", 9)]
    for path, data in [("a/b/x", b"one"), ("a/b/x", b"one"), ("a/b/x", b"two"), ("a/b/x", b"one more"), ("a/y", b"")]:
        answers.append(said(store.write, path, data))
    for place in ("", "a", "a/", "a/b", "a/none", "a/y", "../a", "/a", "a\\b"):
        try:
            answers.append(sorted((one.name, one.kind) for one in store.entries(place)))
        except HybridError as error:
            answers.append(type(error).__name__)
    for path, limit in [("a/b/x", 9), ("a/b/x", 8), ("a/b/x", 3), ("a/y", 0), ("a/b", 9), ("a/none", 9), ("../x", 9)]:
        try:
            answers.append(store.read(path, limit))
        except HybridError as error:
            answers.append(type(error).__name__)
    return [*answers, said(store.write, "../x", b""), said(store.write, "a/b", b""), said(store.write, "a/y/z", b"")]


def test_without_faults_disk_and_folder_answer_as_a_real_directory_does(tmp_path: Path) -> None:
    actor = world().actor("laptop")
    real = exercise(Disk(tmp_path))
    assert exercise(actor.disk) == real
    assert exercise(actor.folder) == real
    assert BadData.__name__ in real
    assert UsageError.__name__ not in real  # nobody chose these names


def test_removing_behaves_as_on_a_real_directory(tmp_path: Path) -> None:
    stores: list[Store] = [Disk(tmp_path), world().actor("laptop").disk]
    for store in stores:
        store.write("a/x", b"x")
        store.remove("a/x")
        store.remove("a/x")
        assert said(store.read, "a/x", 1) == "NotThere"


def test_without_faults_everything_arrives_in_order_within_seconds() -> None:
    some = world()
    laptop, gpu = pair(some)
    paths = fill(gpu, 5)
    assert names(gpu) == [path[2:] for path in paths]
    assert laptop.folder.entries("a") == []
    assert sorted(gpu.pending()) == paths
    some.advance(3)
    assert [laptop.folder.read(path, LIMIT).decode() for path in paths] == paths
    assert gpu.pending() == []
    assert some.actor("late").folder.read(paths[0], LIMIT) == b"a/000.zst"


def test_two_machines_make_one_folder_and_share_it() -> None:
    some = world()
    laptop, gpu = pair(some)
    laptop.folder.write("a/laptop", b"1")
    gpu.folder.write("a/gpu", b"2")
    some.advance(10)
    assert names(laptop) == names(gpu) == ["gpu", "laptop"]
    assert [entry.name for entry in laptop.folder.entries("")] == ["a"]


def test_the_clock_counts_while_a_laptop_sleeps_and_nothing_is_synced() -> None:
    some = world()
    laptop, gpu = pair(some)
    laptop.freeze()
    before = laptop.clock.now()
    fill(gpu, 1)
    some.advance(8 * HOUR)
    assert laptop.clock.now() - before == pytest.approx(8 * HOUR)
    with pytest.raises(RuntimeError, match="frozen"):
        laptop.folder.entries("a")
    laptop.thaw()
    assert laptop.folder.entries("a") == []
    some.advance(10)
    assert names(laptop) == ["000.zst"]


def test_a_switch_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="F99"):
        Faults.only(F99=1)


# crashes


def test_what_a_write_to_disk_returned_from_survives_any_crash_of_the_process() -> None:
    torn = whole = 0
    for seed in range(100):
        some = world(seed)
        laptop = some.actor("laptop")
        laptop.kill_after(seed % 5)
        kept = []
        with suppress(Killed):
            for path in "abcdefg":
                laptop.disk.write(path, path.encode() * 9)
                kept.append(path)
        laptop.start()
        assert kept == list("abcdefg"[: seed % 5])
        assert all(laptop.disk.read(path, 9) == path.encode() * 9 for path in kept)
        for entry in laptop.disk.entries(""):
            torn += entry.name not in kept and len(laptop.disk.read(entry.name, 9)) < 9
            whole += entry.name not in kept and len(laptop.disk.read(entry.name, 9)) == 9
            laptop.disk.write(entry.name, entry.name.encode() * 9)
            assert laptop.disk.read(entry.name, 9) == entry.name.encode() * 9
    assert torn > 20
    assert whole > 2


def test_a_write_into_the_folder_may_be_torn_by_a_crash_and_is_finished_later() -> None:
    contents = set()
    for seed in range(60):
        some = world(seed)
        laptop, gpu = pair(some)
        gpu.kill_after(0)
        with pytest.raises(Killed):
            gpu.folder.write("a/x", b"123456789")
        some.advance(10)
        contents |= {laptop.folder.read(f"a/{entry.name}", 9) for entry in laptop.folder.entries("a")}
        gpu.start()
        gpu.folder.write("a/x", b"123456789")
        some.advance(10)
        assert laptop.folder.read("a/x", 9) == b"123456789"
    assert {b"", b"1", b"12345", b"123456789"} <= contents


def test_a_dead_process_can_do_nothing_and_its_successor_finds_disk_and_folder() -> None:
    some = world()
    laptop, gpu = pair(some)
    gpu.disk.write("x", b"x")
    gpu.folder.write("y", b"y")
    disk, folder = gpu.disk, gpu.folder
    gpu.crash_process()
    gpu.start()
    for act in (lambda: disk.entries(""), lambda: disk.remove("x"), lambda: folder.read("y", 1)):
        with pytest.raises(Killed):
            act()
    assert (gpu.disk.read("x", 1), gpu.folder.read("y", 1)) == (b"x", b"y")
    some.advance(10)
    assert laptop.folder.read("y", 1) == b"y"


def test_a_dead_machine_takes_its_disk_along_and_its_name_is_free_again() -> None:
    some = world()
    gpu = some.actor("gpu")
    gpu.disk.write("x", b"x")
    with pytest.raises(ValueError, match="alive"):
        some.actor("gpu")
    gpu.kill_after(0, vm=True)
    with pytest.raises(Killed):
        gpu.folder.entries("")
    with pytest.raises(RuntimeError, match="dead"):
        gpu.start()
    again = some.actor("gpu")
    assert again.disk.entries("") == []
    assert said(again.disk.read, "x", 1) == "NotThere"


# one seed, one history


def story(seed: int, *, other_walls: bool = False, faults: Faults | None = None) -> World:
    """Three machines that write, read, crash, die, sleep and wake, then peace."""
    rng = random.Random(seed)
    some = World(seed, faults or Faults.random(rng))
    if other_walls:
        some.perturb_walls()
    for name in ("laptop", "gpu-1", "gpu-2"):
        some.actor(name)
    for step in range(40):
        actor = rng.choice(list(some.actors.values()))
        if actor.view.frozen:
            actor.thaw()
        try:
            act(actor, step, rng.random(), rng.random())
        except HybridError:
            pass
        except Killed:
            restart(actor)
        some.advance(600 * rng.random())
    for actor in some.actors.values():
        actor.thaw()
    some.calm()
    some.advance(SETTLE)
    return some


def act(actor: Actor, step: int, what: float, more: float) -> None:
    if what < 0.6:
        path = f"a/{actor.name if more < 0.7 else 'shared'}/{step // 2}"
        actor.disk.write(path, actor.clock.stamp().encode())
        actor.folder.write(path, actor.clock.stamp().encode())
    elif what < 0.75:
        for entry in actor.folder.entries("a/gpu-1"):
            actor.folder.read(f"a/gpu-1/{entry.name}", LIMIT)
    elif what < 0.85:
        actor.kill_after(int(3 * more), vm=more < 0.3)
    elif what < 0.93:
        actor.die() if more < 0.3 else actor.crash_process()
        restart(actor)
    else:
        actor.freeze()


def restart(actor: Actor) -> None:
    if actor.dead:
        actor.world.actor(actor.name)
    else:
        actor.start()


def test_calm_brings_every_machine_to_what_is_in_the_cloud() -> None:
    crowded = 0
    for seed in range(300):
        some = story(seed)
        there = sorted(some.cloud.tree.files())
        crowded += len(there) > 10
        for actor in some.actors.values():
            assert (seed, sorted(actor.view.tree.files())) == (seed, there)
            assert actor.pending() == []
            actor.start()  # so that no death that the story planned comes now
            assert [path for path, _ in there if said(actor.folder.read, path, LIMIT) not in ("", "BadData")] == []
    assert crowded > 200


def test_nothing_of_a_living_machine_is_lost_without_the_faults_that_lose() -> None:
    losing = {"F1", "F8", "F12", "F19", "F22", "F23", "F26"}
    for seed in range(60):
        some = World(seed, Faults({name: 0.1 for name in FAULTS if name not in losing}))
        laptop, gpu = pair(some)
        written = []
        for one in range(20):
            data = b"%03d" % one
            written += [data] if said(gpu.folder.write, f"a/{one}", data) == "" else []
            some.advance(100)
        some.calm()
        some.advance(SETTLE)
        there = {data for _, data in laptop.view.tree.files()}
        assert (seed, [data for data in written if data not in there]) == (seed, [])


def test_one_seed_is_one_history() -> None:
    traces = [story(seed).trace for seed in range(40)]
    assert traces == [story(seed).trace for seed in range(40)]
    assert len({str(trace) for trace in traces}) == 40


def test_the_history_does_not_depend_on_the_process_that_plays_it() -> None:
    told_by = "print(h.sha256(repr(t.story(7).trace).encode()).hexdigest())"
    code = f"import tests.protocol.test_simulator as t, hashlib as h; {told_by}"
    assert len(printed_by_hash_seed(code, "1", "2")) == 1


def test_other_wall_clocks_change_contents_and_nothing_else() -> None:
    changed = 0
    for seed in range(100):
        usual, other = story(seed).trace, story(seed, other_walls=True).trace
        changed += usual != other
        assert [without_contents(entry) for entry in usual] == [without_contents(entry) for entry in other]
    assert changed > 90


def without_contents(entry: tuple[object, ...]) -> list[object]:
    return [part for part in entry if not isinstance(part, tuple)]
