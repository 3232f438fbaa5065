"""The conversion of a GGUF in steps: some of its tensors at a time, each step whole on disk before the next one.

The library reads a model whole. So it is handed a smaller GGUF with a part of the tensors and takes the others for
missing; what it has loaded is saved. A step is a folder that proves itself by the digest in its note.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from hybrid.canonical import decode, encode
from hybrid.errors import BadData, CannotRun, Temporary
from hybrid.model_files.gguf_parts import Contents, Tensor, contents, steps, write
from hybrid.model_files.weights import TOLD, quiet, refuse_incomplete

NUMBERS = 1 << 28
"""Numbers in a step, about: 1 GiB of float32, the only width that keeps the GGUF's numbers."""

ALONE, NOTE, SAVED = "model.gguf", "step.json", "model.safetensors"
DESCRIBING = ("config.json", "generation_config.json")
MOST_NOTE = 1 << 26
FULL = (errno.ENOSPC, errno.EDQUOT)


class Conversion:
    """Of the GGUF at `path` into the empty folder `into`. `kept` holds finished steps, of calls before this one too."""

    def __init__(self, path: Path, into: Path, kept: Path) -> None:
        self._path, self._into, self._kept = path, into, kept
        self._notes: dict[Path, Mapping[str, Any]] = {}
        """Of the steps that are whole, each read once."""
        self._source = into / "source"
        """Where the library finds a GGUF, and nothing else: it would also take a configuration, a chat template or an
        adapter that lies beside it, of which the digest says nothing."""

    def run(self) -> None:
        """Fill the folder. Raises CannotRun, with the reason."""
        try:
            whole = contents(self._path)
            _refuse_cut(whole)
            self._convert(whole)
        except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise Temporary(
                    f"no room to convert {self._path} for torch: {self._kept.parent} is on a disk that is full",
                    hint="free some space, then run the same command again: finished steps are kept",
                ) from error
            raise CannotRun(
                f"{self._path} cannot be converted for torch: {type(error).__name__}: {error}",
                hint="the llamacpp backend reads GGUF files as they are: --backend llamacpp",
            ) from error
        finally:
            shutil.rmtree(self._source, ignore_errors=True)

    def _convert(self, whole: Contents) -> None:
        self._source.mkdir()
        _put(self._path, self._source / ALONE)
        AutoTokenizer.from_pretrained(str(self._source), gguf_file=ALONE, trust_remote_code=False).save_pretrained(
            self._into
        )
        config = AutoConfig.from_pretrained(str(self._source), gguf_file=ALONE, trust_remote_code=False)
        parts = list(steps(whole.tensors, NUMBERS))
        if not all(self._step(whole, config, parts, number) for number in range(len(parts))):
            parts, self._notes = [list(whole.tensors)], {}
            self._step(whole, config, parts, 0)
        self._join(len(parts))

    def _step(self, whole: Contents, config: Any, parts: list[list[Tensor]], number: int) -> bool:
        """Have this step on disk. False when the model's weights cannot be told apart by what a part lacks."""
        place = self._place(number, len(parts))
        if found := _note(place):
            self._notes[place] = found
            return True
        shutil.rmtree(place, ignore_errors=True)
        source = self._source / ALONE
        if len(parts) > 1:
            source.unlink()
            write(whole, parts[number], source)
        draft = self._into / place.name
        with quiet(bar=True), _named_once(), _undrawn(undrawn=len(parts) > 1):
            model, report = AutoModelForCausalLM.from_pretrained(
                str(self._source),
                config=config,
                gguf_file=ALONE,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
        if len(parts) > 1 and _silent_of(model):
            return False
        refuse_incomplete({**report, TOLD[0]: ()}, str(self._path))
        missing = set(report[TOLD[0]])
        model.save_pretrained(draft, state_dict=_loaded(model, missing), max_shard_size="1000TB")
        self._notes[place] = {"sha256": _sha256(draft / SAVED), "missing": sorted(missing)}
        (draft / NOTE).write_bytes(encode(self._notes[place]))
        self._keep(draft, place)
        return True

    def _place(self, number: int, count: int) -> Path:
        return self._kept / f"{number + 1:05d}-of-{count:05d}-{transformers.__version__}"

    def _keep(self, draft: Path, place: Path) -> None:
        """Move a finished step to where it outlives us; another process may have been first, with the same bytes."""
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.rename(place)
        except OSError:
            if _note(place) is None:
                raise
            shutil.rmtree(draft, ignore_errors=True)

    def _join(self, count: int) -> None:
        """Make one folder of the steps. Raises CannotRun when none of them has a weight that the model needs."""
        names: dict[str, str] = {}
        missing = set.intersection(*(set(note["missing"]) for note in self._notes.values()))
        refuse_incomplete({TOLD[0]: missing}, str(self._path))
        size = 0
        for number in range(count):
            place = self._place(number, count)
            file = self._into / (SAVED if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors")
            _put(place / SAVED, file, links=(os.link, shutil.move))
            size += file.stat().st_size
            with safe_open(file, "pt") as tensors:
                names |= dict.fromkeys(tensors.keys(), file.name)
            for name in DESCRIBING:
                with suppress(FileNotFoundError):
                    shutil.copyfile(place / name, self._into / name)
        if count > 1:
            index = {"metadata": {"total_size": size}, "weight_map": names}
            (self._into / f"{SAVED}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))


def _note(place: Path) -> Mapping[str, Any] | None:
    """What a finished step says of itself; None when it is not there, or not whole."""
    try:
        note = decode((place / NOTE).read_bytes(), what=NOTE, limit=MOST_NOTE)
        whole = note["sha256"] == _sha256(place / SAVED) and isinstance(note["missing"], list)
    except (OSError, BadData, KeyError, TypeError):
        return None
    return note if whole else None


def _sha256(path: Path) -> str:
    """Of the bytes that are there now: what a cache says of them is as old as they are."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _loaded(model: Any, missing: set[str]) -> dict[str, Any]:
    """The weights that came from the file, each once."""
    state = model.state_dict()
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    return {
        name: value
        for name, value in state.items()
        if name not in missing
        and not (name in tied and (tied[name] in missing or state[tied[name]].data_ptr() == value.data_ptr()))
    }


def _silent_of(model: Any) -> bool:
    """Whether the library says nothing of some weight that is missing: nobody could tell it from a loaded one."""
    return bool(getattr(model, "_keys_to_ignore_on_load_missing", None))


@contextmanager
def _undrawn(*, undrawn: bool) -> Iterator[None]:
    """Without random numbers in what a part lacks: drawing a whole model anew in each step takes longer than all else,
    and memory that is only asked for costs nothing."""
    draw = getattr(PreTrainedModel, "initialize_weights", None)
    if not undrawn or draw is None:
        yield
        return
    PreTrainedModel.initialize_weights = lambda _: None
    try:
        yield
    finally:
        PreTrainedModel.initialize_weights = draw


@contextmanager
def _named_once() -> Iterator[None]:
    """With one table of names: the library makes it anew for each of a model's hundreds of modules, which takes most of
    its time."""
    make = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = functools.cache(make)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = make


def _refuse_cut(whole: Contents) -> None:
    """Raise CannotRun when a tensor goes on behind the end of the file."""
    for tensor in whole.tensors:
        with suppress(KeyError, ValueError):  # a type that is newer than the library: it says so itself
            numbers, bytes_ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.kind)]
            wanted = tensor.numbers // numbers * bytes_
            if wanted > tensor.size:
                raise CannotRun(
                    f"{whole.path} is cut short: {tensor.size:,} of {wanted:,} bytes of its tensor {tensor.name!r:.200}"
                    " are there",
                    hint="fetch the file again",
                )


def _put(path: Path, place: Path, *, links: Any = (os.symlink, os.link, shutil.copyfile)) -> None:
    """The file at another place, without copying it where the system can."""
    for way in links:
        with suppress(OSError):
            way(path, place)
            return
    raise CannotRun(f"{path} cannot be read, or {place.parent} not be written to", hint="is there room on the disk?")
