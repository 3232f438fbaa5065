"""The journal of an open shard: its records on this machine's own disk, so that a killed process loses no answer.

A record is written as it comes and stays until its shard is. Each line proves itself, so a torn one is told. A process
that was killed cannot lose what it wrote; a machine that stops can lose what was not flushed, some fractions of a
second. A journal that cannot be written costs only this safety, so that is a warning.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock

from hybrid.canonical import decode, encode
from hybrid.errors import BadData
from hybrid.machine.files import read_bounded
from hybrid.machine.lock import PROBE_SECONDS

LOG = logging.getLogger("hybrid")
FORMAT = "hybrid/journal"
LIMIT = 128 * 1024 * 1024
"""Most bytes of a journal that is read."""
SUM = 16
"""Hex digits of the sha256 before each line."""
FLUSH_SECONDS = 0.05
"""Seconds between two flushes, at least."""
FLUSH_SHARE = 20
"""A flush comes at the earliest when so many times its last duration has passed: it takes a twentieth of the time."""


class Journal:
    """A file that one process appends to, and locks while it does. Called by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, lock_of(path)
        self._file = -1
        self._begun = False
        self._works = True
        self._unflushed = False
        self._not_before = 0.0

    def add(self, header: dict[str, Any], line: bytes) -> None:
        """Append a record of the shard with this header, which is written before the first one."""
        if not self._works:
            return
        try:
            if self._file < 0:
                self._open()
            if not self._begun:
                self._begun = True
                _write(self._file, _proven(encode({"format": FORMAT, "version": 1, "header": header})))
            _write(self._file, _proven(line))
            self._unflushed = True
        except OSError as error:
            self._fails(error)

    def flush(self) -> None:
        """Bring what was added to the disk, if it is time for that."""
        began = time.monotonic()
        if not self._unflushed or not self._works or began < self._not_before:
            return
        try:
            os.fsync(self._file)
        except OSError as error:
            self._fails(error)
        ended = time.monotonic()
        self._not_before = ended + max(FLUSH_SECONDS, FLUSH_SHARE * (ended - began))
        self._unflushed = False

    def clear(self) -> None:
        """Forget the records: their shard is written."""
        self._unflushed = False
        if self._file < 0:
            return
        try:
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            self._works, self._begun = True, False
        except OSError as error:
            self._fails(error)

    def close(self) -> None:
        """Remove the file, whose records are in shards. A later record makes another one."""
        if self._file < 0:
            return
        with suppress(OSError):
            os.close(self._file)
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        release(self._lock)
        self._file, self._begun = -1, False

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=PROBE_SECONDS)
        except (filelock.Timeout, NotImplementedError) as error:
            raise OSError(0, "it cannot be locked") from error
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def _fails(self, error: OSError) -> None:
        """Write no more, at least until the shard is closed: what comes after a torn line would not be read."""
        self._works = False
        LOG.warning("%s: %s; a kill loses the records of the open shard", self._path, error.strerror or error)


def lock_of(journal: Path) -> filelock.BaseFileLock:
    """The lock that a process holds which writes a journal; the system frees that of a killed one."""
    return filelock.FileLock(journal.with_suffix(".lock"), timeout=0)


def release(lock: filelock.BaseFileLock) -> None:
    """Release a lock and delete its file. It is deleted first: who waits for it then sees that this one is gone."""
    path = Path(lock.lock_file)
    try:
        path.unlink(missing_ok=True)
    except OSError:  # Windows deletes no open file
        lock.release()
        with suppress(OSError):
            path.unlink()
    else:
        lock.release()


def read_journal(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    """The header of the shard in a journal, and the records that are whole, each once. Raises BadData, NotThere.

    Torn and damaged lines are passed over. Without any record the header may be {}.
    """
    if not (data := read_bounded(path, LIMIT)):  # its process was killed when the shard was written
        return {}, []
    first, *lines = dict.fromkeys(map(_content, data.split(b"\n")))
    told = decode(first, what=str(path)) if first else None
    if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(told.get("header"), dict):
        raise BadData(f"{path}: not the journal of a shard", hint="delete it, if it is not yours")
    if told.get("version") != 1:
        raise BadData(f"{path}: journal version {told.get('version')!r:.20}, this hybrid reads 1", hint="update hybrid")
    return told["header"], [line for line in lines if line]


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _proven(line: bytes) -> bytes:
    return b"%b %b\n" % (_sum(line), line)


def _content(line: bytes) -> bytes:
    """What a line holds; nothing if it does not prove itself."""
    content = line[SUM + 1 :]
    return content if line[: SUM + 1] == _sum(content) + b" " else b""


def _sum(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:SUM].encode()
