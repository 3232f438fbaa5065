"""Replace a file atomically: its name holds the old content or all of the new one."""

from __future__ import annotations

import errno
import filecmp
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hybrid.errors import CannotRun, Temporary, UsageError
from hybrid.machine.files import explain_errors

BUFFER = 1024 * 1024
ELSEWHERE = "write to another place: -o FILE"
MAX_PART_AGE = 86_400.0
"""Age in seconds after which an unfinished file counts as left over by a killed process."""


@contextmanager
def replacing(path: Path, begins: bytes, parts: Path | None = None, *, only_new: bool = False) -> Iterator[BinaryIO]:
    """A stream to a new file that replaces `path` when the block ends without an error; else nothing is left behind.

    The file is written in the folder `parts`, else beside `path`: a sync program would copy an unfinished file out of a
    shared folder. A file with the same content is not touched. An existing file is replaced only if it begins with
    `begins`, and none that has other content with `only_new`. Raises UsageError for such a file, Temporary when the
    disk is full, CannotRun without permission, all naming `path`.
    """
    make_room(path, begins)
    place = _place(path, parts)
    part = place / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        spoken = path if place == path.parent else part
        with explain_errors(spoken, doing="writing it"), part.open("xb", buffering=BUFFER) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        with explain_errors(path, doing="writing it"):
            if not _same(part, path):
                _refuse_other(path, only_new=only_new)
                _take_place(part, path)
    except CannotRun as error:
        if str(path) in error.message:  # else it comes from what the block does besides, such as judging
            error.hint = ELSEWHERE
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _refuse_other(path: Path, *, only_new: bool) -> None:
    if only_new and path.exists():
        raise UsageError(
            f"{path} is there already and has other content", hint="-f overwrites it, -o FILE names another"
        )


def _place(path: Path, parts: Path | None) -> Path:
    """The folder of the unfinished file: `parts`, or that of `path` if it is not writable. Deletes leftovers."""
    with suppress(OSError):
        if parts:
            parts.mkdir(parents=True, exist_ok=True)
            for left in parts.glob(".*.part"):
                if time.time() - left.stat().st_mtime > MAX_PART_AGE:
                    left.unlink()
            if os.access(parts, os.W_OK):
                return parts
    return path.parent


def _same(part: Path, path: Path) -> bool:
    """Whether `path` exists and has the same content."""
    try:
        return filecmp.cmp(part, path, shallow=False)
    except OSError:
        return False


def _take_place(part: Path, path: Path) -> None:
    """Rename the finished file to `path`; from another disk it is first copied beside `path`."""
    try:
        part.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = path.with_name(part.name)
        try:
            with part.open("rb") as source, beside.open("xb") as copy:
                shutil.copyfileobj(source, copy, BUFFER)
                copy.flush()
                os.fsync(copy.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def make_room(path: Path, begins: bytes) -> None:
    """Create the folder of `path`. Raises what `refuse_foreign` does, and Temporary when the mount is lost."""
    refuse_foreign(path, begins)
    try:
        with explain_errors(path, doing="making its folder"):
            _make_parent(path)
    except CannotRun as error:
        error.hint = ELSEWHERE
        raise


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # although all parents were created
        raise Temporary(f"{path}: its folder does not stay", hint="is the mount there? run it again") from error


def refuse_foreign(path: Path, begins: bytes) -> None:
    """Raise UsageError when `path` exists and is not a file that begins with `begins`.

    Accepted, too, is what a crash or a sync program leaves of such a file: its beginning, or zeros only.
    """
    with explain_errors(path, doing="looking at it"):
        if path.is_dir():
            raise UsageError(f"{path} is a folder", hint="name a file: -o FILE")
        if not path.is_file():
            return
    with (
        explain_errors(path, doing="looking at it"),
        suppress(FileNotFoundError),
        path.open("rb") as stream,
    ):
        present = stream.read(len(begins))
        if not begins.startswith(present.rstrip(b"\0")) or not _only_zeros_follow(present, begins, stream):
            raise UsageError(f"{path} holds something else, which would be lost", hint="name another file: -o FILE")


def _only_zeros_follow(present: bytes, begins: bytes, stream: BinaryIO) -> bool:
    """Whether `present` is all of `begins`, or the rest of the file is zeros."""
    return present == begins or not any(piece.strip(b"\0") for piece in iter(lambda: stream.read(BUFFER), b""))
