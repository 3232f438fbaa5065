"""Finds the program `ollama`: at the place that the user names, else on PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hybrid.errors import CannotRun, UsageError
from hybrid.machine.files import expanded, explain_errors
from hybrid.ollama.archive import installed, is_archive

INSIDE = ("bin/ollama", "ollama")
"""Paths of the program in a folder or an archive; its libraries are in lib/ollama."""


def find(place: Path | None) -> Path:
    """The path of the program. `place`: the program, a folder that contains it, or a release archive to unpack.

    Raises UsageError when it is missing, CannotRun when it cannot be executed, BadData for a damaged archive.
    """
    if place is None:
        return _on_path()
    with explain_errors(place, doing="looking for Ollama"):
        place = expanded(place).absolute()
        if place.is_dir():
            return _in_folder(place)
        if not place.is_file():
            raise UsageError(f"{place} is not there", hint="--from: the program, its folder, or a release archive")
    return _in_folder(installed(place)) if is_archive(place) else _executable(place)


def _on_path() -> Path:
    found = shutil.which("ollama")
    if found is None:
        raise CannotRun(
            "there is no `ollama` on this machine",
            hint="install it, or name its release archive, such as ollama-linux-amd64.tar.zst: --from ARCHIVE",
        )
    return Path(found)


def _in_folder(folder: Path) -> Path:
    for name in INSIDE:
        if (folder / name).is_file():
            return _executable(folder / name)
    raise UsageError(f"there is no bin/ollama in {folder}", hint="--from: where Ollama was unpacked, or its archive")


def _executable(path: Path) -> Path:
    if not os.access(path, os.X_OK):
        raise CannotRun(
            f"{path} cannot be executed",
            hint=f"chmod +x {path}; what is on a mount cannot be at all: name a release archive instead",
        )
    return path
