"""Whether a path is on a disk of this machine, or on a mount that may show changes late or incorrectly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hybrid.machine.files import explain_errors

MOUNTINFO = Path("/proc/self/mountinfo")
LOCAL_FUSE = {"fuseblk", "fuse.fuse-overlayfs", "fuse-overlayfs"}
REMOTE = re.compile(r"fuse.*|nfs\d?|cifs|smb\w*|afs|ceph|davfs2?|glusterfs|lustre|9p|drvfs")
STREAMED = re.compile(r"/CloudStorage/|/Volumes/GoogleDrive")
"""Where macOS mounts the folders of Drive for desktop and similar programs."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount: its mount point, the type of the file system, and its source."""

    place: str
    type: str
    source: str

    @property
    def remote(self) -> bool:
        """Whether a network or a program (FUSE) provides the files.

        The root never counts as remote: a container may get it through FUSE, and then there is no other disk.
        """
        return self.place != "/" and self.type not in LOCAL_FUSE and bool(REMOTE.fullmatch(self.type))


def mount_of(path: str, mountinfo: str) -> Mount | None:
    """The mount that holds an absolute path, by the text of Linux's /proc/self/mountinfo; of several the topmost."""
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
    """The remote mount that holds `path`, in words; "" for a disk of this machine, or when it is not known.

    The path is checked as written before it is resolved, since resolving it would block on a mount that hangs.
    """
    if not MOUNTINFO.is_file():
        return "a synced folder" if STREAMED.search(str(path.resolve())) else ""
    with explain_errors(MOUNTINFO, doing="reading it"):
        mountinfo = MOUNTINFO.read_text(errors="surrogateescape")
    return remote_mount(str(path.absolute()), mountinfo) or remote_mount(str(path.resolve()), mountinfo)


def remote_mount(path: str, mountinfo: str) -> str:
    """The remote mount that holds an absolute path, as type and mount point; "" when the mount is local."""
    found = mount_of(path, mountinfo)
    return f"{found.type} at {found.place}" if found and found.remote else ""
