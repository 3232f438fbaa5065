"""Read and write single files: writes happen once, reads are bounded, and OSErrors become errors with a hint."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zstandard

from hybrid.errors import BadData, CannotRun, HybridError, Temporary, UsageError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
OCCUPIED = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
MISNAMED = OCCUPIED | {errno.ENOENT, errno.ENAMETOOLONG}

PIECE = 256 * 1024
"""Bytes of one write call: a larger one needs a large buffer, which a virtual machine is slow to allocate."""


class NotThere(Temporary):
    """The file does not exist, or has not arrived yet."""


def explained_error(error: OSError, path: Path, *, doing: str) -> HybridError:
    """`error` as one that a user can act on.

    Temporary for a full disk and a lost mount, CannotRun for missing permission, UsageError for a wrong name.
    """
    reason = error.strerror or type(error).__name__
    if error.errno in FULL:
        return Temporary(
            f"no room left for {path} while {doing}",
            hint="free some space and run the same command again: everything already written is kept",
        )
    if error.errno in DENIED:
        return CannotRun(f"no permission for {path} while {doing}: {reason}", hint="choose another folder: --folder")
    if error.errno in MISNAMED:
        return UsageError(f"{path}: {reason} while {doing}", hint="is the name right? name another place")
    return Temporary(f"{path}: {reason} while {doing}", hint="is the disk or mount there? then run the command again")


def expanded(name: str | Path) -> Path:
    """The path that `name` is, with `~` and `~USER` as their folders; as it stands where there is no such user."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises RuntimeError there


@contextmanager
def explain_errors(path: Path, *, doing: str) -> Iterator[None]:
    """Raise an OSError of the block as one of our errors. It names `path`, which the user chose."""
    try:
        yield
    except OSError as error:
        raise explained_error(error, path, doing=doing) from error


@contextmanager
def explain_internal_errors(path: Path, *, doing: str) -> Iterator[None]:
    """Like `explain_errors`, for a `path` that the user did not choose: no error is a UsageError.

    Raises NotThere or Temporary for a file that is missing or refused, since a mount may bring it back in a moment, and
    BadData when a file stands where a folder should, or the reverse.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT:
            hint = "wait for the sync, then run the command again"
            raise NotThere(f"{path}: no such file, or not yet", hint=hint) from error
        found = explained_error(error, path, doing=doing)
        if not isinstance(found, UsageError):
            raise found from error
        if error.errno in OCCUPIED:
            hint = "something else stands where hybrid keeps a file or a folder: move it away, then run it again"
            raise BadData(found.message, hint=hint) from error
        raise Temporary(found.message, hint="run the command again") from error


def write_once(path: Path, data: bytes, *, heal: bool = False) -> None:
    """Write a new file and flush it to disk. A file with the same bytes is left unchanged.

    `heal` is for a name that contains the content's hash: other bytes there are damage and are overwritten.

    The file is not renamed into place, since a rename is not atomic across machines. Readers verify the content and
    ignore a torn file. A file that could not be written completely is removed. Raises BadData when the file has other
    content, Temporary on a full disk, CannotRun without permission.
    """
    with explain_internal_errors(path, doing="writing it"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb", buffering=0) as handle:
                _fill(handle.fileno(), path, data)
        except FileExistsError:
            replace_torn(path, data, heal=heal)


def replace_torn(path: Path, data: bytes, *, heal: bool = False) -> None:
    """Complete a file that a crash left empty, truncated or padded with zeros. Raises BadData for other content."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        raise BadData(f"{path}: not a regular file", hint="move it away and try again")
    with path.open("rb") as handle:
        present = handle.read(len(data) + 1)
    if present == data:
        return
    if not (heal or data.startswith(present.rstrip(b"\0"))):
        raise BadData(f"{path}: holds other content than what belongs there", hint="move that file away and try again")
    with path.open("wb", buffering=0) as handle:
        _fill(handle.fileno(), path, data)


def _fill(descriptor: int, path: Path, data: bytes) -> None:
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view[:PIECE]) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; links are not followed. Raises NotThere, BadData."""
    with explain_internal_errors(path, doing="reading it"):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise BadData(f"{path}: not a regular file")
        with path.open("rb") as handle:
            data = handle.read(min(found.st_size, limit) + 1)  # a buffer of `limit` bytes costs more than a small file
            if len(data) > found.st_size:
                data += handle.read(max(0, limit + 1 - len(data)))
    if len(data) > limit:
        raise BadData(f"{path}: larger than the {limit:,} bytes allowed")
    return data


def unpack(packed: bytes, limit: int, what: str) -> bytes:
    """The content of a zstd frame, at most `limit` bytes; `what` names the file. Raises BadData.

    For a frame that ends early, the part that is there is returned: the caller checks the content by its hash.
    """
    try:
        if 0 < zstandard.frame_content_size(packed) <= limit:  # all of our files state it: one call, one buffer
            with suppress(zstandard.ZstdError):
                return zstandard.ZstdDecompressor().decompress(packed)
        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            data = reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise BadData(f"{what}: not a whole zstd file: truncated, damaged or still on its way") from error
    if len(data) > limit:
        raise BadData(f"{what}: unpacks to more than the {limit:,} bytes allowed")
    return data
