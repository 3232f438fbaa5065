"""Check the folder as a whole: is it there and ours, which mount carries it, can a file be written and read back."""

from __future__ import annotations

import os
import queue
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from hybrid.canonical import decode, encode
from hybrid.doctor.file_check import MAX_PROBE
from hybrid.doctor.findings import Finding
from hybrid.doctor.walk import ListingTime
from hybrid.errors import BadData, CannotRun, HybridError, Temporary
from hybrid.folder.medium import Medium
from hybrid.machine import home
from hybrid.machine.files import explain_errors, read_bounded
from hybrid.machine.mounts import MOUNTINFO, Mount, mount_of

T = TypeVar("T")

SLOW = 10.0
"""Seconds for one listing above which a folder is reported as slow."""

LITTLE = 1024**3
COLAB = "/content/drive"

CARRIERS = (
    ("rclone", "an rclone mount"),
    ("drive", "a Google Drive mount"),
    ("sshfs", "another machine's disk, through sshfs"),
    ("gcsfuse", "a bucket, through gcsfuse"),
    ("nfs", "another machine's disk, through NFS"),
    ("cifs", "another machine's disk, through SMB"),
    ("smb", "another machine's disk, through SMB"),
    ("9p", "the disk of the system around this one"),
    ("virtiofs", "the disk of the system around this one"),
    ("tmpfs", "memory: gone when the machine stops"),
    ("fuse", "a mount of a program of this machine"),
)
WRITTEN = "a probe was written and read back; that is no sign that the other side sees it"
OFFLINE = 0x1000 | 0x40000 | 0x400000
"""FILE_ATTRIBUTE_OFFLINE, _RECALL_ON_OPEN and _RECALL_ON_DATA_ACCESS of Windows."""

DATALESS = 0x40000000
"""SF_DATALESS of macOS."""


def is_placeholder(found: os.stat_result) -> bool:
    """Whether a file's content is downloaded only when it is opened."""
    flags, attributes = getattr(found, "st_flags", 0), getattr(found, "st_file_attributes", 0)
    return bool(flags & DATALESS or attributes & OFFLINE)


def check_present(folder: Medium) -> list[Finding]:
    """The findings when the folder is not there or not ours; empty when it is. Reads only its top-level listing."""
    try:
        names = {entry.name for entry in folder.entries("")}
    except CannotRun as error:
        return [Finding("denied", "", error.message, error.hint)]
    except HybridError as error:
        return [Finding("away", "", error.message, error.hint or "is it mounted?")]
    if "hybrid.json" in names:
        return []
    if "runs" in names:
        return [Finding("not-here-yet", "hybrid.json", "the folder's mark is missing", "wait, or run `hybrid init`")]
    what = "carries no mark hybrid.json: a dead mount, another account's folder, or none of hybrid's"
    if not names:
        what = "is not there, or empty: a dead mount, another account, or no folder of hybrid yet"
    return [Finding("away", "", what, "mount it; if it is to become a folder of hybrid: `hybrid init FOLDER`")]


def folder_findings(root: Path, seconds: float, *, ours: bool) -> Iterator[Finding]:
    """The mount that carries the folder, its free space and, if it is `ours`, whether a file is written and read back.

    Each check may take `seconds`.
    """
    for check in (_mount, _room, _placeholders, _probe)[: 4 if ours else 3]:
        try:
            yield from _within(seconds, partial(list, check(root)), root)
        except CannotRun as error:
            yield Finding("denied", "", error.message, "give this user the right to write there")
        except Temporary as error:
            yield Finding("away", "", error.message, error.hint)
        except HybridError as error:
            yield Finding("blocked", "probes", error.message, "move away what is in the way")


def store_findings(folder: Medium, *, ours: bool) -> Iterator[Finding]:
    """That the folder is in a store and, if it is `ours`, whether a file is written and read back."""
    yield Finding("medium", "", "it is in an object store, reached over the network")
    if not ours:
        return
    path = f"probes/{home.machine_name()}.json"
    try:
        before = number_of(folder.read(path, MAX_PROBE))
    except HybridError:
        before = 0
    probe = new_probe(before + 1)
    try:
        folder.write(path, probe, heal=True)
        if folder.read(path, MAX_PROBE) != probe:
            raise Temporary(f"{path}: does not give back what was written", hint="run it again")
        yield Finding("medium", "", WRITTEN)
    except CannotRun as error:
        yield Finding("denied", "", error.message, error.hint)
    except HybridError as error:
        yield Finding("away", "", error.message, error.hint)


