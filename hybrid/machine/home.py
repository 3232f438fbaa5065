"""Where this machine keeps its own files: its name, the folder that it joined, its spools and what it received.

All of them are below HYBRID_HOME, by default the platform's data directory, and never in a shared folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

import platformdirs

from hybrid.canonical import decode, encode
from hybrid.errors import BadData, HybridError, UsageError
from hybrid.machine.files import NotThere, explain_errors, read_bounded, write_once
from hybrid.machine.replacing import replacing
from hybrid.machine.store_urls import checked_url, file_name, is_url, url_of

NAME = re.compile(r"[a-z0-9-]{1,40}-[0-9a-f]{8}")


def home() -> Path:
    """The folder of this machine's own files; it is created when something is first written there."""
    chosen = os.environ.get("HYBRID_HOME")
    return Path(chosen) if chosen else Path(platformdirs.user_data_dir("hybrid", appauthor=False))


def machine_name() -> str:
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


def folder_at(text: str) -> Path:
    """The path by which commands know the shared folder `text`, a path or the URL of a store. Raises UsageError."""
    return home().absolute() / "stores" / file_name(checked_url(text)) if is_url(text) else Path(text)


def store_url(folder: Path) -> str:
    """The URL of the store that `folder_at` made this path of; "" for a directory."""
    place = folder.absolute()
    return url_of(place.name) if place.parent == home().absolute() / "stores" else ""


def shown(folder: Path) -> str:
    """The shared folder as a user names it."""
    return store_url(folder) or str(folder.absolute())


def spool_of(folder: Path) -> Path:
    """The spool: files of a worker on this machine that no laptop has acknowledged yet."""
    return home() / "spool" / _folder_id(folder)


def journals_of(folder: Path) -> Path:
    """The records of open shards of this machine's processes, for when one is killed."""
    return home() / "journals" / _folder_id(folder)


def received_of(folder: Path) -> Path:
    """Where this machine keeps its copies of what it received from the shared folder."""
    return home() / "received" / _folder_id(folder)


def index_of(folder: Path) -> Path:
    """The index of files in the shared folder that this machine has verified. It can be deleted at any time."""
    return home() / "index" / f"{_folder_id(folder)}.sqlite"


def parts_folder() -> Path:
    """The folder of unfinished files, which are renamed when they are complete. It can be deleted at any time."""
    return home() / "parts"


def forgotten_of(folder: Path) -> Path:
    """Where this machine keeps a marker for each run of the shared folder that it hides."""
    return home() / "forgotten" / _folder_id(folder)


def note_outputs(folder: Path, run: str, path: Path) -> None:
    """Remember that the outputs of a run were written to a place that somebody named, for `outputs_noted`."""
    with replacing(_outputs_note(folder, run), b"") as stream:
        stream.write(encode({"outputs": os.fsdecode(path.absolute())}))


def outputs_noted(folder: Path, run: str) -> Path | None:
    """Where the outputs of a run were last written when somebody named a place; None where nobody did."""
    try:
        value = decode(read_bounded(_outputs_note(folder, run), 100_000), what=run)
    except HybridError:  # not there, or damaged: it is a convenience
        return None
    found = value.get("outputs") if isinstance(value, dict) else None
    return Path(found) if isinstance(found, str) and found else None


def _outputs_note(folder: Path, run: str) -> Path:
    return home() / "outputs" / _folder_id(folder) / f"{run}.json"


def set_joined_folder(folder: Path) -> None:
    """Make `folder` the one that commands use by default."""
    with replacing(home() / "joined.json", b"") as stream:  # whatever a crash left there
        stream.write(encode({"folder": shown(folder)}))


def joined_folder() -> Path | None:
    """The folder that commands use by default; None when none was joined.

    Raises BadData when the file that names it is damaged: continuing with another folder would hide the damage.
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
    try:
        return folder_at(folder)
    except UsageError as error:
        raise BadData(f"{path}, which says which folder this machine uses: {error.message}", hint=again) from error


def _folder_id(folder: Path) -> str:
    """A short name for a folder: the digest of its resolved path, or of its URL."""
    if url := store_url(folder):
        return hashlib.sha256(url.encode()).hexdigest()[:16]
    with explain_errors(folder, doing="looking for it"):
        resolved = folder.resolve()
    return hashlib.sha256(os.fsencode(resolved)).hexdigest()[:16]


def cache_folder() -> Path:
    """The cache of this user: digests, converted models, replies of judges. It can be deleted at any time."""
    return Path(platformdirs.user_cache_dir("hybrid", appauthor=False))
