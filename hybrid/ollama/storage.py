"""Where a server may store its models and log: on this machine's own disk, never on a mount or in a shared folder.

At its start the server deletes layers that no listed model needs, and it downloads into sparse files in any order. On a
mount with late or incomplete listings, the first loses models and the second never completes.
"""

from __future__ import annotations

import os
from pathlib import Path

from hybrid.errors import CannotRun
from hybrid.machine import home
from hybrid.machine.files import expanded, explain_errors
from hybrid.machine.mounts import carrier_of

COLAB = Path("/content/drive")
"""Where Colab mounts Google Drive. After the mount has died, a plain folder may be there."""


def default_store() -> Path:
    """OLLAMA_MODELS, else Ollama's default."""
    named = os.environ.get("OLLAMA_MODELS", "").strip()
    return Path(named) if named else Path.home() / ".ollama" / "models"


def own_disk(place: Path, *, what: str, option: str) -> Path:
    """`place`, absolute. Raises CannotRun with the reason when it is on a mount or in a shared folder.

    `what` it is for and the `option` that names it are for the message.
    """
    if why := _why_not(expanded(place).absolute()):
        raise CannotRun(
            f"{place} is no place for {what}: {why}",
            hint=f"{option}: a place on this machine's own disk, such as {_elsewhere()}; `hybrid models` keeps models"
            " in the shared folder and brings them back",
        )
    return expanded(place).absolute()


def _why_not(place: Path) -> str:
    if place.is_relative_to(COLAB):
        return "it is on Google Drive, which shows files late or not at all"
    if carrier := carrier_of(place):
        return f"it is on a mount ({carrier}), which may show files late or not at all"
    with explain_errors(place, doing="looking where it is"):
        resolved = place.resolve()
        for known in _shared_folders():
            if resolved.is_relative_to(known.resolve()):
                return f"it is in the shared folder {known}"
        marked = next((one for one in (resolved, *resolved.parents) if (one / "hybrid.json").is_file()), None)
    return f"it is in the shared folder {marked}" if marked else ""


def _shared_folders() -> list[Path]:
    named = os.environ.get("HYBRID_FOLDER")
    return [folder for folder in (home.folder_at(named) if named else None, home.joined_folder()) if folder]


def _elsewhere() -> Path:
    return Path("/content/ollama") if Path("/content").is_dir() else Path.home() / ".ollama" / "models"
