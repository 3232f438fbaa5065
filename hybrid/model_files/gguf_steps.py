"""The conversion of a GGUF in steps: some of its tensors at a time, each step complete on disk before the next.

transformers reads whole models. So it reads a smaller GGUF with a part of the tensors, takes the others for missing,
and what it has loaded is saved. A step is a folder, verified by the digest in its step.json.
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
from hybrid.model_files.gguf_parts import Contents, Tensor, contents, split_tensors, write_subset
from hybrid.model_files.weights import REPORT_KEYS, quiet_transformers, refuse_incomplete

STEP_PARAMETERS = 1 << 28
"""Approximate parameters in a step: 1 GiB of float32, the only type that keeps the GGUF's values exactly."""

SOURCE_FILE, STEP_FILE, WEIGHTS_FILE = "model.gguf", "step.json", "model.safetensors"
CONFIG_FILES = ("config.json", "generation_config.json")
MAX_STEP_FILE = 1 << 26
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Conversion:
    """Of the GGUF at `path` into the empty folder `into`.

    `steps_folder` holds finished steps, of calls before this one too.
    """

    def __init__(self, path: Path, into: Path, steps_folder: Path) -> None:
        self._path, self._into, self._steps_folder = path, into, steps_folder
        self._steps: dict[Path, Mapping[str, Any]] = {}
        """The step.json of each finished step, read once."""
        self._source = into / "source"
        """A folder with the GGUF alone: the library would also read a configuration, a chat template or an adapter
        beside it, which the digest does not cover."""

    def run(self) -> None:
        """Convert. Raises CannotRun with the reason, Temporary when the disk is full."""
        try:
            whole = contents(self._path)
            _refuse_cut(whole)
            self._convert(whole)
        except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise Temporary(
                    f"no room to convert {self._path} for torch: {self._steps_folder.parent} is on a disk that is full",
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
        _link_or_copy(self._path, self._source / SOURCE_FILE)
        AutoTokenizer.from_pretrained(
            str(self._source), gguf_file=SOURCE_FILE, trust_remote_code=False
        ).save_pretrained(self._into)
        config = AutoConfig.from_pretrained(str(self._source), gguf_file=SOURCE_FILE, trust_remote_code=False)
        parts = list(split_tensors(whole.tensors, STEP_PARAMETERS))
        if not all(self._step(whole, config, parts, number) for number in range(len(parts))):
            parts, self._steps = [list(whole.tensors)], {}
            self._step(whole, config, parts, 0)
        self._join(len(parts))

    def _step(self, whole: Contents, config: Any, parts: list[list[Tensor]], number: int) -> bool:
        """Make sure that the step is on disk.

        False when the library does not report all missing weights of this model.
        """
        place = self._place(number, len(parts))
        if found := _finished_step(place):
            self._steps[place] = found
            return True
        shutil.rmtree(place, ignore_errors=True)
        source = self._source / SOURCE_FILE
        if len(parts) > 1:
            source.unlink()
            write_subset(whole, parts[number], source)
        draft = self._into / place.name
        with quiet_transformers(bar=True), _cached_name_map(), _without_init(skip_init=len(parts) > 1):
            model, report = AutoModelForCausalLM.from_pretrained(
                str(self._source),
                config=config,
                gguf_file=SOURCE_FILE,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
        if len(parts) > 1 and _ignores_missing(model):
            return False
        refuse_incomplete({**report, REPORT_KEYS[0]: ()}, str(self._path))
        missing = set(report[REPORT_KEYS[0]])
        model.save_pretrained(draft, state_dict=_loaded(model, missing), max_shard_size="1000TB")
        self._steps[place] = {"sha256": _sha256(draft / WEIGHTS_FILE), "missing": sorted(missing)}
        (draft / STEP_FILE).write_bytes(encode(self._steps[place]))
        self._keep(draft, place)
        return True

    def _place(self, number: int, count: int) -> Path:
        return self._steps_folder / f"{number + 1:05d}-of-{count:05d}-{transformers.__version__}"

    def _keep(self, draft: Path, place: Path) -> None:
        """Move a finished step to the steps folder; another process may have been first, with the same bytes."""
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.rename(place)
        except OSError:
            if _finished_step(place) is None:
                raise
            shutil.rmtree(draft, ignore_errors=True)

    def _join(self, count: int) -> None:
        """Make one model folder of the steps. Raises CannotRun when none of them has a weight that the model needs."""
        names: dict[str, str] = {}
        missing = set.intersection(*(set(step["missing"]) for step in self._steps.values()))
        refuse_incomplete({REPORT_KEYS[0]: missing}, str(self._path))
        size = 0
        for number in range(count):
            place = self._place(number, count)
            file = self._into / (WEIGHTS_FILE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors")
            _link_or_copy(place / WEIGHTS_FILE, file, ways=(os.link, shutil.move))
            size += file.stat().st_size
            with safe_open(file, "pt") as tensors:
                names |= dict.fromkeys(tensors.keys(), file.name)
            for name in CONFIG_FILES:
                with suppress(FileNotFoundError):
                    shutil.copyfile(place / name, self._into / name)
        if count > 1:
            index = {"metadata": {"total_size": size}, "weight_map": names}
            (self._into / f"{WEIGHTS_FILE}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))


def _finished_step(place: Path) -> Mapping[str, Any] | None:
    """The step.json of a finished step; None when the step is missing or incomplete."""
    try:
        step = decode((place / STEP_FILE).read_bytes(), what=STEP_FILE, limit=MAX_STEP_FILE)
        whole = step["sha256"] == _sha256(place / WEIGHTS_FILE) and isinstance(step["missing"], list)
    except (OSError, BadData, KeyError, TypeError):
        return None
    return step if whole else None


def _sha256(path: Path) -> str:
    """The sha256 of the file's present bytes; no cached digest is used."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _loaded(model: Any, missing: set[str]) -> dict[str, Any]:
    """The weights that were loaded from the file, tied ones once."""
    state = model.state_dict()
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    return {
        name: value
        for name, value in state.items()
        if name not in missing
        and not (name in tied and (tied[name] in missing or state[tied[name]].data_ptr() == value.data_ptr()))
    }


def _ignores_missing(model: Any) -> bool:
    """Whether the library does not report some missing weights, which then look like loaded ones."""
    return bool(getattr(model, "_keys_to_ignore_on_load_missing", None))


@contextmanager
def _without_init(*, skip_init: bool) -> Iterator[None]:
    """Do not initialise missing weights with random numbers: that would take longer than all else in each step, and
    memory that is allocated but not written costs nothing.
    """
    initialize = getattr(PreTrainedModel, "initialize_weights", None)
    if not skip_init or initialize is None:
        yield
        return
    PreTrainedModel.initialize_weights = lambda _: None
    try:
        yield
    finally:
        PreTrainedModel.initialize_weights = initialize


@contextmanager
def _cached_name_map() -> Iterator[None]:
    """Cache the table of tensor names: the library rebuilds it for each of a model's hundreds of modules, which takes
    most of its time.
    """
    get_map = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = functools.cache(get_map)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = get_map


def _refuse_cut(whole: Contents) -> None:
    """Raise CannotRun when a tensor extends beyond the end of the file."""
    for tensor in whole.tensors:
        with suppress(KeyError, ValueError):  # a type that is newer than the library, which raises its own error
            parameters, bytes_ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.kind)]
            wanted = tensor.parameters // parameters * bytes_
            if wanted > tensor.size:
                raise CannotRun(
                    f"{whole.path} is cut short: {tensor.size:,} of {wanted:,} bytes of its tensor {tensor.name!r:.200}"
                    " are there",
                    hint="fetch the file again",
                )


def _link_or_copy(path: Path, place: Path, *, ways: Any = (os.symlink, os.link, shutil.copyfile)) -> None:
    """Make the file available at `place`: by the first of `ways` that works, copying last."""
    for way in ways:
        with suppress(OSError):
            way(path, place)
            return
    raise CannotRun(f"{path} cannot be read, or {place.parent} not be written to", hint="is there room on the disk?")
