"""Where this machine keeps its own things: the folder it joined, its name, its spools and what it received.

Everything is below one place: HYBRID_HOME, else the platform's data directory. None of it is ever in a shared folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

import platformdirs

from hybrid.canonical import decode, encode
from hybrid.errors import BadData
from hybrid.machine.files import NotThere, read_bounded, speaking, write_once
from hybrid.machine.replacing import replacing

NAME = re.compile(r"[a-z0-9-]{1,40}-[0-9a-f]{8}")


def home() -> Path:
    """The place of this machine's own things; made when something is first written there."""
    chosen = os.environ.get("HYBRID_HOME")
    return Path(chosen) if chosen else Path(platformdirs.user_data_dir("hybrid", appauthor=False))


def name() -> str:
    """The name in this machine's receipts and orders; created at random once, then kept."""
    path = home() / "name"
    if path.is_file():
        found = read_bounded(path, 100).decode(errors="replace").strip()
        if NAME.fullmatch(found):
            return found
    made = f"reader-{secrets.token_hex(4)}"
    path.unlink(missing_ok=True)
    write_once(path, made.encode())
    return made


def spool_of(folder: Path) -> Path:
    """The spool: files of a worker on this machine that no laptop has acknowledged yet."""
    return home() / "spool" / _short(folder)


def received_of(folder: Path) -> Path:
    """Where this machine keeps its copies of what it received from the shared folder."""
    return home() / "received" / _short(folder)


def index_of(folder: Path) -> Path:
    """The index of files in the shared folder that this machine has verified. It can be deleted at any time."""
    return home() / "index" / f"{_short(folder)}.sqlite"


def parts() -> Path:
    """The folder of unfinished files, which are renamed when they are complete. It can be deleted at any time."""
    return home() / "parts"


def forgotten_of(folder: Path) -> Path:
    """Where this machine keeps a mark for each run of the shared folder that it hides."""
    return home() / "forgotten" / _short(folder)


def remember(folder: Path) -> None:
    """Make `folder` the one that commands use when none is named."""
    with replacing(home() / "joined.json", b"") as stream:  # whatever is left of it there
        stream.write(encode({"folder": str(folder.absolute())}))


def remembered() -> Path | None:
    """The folder that `remember` was last given; None when there is none. Raises BadData when that cannot be told.

    Commands that went on with another folder would hide it.
    """
    path = home() / "joined.json"
    again = "join the folder again: hybrid init FOLDER; or name it: --folder"
    try:
        value = decode(read_bounded(path, 100_000), what=str(path))
    except NotThere:
        return None
    except BadData as error:
        raise BadData(f"{path}, which says which folder this machine uses: {error.message}", hint=again) from error
    folder = value.get("folder") if isinstance(value, dict) else None
    if not isinstance(folder, str) or not folder:
        raise BadData(f"{path} does not say which folder this machine uses", hint=again)
    return Path(folder)


def _short(folder: Path) -> str:
    """A short name for a folder: the digest of its resolved path."""
    with speaking(folder, doing="looking for it"):
        resolved = folder.resolve()
    return hashlib.sha256(os.fsencode(resolved)).hexdigest()[:16]


def cache_folder() -> Path:
    """The local cache of this project: digests and converted models. It can be deleted at any time."""
    return Path(platformdirs.user_cache_dir("hybrid", appauthor=False))
