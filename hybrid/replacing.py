"""Write a file so that its name holds the old content or the whole new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hybrid.errors import CannotRun
from hybrid.folder.files import speaking

BUFFER = 1024 * 1024


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` that takes its place when the block ends well; on any error nothing is left behind.

    Raises Temporary when the disk is full, CannotRun without permission, both naming `path`.
    """
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
        error.hint = "write to another place: -o FILE"
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
