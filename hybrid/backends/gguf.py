"""A GGUF file as a folder in Hugging Face's layout, for the engines that want one (torch, vLLM).

The weights are dequantised once to safetensors and kept in the local cache under the GGUF's digest. They are the
numbers that the GGUF stands for, so the model's identity stays the digest of the GGUF.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from hybrid.backends.gguf_files import parts_of
from hybrid.backends.model_files import cache_folder, digest_of
from hybrid.backends.weights import quiet, refuse_incomplete
from hybrid.errors import CannotRun

LAYOUT = 2
"""Raised when converted folders of an older version must not be used again."""

SOURCE, ALONE = "source", "model.gguf"
"""Where the library finds the GGUF while it is converted, and under which name."""

ABANDONED = 24 * 3600.0
"""Seconds after which a draft that nothing was written to is one that a killed process left: a large model is read and
dequantised for long before its first byte is written. Age and not the process number decides, because several machines
may share the cache."""


def as_folder(path: Path) -> Path:
    """The model folder for `path`: itself, or the converted GGUF (under a minute the first time, then from the cache).

    The folder appears under its name only when it is whole. Raises CannotRun when the GGUF cannot be converted, as a
    split one cannot, or lacks weights.
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
    _remove_abandoned(folder.parent)
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True, exist_ok=True)
        try:
            _convert(path, draft)
            _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _convert(path: Path, folder: Path) -> None:
    """Write the model of a GGUF into `folder`. The library sees that file alone: it would also take a configuration, a
    chat template or an adapter that lies beside it, of which the digest says nothing."""
    source = folder / SOURCE
    source.mkdir()
    _put(path, source / ALONE)
    parts = {"gguf_file": ALONE, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), **parts)
        with quiet(bar=True):
            model, report = AutoModelForCausalLM.from_pretrained(
                str(source),
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                output_loading_info=True,
                **parts,
            )
        refuse_incomplete(report, str(path))
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)  # float32: the only width that keeps the GGUF's numbers
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise CannotRun(
            f"{path} cannot be converted for torch: {type(error).__name__}: {error}",
            hint="the llamacpp backend reads GGUF files as they are: --backend llamacpp",
        ) from error
    finally:
        shutil.rmtree(source, ignore_errors=True)


def _put(path: Path, place: Path) -> None:
    """The file at another place, without copying it where the system can."""
    for way in (os.symlink, os.link, shutil.copyfile):
        with suppress(OSError):
            way(path, place)
            return
    raise CannotRun(f"{path} cannot be read, or {place.parent} not be written to", hint="is there room on the disk?")


def _remove_abandoned(models: Path) -> None:
    """Remove the drafts (named after their folder and process) that nothing was written to for long."""
    with suppress(OSError):  # only room is at stake, and another process may be removing the same ones
        for draft in models.glob("*-*.*"):
            if draft.suffix[1:].isdigit() and draft.is_dir() and not draft.is_symlink():
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
