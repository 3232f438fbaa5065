"""Check that a checkpoint holds exactly the weights of its model, in their shapes.

The library initialises missing weights with random numbers, different ones at each start, and only logs a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from hybrid.errors import CannotRun, listed
from hybrid.model_files.location import WEIGHTS
from hybrid.model_files.weight_files import check_files

HINT = "the file is damaged, or of another kind of model than its config.json says: fetch it again, or save it anew"
REPORT_KEYS = "missing_keys", "unexpected_keys", "mismatched_keys"


def refuse_incomplete(report: Mapping[str, Any], where: str) -> None:
    """Raise CannotRun when `report`, the loading information of `from_pretrained`, says that weights do not fit.

    The report does not list tied weights as missing, or weights that the library knows to be harmless as unexpected.
    """
    missing, unexpected, mismatched = (report.get(name) or () for name in REPORT_KEYS)
    shapes = [f"{name} is {_shape(held)} and must be {_shape(wanted)}" for name, held, wanted in mismatched]
    faults = [
        *([f"it lacks {listed(missing)}"] if missing else []),
        *([f"it holds {listed(unexpected)}, which its model has not"] if unexpected else []),
        *([f"shapes differ: {listed(shapes)}"] if shapes else []),
    ]
    if faults:
        raise CannotRun(f"the weights in {where} are not those of its model: {'; '.join(faults)}", hint=HINT)


def check_folder(folder: Path, auto: Any = AutoModelForCausalLM, *, optional: str = "") -> None:
    """Raise CannotRun for a folder whose weights are not whole, before an engine of another kind loads them.

    Weights whose names begin with `optional`, if that is not empty, may be missing. The model is built without memory,
    as the library would load it. What the library does not know, or has packed numbers in place of weights, is left to
    the engine.
    """
    check_files(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            return
        with quiet_transformers():
            model, report = _class_of(config, auto).from_pretrained(
                folder,
                device_map="meta",
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, SafetensorError):
        return  # not a model of the library: the engine reports its own error
    missing = {name for name in report["missing_keys"] if not (optional and name.startswith(optional))}
    refuse_incomplete({**report, "missing_keys": missing}, str(folder))
    _refuse_untied(folder, model)


def _refuse_untied(folder: Path, model: Any) -> None:
    """Raise CannotRun for weights that config.json ties and that differ in the files: vLLM would ignore one of them."""
    for one, other in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        if _differ(folder, one, other):
            raise CannotRun(
                f"{folder}: by config.json {one} is the same as {other}, and the files hold two different ones",
                hint="say tie_word_embeddings: false in config.json if both are meant, as --backend transformers does",
            )


def _differ(folder: Path, *names: str) -> bool:
    """Whether the files hold both tensors and they differ."""
    found = []
    for file in sorted(folder.glob(WEIGHTS)):
        with safe_open(file, "pt") as tensors:
            found += [tensors.get_tensor(name) for name in names if name in tensors.keys()]  # noqa: SIM118
    return len(found) == len(names) and not torch.equal(*found)


@contextmanager
def quiet_transformers(*, bar: bool = False) -> Iterator[None]:
    """Inside the block, the library logs no load report, and shows a progress bar only with `bar`."""
    level, shown = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.CRITICAL)
    if not bar:
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if shown:
            transformers.logging.enable_progress_bar()


def _class_of(config: Any, auto: Any) -> Any:
    """The class that the checkpoint was saved from, since it has the same weight names; else `auto`."""
    named = (getattr(config, "architectures", None) or [""])[0]
    own = getattr(transformers, str(named), None)
    return own if isinstance(own, type) and issubclass(own, transformers.PreTrainedModel) else auto


def _shape(size: Any) -> str:
    return "x".join(map(str, size)) or "one number"
