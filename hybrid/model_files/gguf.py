"""A GGUF file as a folder in Hugging Face's layout, for the engines that need one (torch, vLLM).

The weights are dequantised once to safetensors and cached under the GGUF's digest. Their values are those of the GGUF,
so the model's identity remains the digest of the GGUF. A large model is converted in steps; finished steps survive a
kill.
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
"""Version of the layout; it is raised when folders of an older version must not be used again."""

ABANDONED_SECONDS = 24 * 3600.0
"""Seconds without a write after which a draft counts as left by a killed process: a large model is read and dequantised
for long before its first byte is written. The age decides, not the process id, since several machines may share the
cache."""

STEPS_SUFFIX = ".steps"
"""Suffix of the folder with the finished steps of a conversion, after the name of the model's folder."""


def as_folder(path: Path) -> Path:
    """The model folder for `path`: itself, or the converted GGUF (under a minute the first time, then from the cache).

    The folder gets its name only when it is complete; after a kill the next call resumes at the unfinished step. Raises
    CannotRun when the GGUF cannot be converted, as a split one cannot, or lacks weights.
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
    steps_folder = folder.with_name(f"{folder.name}{STEPS_SUFFIX}")
    _remove_abandoned(folder.parent, but=steps_folder)
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True, exist_ok=True)
        try:
            Conversion(path, draft, steps_folder).run()
            _publish(draft, folder)
            shutil.rmtree(steps_folder, ignore_errors=True)
        except CannotRun:
            shutil.rmtree(steps_folder, ignore_errors=True)  # they cannot become a model
            if not folder.is_dir():  # else another process was first, and has removed them
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _remove_abandoned(models: Path, *, but: Path) -> None:
    """Remove abandoned drafts (named after their folder and process) and abandoned steps."""
    with suppress(OSError):  # only disk space is at stake, and another process may remove the same ones
        for draft in models.glob("*-*.*"):
            ours = draft.suffix[1:].isdigit() or (draft.suffix == STEPS_SUFFIX and draft != but)
            if ours and draft.is_dir() and not draft.is_symlink():
                newest = max(part.stat().st_mtime for part in (draft, *draft.rglob("*")))
                if time.time() - newest > ABANDONED_SECONDS:
                    shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, folder: Path) -> None:
    """Rename the draft to `folder`; another process may have been first, with the same bytes."""
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
