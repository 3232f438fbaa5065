"""Check that the safetensors files of a model folder are complete and undamaged, by their headers alone.

transformers reads `model.safetensors`, else the files that the index names; vLLM reads those of the index, else every
file. A folder in which these differ would be two models under one name.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hybrid.canonical import decode
from hybrid.errors import BadData, CannotRun, listed
from hybrid.model_files.location import WEIGHTS, config_of

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
MAX_HEADER = 100 * 1000 * 1000
"""Bytes that the format allows for a header."""
MAX_INDEX = 64 * 1024**2


def check_files(folder: Path) -> None:
    """Raise CannotRun when a weight file is missing, truncated or damaged, or when it is ambiguous which files
    count.
    """
    own = config_of(folder).get("transformers_weights", WHOLE)
    if own not in (WHOLE, INDEX):
        raise CannotRun(
            f"{folder / 'config.json'} names a file of weights that only one library reads: {own!r:.80}",
            hint=f"call it {WHOLE} and take 'transformers_weights' out of config.json",
        )
    index = _index(folder)
    if index and (folder / WHOLE).is_file() and WHOLE not in index.values():
        raise CannotRun(
            f"{folder} holds two sets of weights: {WHOLE}, and those that {INDEX} names",
            hint="move one of the two away",
        )
    absent = sorted({file for file in index.values() if not (folder / file).is_file()})
    if absent:
        raise CannotRun(
            f"{folder} is not whole: {INDEX} names files that are not there: {listed(absent)}",
            hint="fetch the model again, or the files that are missing",
        )
    files = sorted(set(index.values())) or [WHOLE] * (folder / WHOLE).is_file()
    held = {name: file for file in files for name in tensors_of(folder / file)}
    misplaced = [name for name, file in index.items() if held.get(name) != file]
    if misplaced:
        raise CannotRun(
            f"{folder}: {INDEX} names tensors that are not in their files: {listed(misplaced)}",
            hint="fetch the model again: index and files are not of one model",
        )


def refuse_unnamed(folder: Path) -> None:
    """Raise CannotRun for several weight files without an index: vLLM would read every one of them."""
    files = sorted(file.name for file in folder.glob(WEIGHTS))
    if len(files) > 1 and not (folder / INDEX).is_file():
        raise CannotRun(
            f"{folder} holds several files of weights and no {INDEX}: vLLM would read them all: {listed(files)}",
            hint="keep those of one model there, with their index",
        )


def tensors_of(path: Path) -> dict[str, Any]:
    """Name -> type, shape and offsets of each tensor in a safetensors file. Raises CannotRun for a damaged file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= min(MAX_HEADER, max(0, path.stat().st_size - 8)):
                raise ValueError("its header is cut short")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        end = 8 + size + max((int(one["data_offsets"][1]) for one in header.values()), default=0)
    except OSError as error:
        raise CannotRun(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if path.stat().st_size != end:
        raise _damaged(path, f"it has {path.stat().st_size:,} bytes, and should have {end:,}")
    return dict(header)


def _damaged(path: Path, why: str) -> CannotRun:
    return CannotRun(f"{path} is no whole safetensors file: {why:.200}", hint="fetch the model again")


def _index(folder: Path) -> dict[str, str]:
    """Tensor -> file, from the index; empty without one. Raises CannotRun."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        index = decode(path.read_bytes(), what=str(path), limit=MAX_INDEX)
        found = {str(name): str(file) for name, file in index["weight_map"].items()}
    except (BadData, KeyError, TypeError, AttributeError) as error:
        raise CannotRun(f"{path} does not say which file holds which tensor", hint="fetch the model again") from error
    _refuse_outside(path, found.values())
    return found


def _refuse_outside(path: Path, files: Collection[str]) -> None:
    outside = sorted({file for file in files if not file or Path(file).name != file})
    if outside:
        raise CannotRun(f"{path} names files in other places: {listed(outside)}", hint="is it a model's own index?")
