"""`hybrid doctor` says of everything in a folder what it is, why it does not count, and what to do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner

from hybrid.canonical import encode
from hybrid.cli import hybrid
from hybrid.doctor import content, environment, folder_checks, names
from hybrid.doctor.findings import KINDS, Finding, FindingCounts
from hybrid.doctor.walk import MOST_ENTRIES, FolderWalk
from hybrid.errors import CannotRun, Temporary
from hybrid.folder.medium import Disk, Entry, Medium
from hybrid.folder.names import NoteName
from hybrid.folder.runs import join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.machine import home
from hybrid.protocols import Inputs
from tests.support.hostile import files_of, good_folder, header, lay_out, record, sealed
from tests.support.manual_clock import ManualClock
from tests.support.nvidia import nvidia_smi

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return good_folder(tmp_path_factory.mktemp("good") / "folder")


@pytest.fixture
def folder(tmp_path: Path, good: dict[str, bytes]) -> Path:
    """A folder with two runs and all that belongs to them."""
    lay_out(tmp_path / "folder", good)
    return tmp_path / "folder"


class FaultyFolder:
    """A folder on a disk that calls `before` before each call."""

    def __init__(self, root: Path, before: Callable[[str, str], None]) -> None:
        self._disk, self._before = Disk(root), before

    def entries(self, place: str) -> list[Entry]:
        self._before("entries", place)
        return self._disk.entries(place)

    def read(self, path: str, limit: int) -> bytes:
        self._before("read", path)
        return self._disk.read(path, limit)

    def write(self, path: str, data: bytes) -> None:
        raise AssertionError("doctor writes nothing through the medium")


def findings_in(folder: Medium) -> list[Finding]:
    return list(FolderWalk(folder, ManualClock()).findings())


def doctor(*arguments: str, code: int) -> str:
    done = CliRunner().invoke(hybrid, ["doctor", *arguments], standalone_mode=False)
    if done.exception:
        raise done.exception
    assert done.return_value == code, done.output
    return done.stdout


def doctor_json(*arguments: str, code: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in doctor(*arguments, "--json", code=code).splitlines()]


def a_shard(files: dict[str, bytes], number: int = 0) -> str:
    return sorted(path for path in files if "shard-" in path)[number]


def the_run(files: dict[str, bytes]) -> str:
    return a_shard(files).split("/")[1]


# Faults of a folder. Each function makes one and returns the path of the finding that doctor must report.


def truncated(folder: Path, path: str) -> str:
    data = (folder / path).read_bytes()
    (folder / path).write_bytes(data[: len(data) // 2])
    return path


def emptied(folder: Path, path: str) -> str:
    (folder / path).write_bytes(b"")
    return path


def flipped(folder: Path, path: str) -> str:
    data = bytearray((folder / path).read_bytes())
    data[len(data) // 2] ^= 0x10
    (folder / path).write_bytes(data)
    return path


def zeroed(folder: Path, path: str) -> str:
    (folder / path).write_bytes(b"\0" * len((folder / path).read_bytes()))
    return path


def holding(data: bytes) -> Callable[[Path, str], str]:
    def hold(folder: Path, path: str) -> str:
        (folder / path).write_bytes(data)
        return path

    return hold


def longer(folder: Path, path: str) -> str:
    with (folder / path).open("ab") as file:
        file.write(b"more")
    return path


def oversized(folder: Path, path: str) -> str:
    os.truncate(folder / path, 64 * 1024 * 1024 + 1)
    return path


def renamed(name: str) -> Callable[[Path, str], str]:
    """Another name in the same place; a `*` in it is the old name."""

    def rename(folder: Path, path: str) -> str:
        place = folder / path
        return place.rename(place.with_name(name.replace("*", place.name))).relative_to(folder).as_posix()

    return rename


def copied(name: str) -> Callable[[Path, str], str]:
    def copy(folder: Path, path: str) -> str:
        place = folder / path
        target = place.with_name(name.replace("*", place.name))
        shutil.copy(place, target)
        return target.relative_to(folder).as_posix()

    return copy


def to_another_attempt(folder: Path, path: str) -> str:
    target = folder / path.replace("/one/", "/other/").replace("/two/", "/other/")
    target.parent.mkdir(parents=True)
    (folder / path).rename(target)
    return target.relative_to(folder).as_posix()


def to_another_batch(folder: Path, path: str) -> str:
    target = folder / path.replace("/000/", "/017/")
    target.parent.mkdir(parents=True)
    (folder / path).rename(target)
    return target.relative_to(folder).as_posix()


def linked(folder: Path, path: str) -> str:
    (folder / path).unlink()
    (folder / path).symlink_to("/dev/zero")
    return path


def piped(folder: Path, path: str) -> str:
    (folder / path).unlink()
    os.mkfifo(folder / path)
    return path


def a_folder_instead(folder: Path, path: str) -> str:
    (folder / path).unlink()
    (folder / path).mkdir()
    return path


PAGE = b'{"error": {"code": 403, "message": "User Rate Limit Exceeded"}}'
SHARD_CASES: list[tuple[Callable[[Path, str], str], str, int]] = [
    (truncated, "torn", 6),
    (emptied, "empty", 6),
    (flipped, "damaged", 6),
    (zeroed, "torn", 6),
    (longer, "strange", 0),
    (oversized, "too-large", 6),
    (holding(PAGE), "error-page", 6),
    (holding(b"<!DOCTYPE html><html></html>"), "error-page", 6),
    (holding(zstandard.compress(b"\0" * 70_000_000)), "too-large", 6),
    (renamed("shard-00000-1-0123456789abcdef.jsonl.zst"), "misplaced", 6),
    (renamed("* (1)"), "misplaced", 6),
    (renamed("x.bin"), "misplaced", 6),
    (copied("* (1)"), "conflict-copy", 0),
    (copied("copy of *"), "conflict-copy", 0),
    (copied("*.part"), "left-over", 0),
    (copied("*.conflict1"), "conflict-copy", 0),
    (to_another_attempt, "misplaced", 6),
    (to_another_batch, "strange", 0),
    (linked, "blocked", 6),
    (piped, "blocked", 6),
    (a_folder_instead, "blocked", 6),
]


@pytest.mark.parametrize(
    ("happens", "kind", "code"), SHARD_CASES, ids=[f"{number}-{case[1]}" for number, case in enumerate(SHARD_CASES)]
)
def test_what_happened_to_a_shard_is_told_with_its_exit_code(
    folder: Path, good: dict[str, bytes], happens: Callable[[Path, str], str], kind: str, code: int
) -> None:
    path = happens(folder, a_shard(good))
    found = [one for one in findings_in(Disk(folder)) if one.path == path]
    assert [one.kind for one in found] == [kind]
    assert KINDS[kind].exit_code == code
    assert found[0].what
    assert found[0].do or code == 0


def test_a_good_shard_under_a_wrong_name_is_named_with_its_right_one(folder: Path, good: dict[str, bytes]) -> None:
    path = a_shard(good)
    renamed("x (1).zst")(folder, path)
    (found,) = [one for one in findings_in(Disk(folder)) if one.kind == "misplaced"]
    assert found.do == f"copy it to {path}"
    shutil.copy(folder / found.path, folder / path)
    assert [one.kind for one in findings_in(Disk(folder)) if one.path == found.path] == ["conflict-copy"]


@pytest.mark.parametrize(
    "other", ["inputs-", "references-", "/beats/", "/acks/", "/orders/", "/logs/", "/segments/", "run.json"]
)
@pytest.mark.parametrize(
    ("happens", "kinds"), [(truncated, {"torn"}), (emptied, {"empty"}), (flipped, {"damaged", "torn", "changed"})]
)
def test_other_files_of_the_protocol_are_checked_alike(
    folder: Path, good: dict[str, bytes], other: str, happens: Callable[[Path, str], str], kinds: set[str]
) -> None:
    path = happens(folder, next(path for path in good if other in path))
    assert kinds.issuperset(one.kind for one in findings_in(Disk(folder)) if one.path == path)


@pytest.mark.parametrize("other", ["inputs-", "references-", "/beats/", "run.json", "hybrid.json"])
def test_a_good_copy_of_a_lost_file_is_found_by_its_content(folder: Path, good: dict[str, bytes], other: str) -> None:
    path = next(path for path in good if other in path)
    stem, dot, ending = path.rpartition("/")[2].partition(".")
    copy = renamed(f"{stem} (1){dot}{ending}")(folder, path)
    (found,) = [one for one in findings_in(Disk(folder)) if one.path == copy]
    assert (found.kind, found.do) == ("misplaced", f"copy it to {path}")


def test_a_changed_spec_and_one_of_another_version_are_told_apart(folder: Path, good: dict[str, bytes]) -> None:
    path = f"runs/{the_run(good)}/run.json"
    spec = json.loads(good[path])
    for change, kind in (({"model": "n"}, "changed"), ({"version": 2}, "other-version")):
        (folder / path).write_bytes(encode(spec | change) + b"\n")
        assert [one.kind for one in findings_in(Disk(folder)) if one.path == path] == [kind]


@pytest.mark.parametrize(("format", "kind"), [("hybrid/beat", "other-version"), ("other/thing", "damaged")])
def test_only_a_note_of_ours_is_of_another_version(
    folder: Path, good: dict[str, bytes], format: str, kind: str
) -> None:
    note = encode({"format": format, "version": 2, "number": 7})
    beside = next(path for path in good if "/beats/" in path).rpartition("/")[0]
    path = f"{beside}/{NoteName('beat', 7, hashlib.sha256(note).hexdigest()[:16])}"
    (folder / path).write_bytes(zstandard.ZstdCompressor().compress(note))
    (found,) = [one for one in findings_in(Disk(folder)) if one.path == path]
    assert found.kind == kind
    assert ("update" in found.do) == (kind == "other-version")


def test_shards_are_still_looked_at_when_the_spec_of_their_run_is_not_good(
    folder: Path, good: dict[str, bytes]
) -> None:
    emptied(folder, f"runs/{the_run(good)}/run.json")
    path = truncated(folder, a_shard(good))
    assert {"empty", "torn"} <= {one.kind for one in findings_in(Disk(folder))}
    assert [one.kind for one in findings_in(Disk(folder)) if one.path == path] == ["torn"]


def test_a_shard_that_was_overwritten_by_another_one_is_missed(folder: Path, good: dict[str, bytes]) -> None:
    lost, other = a_shard(good, 0), a_shard(good, 1)
    (folder / lost).write_bytes(good[other])
    (found,) = [one for one in findings_in(Disk(folder)) if one.path == lost]
    assert found.kind == "damaged"
    assert f"holds what counts at {other}" in found.what


def test_a_copy_of_a_whole_attempt_is_a_copy(folder: Path, good: dict[str, bytes]) -> None:
    attempt = (folder / a_shard(good)).parent.parent
    shutil.copytree(attempt, attempt.with_name("again"))
    found = [one.kind for one in findings_in(Disk(folder)) if "/again/" in one.path]
    assert set(found) == {"conflict-copy"}


def test_inputs_that_have_not_arrived_are_missed(folder: Path, good: dict[str, bytes]) -> None:
    path = next(path for path in good if "inputs-" in path)
    (folder / path).unlink()
    (found,) = [one for one in findings_in(Disk(folder)) if one.kind == "not-here-yet"]
    assert found.path == path


def test_a_run_without_its_spec_is_told(folder: Path, good: dict[str, bytes]) -> None:
    (folder / f"runs/{the_run(good)}/run.json").unlink()
    assert [one.path for one in findings_in(Disk(folder)) if one.kind == "not-here-yet"] == [
        f"runs/{the_run(good)}/run.json"
    ]


def test_a_shard_of_another_model_does_not_count(folder: Path, good: dict[str, bytes]) -> None:
    run = next(path.split("/")[1] for path in good if "/beats/" in path)  # the one that is pinned to a model
    other = {"name": "other", "digest": "1" * 64, "about": {}}
    name, data = sealed(encode(header(run, "one", seq=9, model=other)), [encode(record(0, "x").to_json())], 9)
    path = f"runs/{run}/answer/one/000/{name}"
    (folder / path).write_bytes(data)
    assert [one.kind for one in findings_in(Disk(folder)) if one.path == path] == ["other-model"]


def test_a_shard_of_a_run_that_is_not_here_is_foreign(folder: Path, good: dict[str, bytes]) -> None:
    name, data = sealed(encode(header("sums-0123456789ab", "one", seq=9)), [encode(record(0, "x").to_json())], 9)
    path = a_shard(good).rpartition("/")[0] + f"/{name}"
    (folder / path).write_bytes(data)
    (found,) = [one for one in findings_in(Disk(folder)) if one.path == path]
    assert found.kind == "foreign"
    assert "sums-0123456789ab" in found.what


def test_a_number_that_is_missing_and_one_that_comes_twice_are_told(folder: Path, good: dict[str, bytes]) -> None:
    run = the_run(good)
    for seq in (0, 1, 3):
        for text in ("x", "y")[: 2 if seq == 1 else 1]:
            name, data = sealed(encode(header(run, "three", seq=seq)), [encode(record(0, text).to_json())], seq)
            place = folder / f"runs/{run}/answer/three/000/{name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
    found = {one.kind: one.what for one in findings_in(Disk(folder)) if one.path.endswith("answer/three")}
    assert set(found) == {"gap", "twice"}
    assert "number 2" in found["gap"]
    assert "number 1:" in found["twice"]


HARMLESS = [
    ".DS_Store", "desktop.ini", "Icon\r", "notes.txt", "sheet.gdoc", "~syncthing~x.tmp", "x.part", "x.crdownload",
    "RCLONE_TEST", "a b", "Ä", "shared.ipynb",
]  # fmt: skip


def test_harmless_oddities_are_explained_and_change_no_exit_code(folder: Path, good: dict[str, bytes]) -> None:
    places = [folder, folder / "runs", folder / f"runs/{the_run(good)}", (folder / a_shard(good)).parent]
    odd = [place / name for place in places for name in HARMLESS]
    for place in odd:
        place.write_bytes(b"x")
    lines = doctor_json(str(folder), code=0)
    explained = {line["path"] for line in lines if line["level"] == "note"}
    assert {place.relative_to(folder).as_posix().replace("\r", "\\x0d") for place in odd} <= explained


def test_names_that_other_systems_take_for_one_are_told(folder: Path) -> None:
    for name in ("Notes", "notes", "e\u0301", "\u00e9"):
        (folder / name).write_bytes(b"x")
    found = {(one.kind, one.path) for one in findings_in(Disk(folder))}
    assert {("case", "Notes"), ("case", "e\u0301"), ("not-nfc", "e\u0301")} <= found


def test_a_place_with_very_many_files_is_told(folder: Path, good: dict[str, bytes]) -> None:
    place = (folder / a_shard(good)).parent
    for number in range(MOST_ENTRIES):
        (place / f"x{number}.part").touch()
    (found,) = [one for one in findings_in(Disk(folder)) if one.kind == "crowded"]
    assert found.path == place.relative_to(folder).as_posix()


def test_folders_without_an_end_are_left_alone(folder: Path) -> None:
    (folder / "/".join(["deep"] * 100)).mkdir(parents=True)
    assert [one.path.count("/") for one in findings_in(Disk(folder)) if one.kind == "too-deep"] == [11]


def test_what_people_keep_in_results_is_their_business(folder: Path, good: dict[str, bytes]) -> None:
    place = folder / "results" / the_run(good)
    place.mkdir(parents=True, exist_ok=True)
    for name in ("outputs.json", "grades.arc.json", "My report, final.html"):
        (place / name).write_bytes(b"x")
    (place / "outputs (1).json").write_bytes(b"x")
    found = [one for one in findings_in(Disk(folder)) if one.path.startswith("results/")]
    assert [(one.kind, one.path.rpartition("/")[2]) for one in found] == [("conflict-copy", "outputs (1).json")]


# The folder as a place.


def test_a_folder_that_is_not_there_is_away(tmp_path: Path) -> None:
    assert "not there, or empty" in doctor(str(tmp_path / "none"), code=5)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "x").write_bytes(b"x")
    assert "carries no mark" in doctor(str(tmp_path / "plain"), code=5)
    assert files_of(tmp_path / "plain") == {"x": b"x"}, "nothing is written into a folder that is not ours"


def test_no_folder_at_all_is_no_problem_of_the_machine() -> None:
    assert "no folder is named yet" in doctor(code=0)


def test_the_folder_that_was_joined_is_looked_at(folder: Path) -> None:
    home.set_joined_folder(folder)
    assert str(folder) in doctor(code=0)


def test_a_folder_with_a_foreign_mark_is_told_and_not_written_to(folder: Path, good: dict[str, bytes]) -> None:
    (folder / "hybrid.json").write_bytes(b'{"format":"hybrid/folder","version":2}\n')
    lines = doctor_json(str(folder), code=6)
    assert [line["kind"] for line in lines if line["path"] == "hybrid.json"] == ["other-version"]
    assert set(files_of(folder)) == set(good)


def test_doctor_writes_one_file_a_machine_and_no_more(folder: Path, good: dict[str, bytes]) -> None:
    for number in (1, 2, 3):
        doctor(str(folder), code=0)
        after = files_of(folder)
        (probe,) = set(after) - set(good)
        assert probe == f"probes/{home.machine_name()}.json"
        assert json.loads(after[probe])["number"] == number
        assert {path: after[path] for path in good} == good


@pytest.mark.parametrize("place", ["probes", "probe"])
def test_a_probe_is_not_written_through_a_link(folder: Path, tmp_path: Path, place: str) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    if place == "probes":
        shutil.rmtree(folder / "probes")
        (folder / "probes").symlink_to(beside)
    else:
        (folder / "probes" / f"{home.machine_name()}.json").symlink_to(beside / "new")
    assert "not a plain file in a plain folder" in doctor(str(folder), code=6)
    assert list(beside.iterdir()) == []


@pytest.fixture
def read_only(folder: Path, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "read-only"
    place.mkdir()
    bind = [["mount", "--bind", str(folder), str(place)], ["mount", "-o", "remount,bind,ro", str(place)]]
    for command in bind:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a folder read-only")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_folder_that_cannot_be_written_is_told_and_looked_at_all_the_same(read_only: Path) -> None:
    lines = doctor_json(str(read_only), code=7)
    assert [line["kind"] for line in lines if line["level"] == "problem"] == ["denied"]
    assert lines[-1]["good"] > 10


def test_a_folder_that_goes_away_half_way_is_given_up_soon(folder: Path) -> None:
    calls: list[str] = []

    def before(_: str, path: str) -> None:
        calls.append(path)
        if len(calls) > 10:
            raise Temporary(f"{path}: Transport endpoint is not connected")

    found = findings_in(FaultyFolder(folder, before))
    assert [one.kind for one in found if one.level == "problem"] == ["away"] * 3
    assert "the rest was not looked at" in found[-1].what
    assert len(calls) == 13


def test_a_single_failure_hides_nothing_else(folder: Path, good: dict[str, bytes]) -> None:
    path = a_shard(good)

    def before(_: str, asked: str) -> None:
        if asked == path:
            raise CannotRun(f"no permission for {path}")

    assert [(one.kind, one.path) for one in findings_in(FaultyFolder(folder, before)) if one.level == "problem"] == [
        ("denied", path)
    ]


def test_a_slow_listing_is_told(folder: Path) -> None:
    clock = ManualClock()

    def before(do: str, path: str) -> None:
        clock.time += 42 if (do, path) == ("entries", "runs") else 0

    walk = FolderWalk(FaultyFolder(folder, before), clock)
    assert [one for one in walk.findings() if one.level == "problem"] == []
    (slow,) = [one for one in folder_checks.listing_findings(walk.largest, walk.slowest) if one.kind == "slow"]
    assert (slow.path, "42 s" in slow.what) == ("runs", True)


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /run rw - tmpfs tmpfs rw
40 22 0:50 / /content/drive rw,nosuid - fuse drive rw,user_id=0
41 22 0:51 / /home/ann/My\\040Drive rw - fuse.rclone remote: rw
42 22 0:52 / /mnt/nas rw - nfs4 nas:/export rw
43 22 0:53 / /mnt/over rw - ext4 /dev/sdb1 rw
44 22 0:54 / /mnt/over rw - fuse.sshfs host:/x rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/content/drive/MyDrive/hybrid", "a Google Drive mount (fuse at /content/drive)"),
        ("/home/ann/My Drive/x", "an rclone mount (fuse.rclone at /home/ann/My Drive)"),
        ("/home/ann/My Drivel", "a plain disk of this machine (ext4 at /)"),
        ("/mnt/nas", "another machine's disk, through NFS (nfs4 at /mnt/nas)"),
        ("/mnt/over/x", "another machine's disk, through sshfs (fuse.sshfs at /mnt/over)"),
        ("/run/x", "memory: gone when the machine stops (tmpfs at /run)"),
    ],
)
def test_what_carries_a_folder_is_told(path: str, words: str) -> None:
    (found,) = folder_checks.carried_by(path, MOUNTS)
    assert found.what == f"it is on {words}"


def test_a_plain_folder_where_drive_should_be_mounted_is_told() -> None:
    dead = "\n".join(line for line in MOUNTS.splitlines() if "/content/drive" not in line)
    assert [one.kind for one in folder_checks.carried_by("/content/drive/MyDrive/x", dead)] == ["medium", "away"]


def test_files_that_are_fetched_when_they_are_opened_are_known_by_their_flags() -> None:
    mac, windows = SimpleNamespace(st_flags=0x40000040), SimpleNamespace(st_file_attributes=0x400020)
    plain = SimpleNamespace(st_flags=0x40, st_file_attributes=0x20)
    assert [folder_checks.is_placeholder(one) for one in (mac, windows, plain)] == [True, True, False]  # type: ignore[arg-type]
    assert not folder_checks.is_placeholder(Path(__file__).stat())


# Names.

SHARD = "shard-00000-1-0123456789abcdef.jsonl.zst"
COPIES = [
    "shard-00000-1-0123456789abcdef (1).jsonl.zst", "shard-00000-1-0123456789abcdef.jsonl (12).zst", f"{SHARD} (1)",
    f"{SHARD}.conflict1", "shard-00000-1-0123456789abcdef.jsonl.conflict2.zst", f"Copy of {SHARD}",
    f"Kopie von {SHARD}",
    "shard-00000-1-0123456789abcdef.jsonl.sync-conflict-20260801-101112-ABCDEF7.zst", f"{SHARD}.bak", f"{SHARD}~",
    "shard-00000-1-0123456789abcdef - Copy.jsonl.zst", "shard-00000-1-0123456789abcdef - Copy (2).jsonl.zst",
    "shard-00000-1-0123456789abcdef.jsonl copy.zst", "shard-00000-1-0123456789abcdef.jsonl copy 2.zst",
    "shard-00000-1-0123456789abcdef.jsonl (Ann's conflicted copy 2026-08-01).zst", f"Copy of {SHARD} (1)",
]  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_the_original_of_a_copy_is_known_by_its_name(name: str) -> None:
    assert names.original_of(name) == SHARD


@pytest.mark.parametrize("name", [SHARD, "run.json", "copy", "conflict", "a.b-c_d", "20260801t101112z-0a1b2c3d"])
def test_names_of_the_protocol_are_no_names_of_copies(name: str) -> None:
    assert names.original_of(name) == ""
    assert names.left_over(name) == ""


def test_the_type_of_every_file_of_a_good_folder_is_known(good: dict[str, bytes]) -> None:
    types = {names.file_type_of(tuple(path.split("/"))) for path in good}
    assert types == {"mark", "probe", "spec", "blob", "note", "shard", "segment", "beside"}


def test_where_a_good_file_belongs_is_known_by_its_content_alone(good: dict[str, bytes]) -> None:
    for path, data in good.items():
        if names.file_type_of(tuple(path.split("/"))) in ("spec", "note", "shard"):
            assert content.belongs(data) == path


# The machine.


def test_shards_that_nobody_acknowledged_are_told(folder: Path, good: dict[str, bytes]) -> None:
    spool = home.spool_of(folder)
    for path in [path for path in good if "shard-" in path][:3]:
        Disk(spool).write(path, good[path])
    assert "3 shards that no laptop has acknowledged" in doctor(str(folder), code=0)


def test_runs_that_cannot_be_done_here_are_told_with_what_is_missing(
    folder: Path, good: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(environment.LIBRARIES, "scripted", ("no_such_library",))  # type: ignore[arg-type]
    told_here = [one.what for one in environment.runs_impossible_here(Disk(folder))]
    assert told_here.count("its pipeline 'sums' is not installed here") == 2
    assert told_here.count("its backend 'scripted' needs no_such_library") == 2


def test_the_embedder_of_a_run_is_a_backend_that_is_known(tmp_path: Path) -> None:
    backends = {"": "scripted", "embed": "hashed", "judge": "of-2030"}
    models = {role: ModelSpec(backend, "m") for role, backend in backends.items()}
    submit(place := join_folder(tmp_path / "embedding", make=True), "branch", {}, Inputs({}, {}, {}), models)
    told_here = [one.what for one in environment.runs_impossible_here(place)]
    assert told_here == ["its backend 'of-2030' is unknown to this hybrid"]


def test_every_backend_and_the_default_model_are_told() -> None:
    lines = [one.what for one in environment.backend_findings()]
    for name in ("llamacpp", "transformers", "vllm", "scripted", "default model", "GPU"):
        assert [line for line in lines if name in line], name


def test_a_gpu_is_told_by_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    rows = "Tesla T4, 10, 15360, 3, 580.82.07, 7.5", "Tesla P100-PCIE-16GB, 0, 16280, 0, 470.1, 6.0"
    nvidia_smi(tmp_path / "bin", *rows)
    good, old = (one for one in environment.backend_findings() if one.what.startswith("GPU"))
    assert good.what == "GPU: Tesla T4 (driver 580.82.07, compute capability 7.5), 10 of 15,360 MiB in use"
    assert not good.do
    assert "have no code for it: rent a T4 or newer" in old.do
    assert "torch for CUDA 13 needs driver 580 or newer" in old.do
    nvidia_smi(tmp_path / "bin")
    assert "GPU: nvidia-smi is here and lists none" in [one.what for one in environment.backend_findings()]


# What is printed.


def test_json_has_one_object_a_finding_and_a_summary_that_counts_them(folder: Path, good: dict[str, bytes]) -> None:
    truncated(folder, a_shard(good))
    (folder / "notes.txt").write_bytes(b"x")
    lines = doctor_json(str(folder), code=6)
    assert all(set(line) == {"level", "kind", "path", "what", "do"} for line in lines[:-1])
    summary = lines[-1]
    assert summary["level"] == "summary"
    assert summary["exit_code"] == 6
    assert (summary["problems"], summary["kinds"]["torn"], summary["kinds"]["unknown"]) == (1, 1, 1)
    assert summary["files"] == summary["good"] + 2


def test_words_show_twenty_of_a_kind_and_count_the_rest(folder: Path) -> None:
    for number in range(33):
        (folder / f"notes{number}.txt").write_bytes(b"x")
    text = doctor(str(folder), code=0)
    assert text.count("notes") == 20
    assert "... and 13 more (--json shows all)" in text
    assert text.endswith("0 problems, 34 harmless oddities\n")


def test_the_gravest_problem_makes_the_exit_code() -> None:
    counts = FindingCounts()
    for kind, code in (("unknown", 0), ("slow", 5), ("torn", 6), ("denied", 7), ("away", 7)):
        counts.add(Finding(kind, "", ""))
        assert counts.exit_code == code


def test_every_kind_of_finding_is_in_the_documents() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


def test_a_folder_made_just_now_has_nothing_odd(tmp_path: Path) -> None:
    join_folder(tmp_path / "new", make=True)
    assert "0 problems, 0 harmless oddities" in doctor(str(tmp_path / "new"), code=0)


@pytest.mark.parametrize(
    ("total", "free", "said"),
    [
        (400 * 2**10, 0, ["0.0 of 0.4 MiB are free", "only 0 MiB are free"]),
        (100 * 2**20, 90 * 2**20, ["90.0 of 100.0 MiB are free"]),
        (100 * 2**30, 2**29, ["0.5 of 100.0 GiB are free", "only 512 MiB are free"]),
        (15 * 2**30, 2**30, ["1.0 of 15.0 GiB are free"]),
    ],
)
def test_little_room_is_told_of_small_disks_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, said: list[str]
) -> None:
    usage = SimpleNamespace(total=total, used=total - free, free=free)
    monkeypatch.setattr(folder_checks.shutil, "disk_usage", lambda root: usage)
    found = doctor("--folder", str(folder), code=0)
    assert [line.strip() for line in found.splitlines() if line.endswith(" are free")] == said
