"""A GGUF file as a folder in Hugging Face's layout, for the engines that want one (torch, vLLM).

The weights are dequantised once to safetensors and kept in the local cache under the GGUF's digest. They are the
numbers that the GGUF stands for, so the model's identity stays the digest of the GGUF. A large model is converted in
steps, each of which outlives a kill.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from hybrid.errors import CannotRun
from hybrid.machine.home import cache_folder
from hybrid.model_files.gguf_files import parts_of
from hybrid.model_files.gguf_steps import Conversion
from hybrid.model_files.location import digest_of

LAYOUT = 2
"""Raised when converted folders of an older version must not be used again."""

ABANDONED = 24 * 3600.0
"""Seconds after which a draft that nothing was written to is one that a killed process left: a large model is read and
dequantised for long before its first byte is written. Age and not the process number decides, because several machines
may share the cache."""

KEPT = ".steps"
"""What the folder with the finished steps of a conversion is called behind the name of its model's."""


def as_folder(path: Path) -> Path:
    """The model folder for `path`: itself, or the converted GGUF (under a minute the first time, then from the cache).

    The folder appears under its name only when it is whole; after a kill the next call goes on at the step that was
    open. Raises CannotRun when the GGUF cannot be converted, as a split one cannot, or lacks weights.
    """
    if path.is_dir():
        return path
    if len(parts_of(path)) > 1:
        raise CannotRun(
            f"{path} is a split GGUF, which cannot be converted for torch",
            hint="--backend llamacpp reads it as it is; or join its parts: llama-gguf-split --merge",
        )
    digest = digest_of(path)
    folder = cache_folder() / "models" / f"{digest[:32]}-{LAYOUT}"
    kept = folder.with_name(f"{folder.name}{KEPT}")
    _remove_abandoned(folder.parent, but=kept)
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True, exist_ok=True)
        try:
            Conversion(path, draft, kept).run()
            _publish(draft, folder)
            shutil.rmtree(kept, ignore_errors=True)
        except CannotRun:
            shutil.rmtree(kept, ignore_errors=True)  # they will not become a model
            if not folder.is_dir():  # else another process was first, and has cleared them away
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _remove_abandoned(models: Path, *, but: Path) -> None:
    """Remove the drafts (named after their folder and process) and steps that nothing was written to for long."""
    with suppress(OSError):  # only room is at stake, and another process may be removing the same ones
        for draft in models.glob("*-*.*"):
            ours = draft.suffix[1:].isdigit() or (draft.suffix == KEPT and draft != but)
            if ours and draft.is_dir() and not draft.is_symlink():
                newest = max(part.stat().st_mtime for part in (draft, *draft.rglob("*")))
                if time.time() - newest > ABANDONED:
                    shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, folder: Path) -> None:
    """Give the finished folder its name; another process may have been first, with the same bytes."""
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