def listing_findings(largest: ListingTime, slowest: ListingTime) -> Iterator[Finding]:
    """The largest listing of a walk, and whether the slowest one was too slow."""
    where = largest.place or "the folder itself"
    what = f"the largest place, {where}, has {largest.entries:,} entries; listing it took {largest.seconds:.2f} s"
    yield Finding("medium", "", what)
    if slowest.seconds > SLOW:
        what = f"listing its {slowest.entries:,} entries took {slowest.seconds:.0f} s"
        yield Finding(
            "slow", slowest.place, what, "run it again; if it stays so: fewer files, or mirror instead of stream"
        )


def _mount(root: Path) -> Iterator[Finding]:
    path = os.path.realpath(root)
    if not sys.platform.startswith("linux"):
        yield Finding("medium", "", f"what carries it is unknown on {sys.platform}")
        return
    with explain_errors(MOUNTINFO, doing="reading it"):
        mountinfo = MOUNTINFO.read_text(errors="surrogateescape")
    yield from carried_by(path, mountinfo)


def carried_by(path: str, mountinfo: str) -> Iterator[Finding]:
    """The mount that carries an absolute path, by the text of /proc/self/mountinfo, and whether it is as expected."""
    found = mount_of(path, mountinfo)
    yield Finding("medium", "", f"it is on {_words(found) if found else 'an unknown mount'}")
    if path.startswith(f"{COLAB}/") and (not found or "fuse" not in found.type):
        what = "should be Google Drive and is a plain folder: the mount is dead, and what is written stays here"
        yield Finding("away", "", what, "mount Drive again; do not force it while a worker has something to send")


def _words(mount: Mount) -> str:
    found = f"{mount.type} {mount.source}".lower()
    carrier = next((words for part, words in CARRIERS if part in found), "a plain disk of this machine")
    return f"{carrier} ({mount.type} at {mount.place})"


def _room(root: Path) -> Iterator[Finding]:
    with explain_errors(root, doing="asking for its free space"):
        room = shutil.disk_usage(root)
    name, unit = ("GiB", LITTLE) if room.total >= LITTLE else ("MiB", 1024**2)
    yield Finding("medium", "", f"{room.free / unit:,.1f} of {room.total / unit:,.1f} {name} are free")
    if room.free < min(LITTLE, room.total / 10):
        yield Finding("low-room", "", f"only {room.free / 1024**2:,.0f} MiB are free", "free some space before a run")


def _placeholders(root: Path) -> Iterator[Finding]:
    streams = "CloudStorage/GoogleDrive-" in str(root.absolute())
    with explain_errors(root, doing="looking at its mark"), suppress(FileNotFoundError):
        streams = streams or is_placeholder((root / "hybrid.json").lstat())
    if streams:
        what = "is carried by a program that may fetch each file only when it is opened (stream mode)"
        yield Finding("placeholders", "", what, "Google Drive for desktop: choose 'mirror files', or make it offline")


def _probe(root: Path) -> Iterator[Finding]:
    """Write this machine's probe and read it back: the one file in the folder that is ever rewritten."""
    path = root / "probes" / f"{home.machine_name()}.json"
    with explain_errors(path, doing="writing a probe"):
        if path.parent.is_symlink() or path.is_symlink() or (path.exists() and not path.is_file()):
            raise BadData(f"{path}: not a plain file in a plain folder, not written")
        path.parent.mkdir(exist_ok=True)
        probe = new_probe(_last(path) + 1)
        _rewrite(path, probe)
    if read_bounded(path, MAX_PROBE) != probe:
        raise Temporary(f"{path}: does not give back what was written", hint="is the mount well? run it again")
    yield Finding("medium", "", WRITTEN)


def _rewrite(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o644)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.write(descriptor, data)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _last(path: Path) -> int:
    """The number of the probe in the folder; 0 when there is none that can be read."""
    try:
        return number_of(read_bounded(path, MAX_PROBE))
    except HybridError:
        return 0


def new_probe(number: int) -> bytes:
    return encode({"format": "hybrid/probe", "version": 1, "machine": home.machine_name(), "number": number}) + b"\n"


def number_of(probe: bytes) -> int:
    """The number in a probe; 0 when it has none."""
    try:
        number = decode(probe, what="a probe")["number"]
    except (HybridError, LookupError, TypeError):
        return 0
    return number if type(number) is int and 0 <= number < 2**53 else 0


def _within(seconds: float, do: Callable[[], T], root: Path) -> T:
    """What `do` returns or raises; Temporary when it takes longer than `seconds`, as calls to a dead mount do."""
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((do(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            answers.put((None, error))

    threading.Thread(target=work, name="doctor", daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty as late:
        raise Temporary(f"{root}: did not answer for {seconds:.0f} s", hint="is it still mounted?") from late
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
