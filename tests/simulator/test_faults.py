"""Every fault shows up when it alone is switched on, and only then."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.simulator import FAULTS, NONE, SETTLE, Faults, World
from tests.simulator.small_worlds import HOUR, LIMIT, fill, names, pair, said, shows, world


def test_f01_a_lost_machine_loses_any_part_of_what_was_not_uploaded() -> None:
    lost = []
    for seed in range(60):
        some = world(seed, F1=1)
        paths = fill(some.actor("gpu"), 6)
        some.actors["gpu"].die()
        some.advance(60)
        there = [path for path, _ in some.cloud.tree.files()]
        lost.append([path in there for path in paths])
    assert any(not early and late for one in lost for early, late in pairwise(one)), "never only the tail"
    assert any(early and not late for one in lost for early, late in pairwise(one))
    assert any(all(one) for one in lost)
    assert not all(any(one) for one in lost)


def test_f01_off_a_lost_machine_loses_nothing() -> None:
    some = world()
    paths = fill(some.actor("gpu"), 6)
    some.actors["gpu"].die()
    some.advance(60)
    assert sorted(path for path, _ in some.cloud.tree.files()) == paths


def test_f02_files_arrive_in_another_order() -> None:
    some = world(F2=0.5)
    laptop, gpu = pair(some)
    paths = fill(gpu, 10)
    assert shows(some, lambda: (seen := names(laptop)) != [path[2:] for path in paths[: len(seen)]], seconds=1)


def test_f03_files_take_from_seconds_to_hours_and_arrive() -> None:
    waits = []
    for seed in range(40):
        some = world(seed, F3=1)
        laptop, gpu = pair(some)
        fill(gpu, 1)
        while said(laptop.folder.read, "a/000.zst", LIMIT):
            some.advance(60)
        waits.append(some.time)
    assert min(waits) < HOUR
    assert 4 * HOUR < max(waits) < 72 * HOUR


def test_f04_listings_lack_names_and_have_deleted_ones_and_reads_find_nothing() -> None:
    some = world(F4=0.5)
    laptop, gpu = pair(some)
    fill(gpu, 4)
    some.advance(10)
    some.human.delete("a/000.zst")
    some.advance(10)
    seen = [tuple(names(laptop)) for _ in range(300)]
    assert ("001.zst", "002.zst", "003.zst") in seen
    assert any(set(one) < {"001.zst", "002.zst", "003.zst"} and one for one in seen)
    assert any("000.zst" in one for one in seen)
    assert shows(some, lambda: said(laptop.folder.read, "a/001.zst", LIMIT) == "NotThere")
    assert shows(some, lambda: said(laptop.folder.read, "a/001.zst", LIMIT) == "")


def test_f05_a_read_gives_an_older_content_again() -> None:
    some = world(F5=0.5)
    laptop, gpu = pair(some)
    fill(gpu, 1)
    some.advance(10)
    some.human.replace("a/000.zst", b"new")
    some.advance(10)
    read = [laptop.folder.read("a/000.zst", LIMIT) for _ in range(40)]
    assert {*read} == {b"new", b"a/000.zst"}
    assert read != sorted(read)


def test_f06_files_arrive_empty_cut_hollow_or_as_an_error_and_heal() -> None:
    some = world(F6=1)
    laptop, gpu = pair(some)
    paths = fill(gpu, 40)
    some.advance(3)
    spoiled = {path: laptop.folder.read(path, LIMIT) for path in paths}
    assert b"" in spoiled.values()
    assert any(data and data != path.encode() and path.encode().startswith(data) for path, data in spoiled.items())
    assert any(data.endswith(b"\0") and len(data) == len(path) for path, data in spoiled.items())
    assert any(b"User Rate Limit" in data for data in spoiled.values())
    assert all(gpu.folder.read(path, LIMIT) == path.encode() for path in paths)
    some.advance(3 * HOUR)
    assert all(laptop.folder.read(path, LIMIT) == path.encode() for path in paths)


def test_f06_what_a_lost_machine_was_uploading_stays_cut() -> None:
    some = world(F6=1)
    fill(some.actor("gpu"), 20)
    some.actors["gpu"].die()
    some.calm()
    some.advance(SETTLE)
    left = [data for path, data in some.cloud.tree.files() if data != path.encode()]
    assert len(left) > 5


def test_f07_names_are_made_twice_and_hide_each_other() -> None:
    some = world(F7=0.5)
    laptop, gpu = pair(some)
    fill(gpu, 4, "a/one")
    fill(laptop, 4, "a/two")
    some.advance(10)
    assert len(some.cloud.tree.find("a")) > 1
    assert any(len(some.cloud.tree.find(f"a/one/00{one}.zst")) > 1 for one in range(4))
    assert any(len(names(laptop, "a/one")) > len({*names(laptop, "a/one")}) for _ in range(60))
    assert shows(some, lambda: "one" not in names(laptop))
    some.calm()
    some.advance(SETTLE)
    assert {"one", "two"} <= {*names(laptop)}


def test_f08_conflict_copies_of_every_kind_appear_also_instead_of_the_file() -> None:
    some = world(F8=1)
    laptop, gpu = pair(some)
    paths = fill(gpu, 40)
    some.advance(10)
    seen = names(laptop)
    for mark in (" (1).zst", ".sync-conflict-20261121-120000-ABCDEFG.zst", ".zst.conflict1"):
        assert any(name.endswith(mark) for name in seen)
    assert 0 < sum(path[2:] in seen for path in paths) < 40
    assert any(laptop.folder.read(f"a/{name}", LIMIT) != f"a/{name[:3]}.zst".encode() for name in seen)


@pytest.mark.parametrize("rate", [0, 1])
def test_f09_a_rename_is_both_names_or_none_for_a_while(rate: int) -> None:
    seen = set()
    for seed in range(20):
        some = world(seed, F9=rate)
        laptop, gpu = pair(some)
        fill(gpu, 1)
        some.advance(10)
        some.human.rename("a/000.zst", "new")
        for _ in range(10):
            some.advance(1)
            seen.add(tuple(names(laptop)))
    apart = {(), ("000.zst", "new")} if rate else set()
    assert seen - {("000.zst",), ("new",)} == apart


def test_f10_two_machines_both_make_one_file() -> None:
    some = world()
    laptop, gpu = pair(some)
    laptop.folder.write("lock", b"laptop")
    gpu.folder.write("lock", b"gpu")
    some.advance(10)
    assert laptop.folder.read("lock", LIMIT) == gpu.folder.read("lock", LIMIT) == b"gpu"


def test_f11_an_upload_waits_until_the_mount_is_made_anew() -> None:
    some = world(F11=1)
    laptop, gpu = pair(some)
    fill(gpu, 1)
    some.advance(1000 * HOUR)
    assert laptop.folder.entries("a") == []
    some.calm()
    some.advance(SETTLE)
    assert names(laptop) == ["000.zst"]


def test_f12_the_mount_fails_hangs_dies_and_turns_into_an_empty_folder_of_the_machine() -> None:
    seen = set()
    for seed in range(40):
        some = world(seed)
        laptop, gpu = pair(some)
        laptop.folder.write("hybrid.json", b"mark")
        some.advance(10)
        some.faults = Faults.only(F12=1)
        before, how = some.time, said(gpu.folder.write, "x", b"x")
        if gpu.view.mode == "void":
            assert [names(gpu, ""), said(gpu.folder.read, "hybrid.json", LIMIT)] == [["x"], "NotThere"]
        seen.add((how, gpu.view.mode, some.time > before + 20))
        some.calm()
        some.advance(SETTLE)
        assert names(gpu, "") == names(laptop, "") == ["hybrid.json"], "what went into the void is in no folder"
    assert seen == {
        ("Temporary", "up", False),
        ("Temporary", "up", True),
        ("Temporary", "away", False),
        ("", "void", 0),
    }


def test_f13_the_disk_is_full_for_a_while_and_what_is_on_it_stays() -> None:
    some = world()
    laptop = some.actor("laptop")
    laptop.disk.write("old", b"old")
    some.faults = Faults.only(F13=1)
    assert said(laptop.disk.write, "new", b"new") == "Temporary"
    some.faults = NONE
    assert said(laptop.folder.write, "new", b"new") == "Temporary"
    some.advance(3 * HOUR)
    laptop.disk.write("new", b"new")
    assert {entry.name for entry in laptop.disk.entries("")} == {"old", "new"}


def test_f14_a_full_quota_is_told_or_silent_and_ends() -> None:
    some = world(F14=1)
    laptop, gpu = pair(some)
    told = [said(gpu.folder.write, f"a/{one}", b"x") for one in range(20)]
    some.advance(30)
    assert {*told} == {"", "Temporary"}
    assert laptop.folder.entries("a") == []
    assert len(gpu.pending()) == told.count("")
    some.faults = NONE
    some.advance(11 * HOUR)
    assert len(laptop.folder.entries("a")) == told.count("")


def test_f15_a_place_with_very_many_names_cannot_be_listed() -> None:
    some = world(F15=0.5)
    gpu = some.actor("gpu")
    fill(gpu, 501)
    fill(gpu, 500, "b")
    assert {said(gpu.folder.entries, "a") for _ in range(20)} == {"", "Temporary"}
    assert {said(gpu.folder.entries, "b") for _ in range(20)} == {""}


def test_f16_many_small_files_take_long() -> None:
    some = world(F16=1)
    gpu = some.actor("gpu")
    fill(gpu, 100)
    some.advance(25)
    assert 45 < len(gpu.pending()) < 55


def test_f17_wall_clocks_are_wrong_and_the_clock_of_a_process_jumps_ahead() -> None:
    assert len({actor.clock.stamp() for actor in pair(world())}) == 1
    some = world(F17=1)
    laptop, gpu = pair(some)
    assert laptop.clock.stamp()[:10] != gpu.clock.stamp()[:10]
    read = [laptop.clock.now() for _ in range(10)]
    assert all(0 < later - sooner < HOUR for sooner, later in pairwise(read))


def test_f18_a_zombie_uploads_after_its_successor() -> None:
    some = world()
    laptop, gpu = pair(some)
    fill(gpu, 1, "a/gpu")
    gpu.freeze()
    some.advance(5 * HOUR)
    fill(some.actor("gpu-2"), 1, "a/gpu-2")
    some.advance(10)
    assert names(laptop) == ["gpu-2"]
    gpu.thaw()
    gpu.folder.write("a/gpu/later", b"x")
    some.advance(10)
    assert names(laptop, "a/gpu") == ["000.zst", "later"]


def test_f18_what_a_dead_machine_had_on_its_way_arrives_hours_later() -> None:
    some = world(F18=1)
    laptop, gpu = pair(some)
    fill(gpu, 10)
    gpu.die()
    some.advance(120)
    assert len(laptop.folder.entries("a")) < 5
    some.advance(25 * HOUR)
    assert len(laptop.folder.entries("a")) == 10


def test_f19_somebody_deletes_moves_renames_copies_and_opens_with_docs_but_not_what_is_spared() -> None:
    acts = set()
    for seed in range(80):
        some = World(seed, Faults.only(F19=1), spared=lambda path: path == "b/kept")
        laptop, gpu = pair(some)
        paths = fill(gpu, 2, "a/b")
        laptop.folder.write("b/kept", b"x")
        some.wait(5)
        some.advance(5)
        acts |= {entry[2] for entry in some.trace if entry[1] == "human"}
        some.wait(5)
        changed = [path for path, _ in laptop.view.tree.files()] != [*paths, "b/kept"]
        docs = [node for node in laptop.view.tree.values() if node.kind == "other"]
        assert changed or docs
        assert laptop.folder.read("b/kept", LIMIT) == b"x"
    assert acts == {"delete", "rename", "move", "copy", "docs"}


def test_f19_a_deletion_reaches_the_writer_which_may_write_again() -> None:
    some = world()
    laptop, gpu = pair(some)
    fill(gpu, 2, "a/b")
    some.advance(10)
    some.human.delete("a")
    assert names(gpu, "a/b") == ["000.zst", "001.zst"]
    some.advance(10)
    assert gpu.folder.entries("") == []
    fill(gpu, 2, "a/b")
    some.advance(10)
    assert names(laptop, "a/b") == ["000.zst", "001.zst"]


def test_f20_names_appear_that_nobody_of_us_makes() -> None:
    some = world(F20=1)
    laptop, gpu = pair(some)
    for one in range(60):
        gpu.folder.write(f"a/shard-{one:03d}", b"x")
    some.advance(10)
    seen = {entry.name: entry.kind for entry in laptop.folder.entries("a")}
    assert {*seen.values()} == {"file", "folder", "other"}
    assert {"desktop.ini", "Icon\r", "back\\slash", "CON"} <= {*seen}
    assert any(name.startswith("SHARD-") for name in seen)
    assert said(laptop.folder.read, "a/back\\slash", LIMIT) == "BadData"


def test_f21_nothing_works_for_hours_when_the_sign_in_has_expired() -> None:
    some = world()
    laptop, gpu = pair(some)
    fill(gpu, 1)
    some.faults = Faults.only(F21=1)
    assert said(gpu.folder.entries, "") == "Temporary"
    some.faults = NONE
    some.advance(0.9 * HOUR)
    assert said(gpu.folder.entries, "") == "Temporary"
    assert laptop.folder.entries("") == []
    some.advance(25 * HOUR)
    assert names(gpu) == names(laptop) == ["000.zst"]


def test_f22_the_mount_is_the_folder_of_another_account_for_a_while() -> None:
    marks = set()
    for seed in range(20):
        some = world(seed)
        laptop, gpu = pair(some)
        laptop.folder.write("hybrid.json", b"mark")
        laptop.folder.write("runs/ours/run.json", b"{}")
        some.advance(10)
        some.faults = Faults.only(F22=1)
        assert names(gpu, "runs") == ["foreign-0123456789ab"]
        gpu.folder.write("runs/ours/x", b"x")
        marks.add("hybrid.json" in names(gpu, ""))
        some.faults = NONE
        some.advance(11 * HOUR)
        assert names(gpu, "runs/ours") == names(laptop, "runs/ours") == ["run.json"]
    assert marks == {True, False}


def test_f23_a_bad_listing_deletes_files_for_everybody() -> None:
    some = world()
    laptop, gpu = pair(some)
    fill(gpu, 20)
    some.advance(10)
    some.faults = Faults.only(F23=1)
    some.advance(10)
    some.faults = NONE
    some.advance(10)
    some.advance(10)
    assert names(laptop) == names(gpu)
    assert len(names(gpu)) < 20


def test_f24_a_placeholder_cannot_be_read_for_a_while() -> None:
    some = world(F24=1)
    laptop, gpu = pair(some)
    fill(gpu, 1)
    some.advance(3)
    before = some.time
    assert names(laptop) == ["000.zst"]
    assert said(laptop.folder.read, "a/000.zst", LIMIT) == "Temporary"
    assert some.time >= before + 30
    some.advance(3 * HOUR)
    assert laptop.folder.read("a/000.zst", LIMIT) == b"a/000.zst"


def test_f25_a_write_succeeds_and_says_that_it_failed() -> None:
    some = world(F25=1)
    laptop, gpu = pair(some)
    assert said(gpu.folder.write, "a/x", b"x") == "Temporary"
    assert said(gpu.folder.write, "a/x", b"x") == "Temporary"
    some.advance(10)
    assert names(laptop) == names(gpu) == ["x"]


def test_f26_a_folder_is_put_back_as_it_was() -> None:
    some = world()
    laptop, gpu = pair(some)
    gpu.folder.write("a/x", b"old")
    some.advance(10)
    some.faults = Faults.only(F26=1)
    some.advance(10)  # there is no copy yet: one is kept
    some.faults = NONE
    gpu.folder.write("a/x", b"newer", heal=True)
    gpu.folder.write("a/y", b"new")
    some.advance(10)
    assert (names(laptop), laptop.folder.read("a/x", LIMIT)) == (["x", "y"], b"newer")
    some.human.restore()
    some.advance(10)
    assert names(laptop) == names(gpu) == ["x"]
    assert laptop.folder.read("a/x", LIMIT) == gpu.folder.read("a/x", LIMIT) == b"old"


@pytest.mark.parametrize("fault", FAULTS)
def test_every_switch_has_its_test(fault: str) -> None:
    assert any(name.startswith(f"test_f{int(fault[1:]):02d}_") for name in globals())
