"""The commands that work on a run: those of a new one on its machines, and that with which a stopped one goes on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from hybrid.backends.registry import NAMED_MODELS, SERVED
from hybrid.folder.spec import ModelSpec
from hybrid.model_files.location import HUB_NAME, PACKAGED


def model_options(models: Sequence[ModelSpec]) -> str:
    """The options of `hybrid worker` for models whose names do not locate them on another machine."""
    known = {one for names in NAMED_MODELS.values() for one in names}
    named = [one.name for one in models if one.backend not in SERVED and one.name not in known]
    unknown = [name for name in named if name not in PACKAGED and not HUB_NAME.fullmatch(name)]
    return "".join(f" --model {shlex.quote(name)}=PATH" for name in dict.fromkeys(unknown))


def worker_command(run: str, side: str, folder: str, models: Sequence[ModelSpec], *, divided: bool = False) -> str:
    """The command that goes on with a run whose next stage is for `side`, on this machine or on a GPU machine.

    `folder` is its shared folder as it is named here; a GPU machine has it elsewhere. Where a stage is `divided`, each
    worker is told its side: two that both believed to be the laptop, for want of a GPU, would wait for ever.
    """
    if side == "gpu":
        chosen = " --side gpu" if divided else ""
        return f"on the GPU machine: `hybrid worker FOLDER{chosen} --run {run}{model_options(models)}`"
    chosen = " --side laptop" if side == "laptop" else ""
    return f"`hybrid worker {shlex.quote(folder)}{chosen} --run {run}{model_options(models)}`"
