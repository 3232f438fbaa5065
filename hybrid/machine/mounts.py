"""What carries a place: the disk of this machine, or a network or a program that may show it late and wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hybrid.machine.files import speaking

MOUNTINFO = Path("/proc/self/mountinfo")
LOCAL_FUSE = {"fuseblk", "fuse.fuse-overlayfs", "fuse-overlayfs"}
REMOTE = re.compile(r"fuse.*|nfs\d?|cifs|smb\w*|afs|ceph|davfs2?|glusterfs|lustre|9p|drvfs")
STREAMED = re.compile(r"/CloudStorage/|/Volumes/GoogleDrive")
"""Where macOS shows what Drive for desktop and its like carry."""


@dataclass(frozen=True, slots=True)
class Mount:
    """What stands at a place: the file system's type, what it comes from, and where it is mounted."""

    place: str
    type: str
    source: str

    @property
    def remote(self) -> bool:
        """Whether it is carried by a network or a program.

        The root never counts as such: a container may have it from a program, and there is no other disk then.
        """
        return self.place != "/" and self.type not in LOCAL_FUSE and bool(REMOTE.fullmatch(self.type))


def mount_of(path: str, mountinfo: str) -> Mount | None:
    """The mount that holds an absolute path, by the text of Linux's /proc/self/mountinfo; the last on top counts."""
    best: Mount | None = None
    for line in mountinfo.splitlines():
        head, dash, tail = line.partition(" - ")
        fields, after = head.split(" "), tail.split(" ")
        if not dash or len(fields) < 5 or len(after) < 2:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        inside = place in ("/", path) or path.startswith(f"{place}/")
        if inside and (best is None or len(place) >= len(best.place)):
            best = Mount(place, after[0], after[1])
    return best


def carrier_of(path: Path) -> str:
    """What carries `path` when that is no disk of this machine; "" when it is one, or nothing is known of it.

    The path as it is written is looked at first: finding out where it leads would wait for a mount that hangs.
    """
    if not MOUNTINFO.is_file():
        return "a synced folder" if STREAMED.search(str(path.resolve())) else ""
    with speaking(MOUNTINFO, doing="reading it"):
        mountinfo = MOUNTINFO.read_text(errors="surrogateescape")
    return remote_mount(str(path.absolute()), mountinfo) or remote_mount(str(path.resolve()), mountinfo)


def remote_mount(path: str, mountinfo: str) -> str:
    """The mount that holds an absolute path, when it is one of a network or of a program; "" when it is not."""
    found = mount_of(path, mountinfo)
    return f"{found.type} at {found.place}" if found and found.remote else ""
