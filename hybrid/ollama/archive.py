"""Unpacks a release archive of Ollama once per machine. No member can write outside of the archive's folder.

Only folders, files and links are created; links last, and only to members of the archive. Sizes and numbers are
bounded. The archive is not authenticated: use one that you trust.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import filelock
import zstandard

from hybrid.errors import BadData, Temporary
from hybrid.machine import home
from hybrid.machine.files import explain_errors

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
MAX_MEMBERS = 10_000
MAX_UNPACKED = 24 * 1024**3
MAX_HEADER = 256 * 1024
MAX_NAME = 512
PIECE = 1024**2
END = 1024
"""Number of zero bytes at the end of a tar, at least."""


def is_archive(path: Path) -> bool:
    """Whether the file starts with the magic of gzip or zstd."""
    with explain_errors(path, doing="looking at it"), path.open("rb") as file:
        return file.read(4).startswith((GZIP, ZSTD))


def installed(archive: Path) -> Path:
    """The folder of the unpacked `archive`, named by its sha256; unpacked now if it is missing.

    A kill leaves a draft, which the next call removes. Raises BadData for an archive that is damaged or would write
    outside of its folder, Temporary on a full disk or while another process unpacks it.
    """
    with explain_errors(archive, doing="reading it"), archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    own = home.home() / "ollama"
    folder = own / sha256[:16]
    with explain_errors(own, doing="unpacking Ollama there"):
        own.mkdir(parents=True, exist_ok=True)
        with _locked(own / f"{sha256[:16]}.lock"):
            if not folder.is_dir():
                _install(archive, sha256, folder)
    return folder


def _install(archive: Path, sha256: str, folder: Path) -> None:
    draft = folder.with_name(f".{folder.name}.part")
    if draft.is_dir():
        shutil.rmtree(draft)
    draft.mkdir()
    try:
        if unpack(archive, draft) != sha256:
            raise BadData(f"{archive}: changed while it was read", hint="is it still being copied? run it again")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(path, timeout=600)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise Temporary(f"another process unpacks Ollama: {path}", hint="wait for it, then run this again") from error
    try:
        yield
    finally:
        lock.release()


def unpack(archive: Path, into: Path) -> str:
    """Unpack a .tgz or .tar.zst into an empty folder. Returns the sha256 of what was read. Raises BadData, OSError."""
    with archive.open("rb") as file:
        read = _Hashed(file)
        try:
            with _opened(file, read) as content:
                _unpack_tar(_Bounded(content), into)
        except (
            tarfile.TarError,
            zstandard.ZstdError,
            gzip.BadGzipFile,
            zlib.error,
            EOFError,
            RecursionError,
            ValueError,
        ) as error:
            raise BadData(f"{archive}: {error}", hint="is it whole, and Ollama's own? get it again") from error
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise BadData(f"{archive}: has two members with one name, {Path(error.filename).name!r}") from error
        return read.digest()


class _Hashed(io.RawIOBase):
    """Hashes the archive's bytes as they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._hash.update(data)
        buffer[: len(data)] = data
        return len(data)

    def digest(self) -> str:
        """The sha256 of the whole file, in hex; the rest of the file is read first."""
        while self.read(PIECE):
            pass
        return self._hash.hexdigest()


def _opened(file: IO[bytes], read: _Hashed) -> Any:
    begins = file.read(4)
    file.seek(0)
    if begins == ZSTD:
        return zstandard.ZstdDecompressor().stream_reader(
            cast("IO[bytes]", read), read_across_frames=True, closefd=False
        )
    return gzip.GzipFile(fileobj=read)


class _Bounded:
    """Bounds the bytes read from a tar, and detects a truncated one, since not all decompressors report truncation."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content, self._given, self._tail = content, 0, b""
        self.budget = MAX_HEADER
        """Bytes that may be read until the budget is set again."""

    def read(self, size: int) -> bytes:
        data = self._content.read(size)
        self._given += len(data)
        self.budget -= len(data)
        if self.budget < 0:
            raise ValueError("has an endless header")
        if self._given > MAX_UNPACKED:
            raise ValueError(f"unpacks to more than {MAX_UNPACKED:,} bytes")
        self._tail = (self._tail + data[-END:])[-END:]
        return data

    def finish(self) -> None:
        """Read to the end. Raises ValueError when it is not the end of a tar."""
        self.budget = MAX_UNPACKED
        while self.read(PIECE):
            pass
        if self._tail != bytes(END):
            raise ValueError("ends in the middle")


def _unpack_tar(content: _Bounded, into: Path) -> None:
    links: list[tuple[tarfile.TarInfo, PurePosixPath]] = []
    number = 0
    with tarfile.open(fileobj=content, mode="r|") as tar:  # type: ignore[call-overload]
        while member := _next(tar, content):
            number += 1
            if number > MAX_MEMBERS:
                raise ValueError(f"has more than {MAX_MEMBERS:,} members")
            name = _inside(member.name)
            if member.isdir():
                (into / name).mkdir(parents=True, exist_ok=True)
            elif member.issym() or member.islnk():
                links.append((member, name))
            elif member.isreg() and not member.issparse():
                content.budget = member.size + MAX_HEADER
                _write(tar.extractfile(member), into / name, runs=bool(member.mode & 0o100))
            else:
                raise ValueError(f"holds something that is neither file, folder nor link: {member.name!r}")
    content.finish()
    for member, name in links:
        _link(member, name, into)


def _next(tar: tarfile.TarFile, content: _Bounded) -> tarfile.TarInfo | None:
    """The next member; the memory that tarfile uses for headers is bounded."""
    content.budget = MAX_HEADER
    member = tar.next()
    tar.members, tar.pax_headers = [], {}  # type: ignore[attr-defined]
    return member


def _inside(name: str) -> PurePosixPath:
    """A member's name as a relative path. Raises ValueError for one that would leave the archive's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or len(name) > MAX_NAME:
        raise ValueError(f"has a member with the name {name[:MAX_NAME]!r}")
    return path


def _write(content: IO[bytes] | None, path: Path, *, runs: bool) -> None:
    assert content, "a regular member"  # noqa: S101
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(content, file, PIECE)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o755 if runs else 0o644)


def _link(member: tarfile.TarInfo, name: PurePosixPath, into: Path) -> None:
    """Create a link to another member. Hard links become symbolic links too."""
    start = PurePosixPath() if member.islnk() else name.parent
    target = PurePosixPath(os.path.normpath(start / member.linkname))
    if PurePosixPath(member.linkname).is_absolute() or _inside(str(target)) == PurePosixPath():
        raise ValueError(f"has a link to {member.linkname[:MAX_NAME]!r}")
    where = into / name
    if where.parent.resolve() != into.resolve() / name.parent:
        raise ValueError(f"goes through a link with {name.name!r}")
    where.parent.mkdir(parents=True, exist_ok=True)
    where.symlink_to(os.path.relpath(target, name.parent))
