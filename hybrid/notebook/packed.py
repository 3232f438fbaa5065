"""The models of a run that are packed in the shared folder: the other machine restores them from there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from hybrid.folder.medium import Medium
from hybrid.folder.spec import ModelSpec
from hybrid.model_files.gguf_files import stem_of
from hybrid.models.catalog import matching
from hybrid.models.manifest import Model, read_models


@dataclass(frozen=True, slots=True)
class PackedModel:
    """A model of the run and how to restore it. `inner`: the file to use below the place of it, "" for that itself;
    `files`: what is copied of the folder where only a part of it is, as patterns of rclone; `served`: by Ollama, into
    whose store it goes.
    """

    name: str
    packed: str
    inner: str
    files: tuple[str, ...]
    served: bool = False


def packed_models(folder: Medium, models: Iterable[ModelSpec]) -> tuple[PackedModel, ...]:
    """Those of `models` that the folder has: by digest, or by name where the run has none yet and one fits."""
    known = read_models(folder)[0]
    found = []
    for spec in models:
        fits = [model for model in known if _fits(spec, model)]
        if len({model.digest for model in fits}) == 1:
            found.append(_packed(spec.name, fits[0]))
    return tuple(found)


def _fits(spec: ModelSpec, model: Model) -> bool:
    if (spec.backend == "ollama") != (model.kind == "ollama"):
        return False
    if spec.digest:
        return model.digest == spec.digest
    if model.kind == "ollama":
        return bool(matching([model], spec.name))
    path = PurePath(spec.name)
    return model.name in (path.name, stem_of(path))


def _packed(name: str, model: Model) -> PackedModel:
    inner = model.layers[0].path if model.kind == "gguf" else ""
    layers = dict.fromkeys(f"/{layer.place}/**" for layer in model.layers)
    return PackedModel(name, str(model), inner, (f"/{model.path}", *layers), served=model.kind == "ollama")
