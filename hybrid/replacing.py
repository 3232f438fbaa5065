"""Write a file so that its name holds the old content or the whole new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hybrid.errors import CannotRun, UsageError
from hybrid.folder.files import speaking

BUFFER = 1024 * 1024


@contextmanager
def replacing(path: Path, begins: bytes) -> Iterator[BinaryIO]:
    """A new file beside `path` that takes its place when the block ends well; on any error nothing is left behind.

    A file that is there already is replaced only if it begins as such files do: with `begins`. Raises UsageError when
    it does not, Temporary when the disk is full, CannotRun without permission, all naming `path`.
    """
    refuse_foreign(path, begins)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with speaking(path, doing="writing it"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb", buffering=BUFFER) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
    except CannotRun as error:
        if str(path) in error.message:  # else it is about what the block did meanwhile, such as judging
            error.hint = "write to another place: -o FILE"
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def refuse_foreign(path: Path, begins: bytes) -> None:
    """Raise UsageError when something else than a file of the kind that begins with `begins` stands at `path`."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file: -o FILE")
    if not path.is_file() or not path.stat().st_size:
        return
    with speaking(path, doing="looking at it"), path.open("rb") as stream:
        if stream.read(len(begins)) != begins:
            raise UsageError(f"{path} holds something else, which would be lost", hint="name another file: -o FILE")
