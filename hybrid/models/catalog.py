"""The models that are packed in the folder: by name, with their status, and the one that a name selects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hybrid.errors import BadData, HybridError, UsageError, nearest
from hybrid.folder.medium import Medium, NotThere
from hybrid.models.layers import OnProgress, check_layer, present
from hybrid.models.manifest import Layer, Model, read_models
from hybrid.models.names import OllamaName, is_plain

SHORTEST = 4
"""Fewest digits of a digest that can select a model."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The status of a model: how many of its parts are listed, and how many of its bytes other models share."""

    model: Model
    here: int
    parts: int
    shared: int

    @property
    def complete(self) -> bool:
        """Whether all parts are listed. Their content is not checked: `verify` does that."""
        return self.here == self.parts


def model_statuses(folder: Medium) -> tuple[list[ModelStatus], list[HybridError]]:
    """The status of every model in the folder, and the errors of invalid manifests."""
    models, refused = read_models(folder)
    uses = Counter(sha256 for model in models for sha256 in {layer.sha256 for layer in model.layers})
    found = []
    for model in models:
        sizes = {layer.sha256: layer.size for layer in model.layers}
        shared = sum(size for sha256, size in sizes.items() if uses[sha256] > 1)
        found.append(ModelStatus(model, len(present(folder, model)), len(model.parts), shared))
    return found, refused


def chosen(folder: Medium, name: str) -> Model:
    """The one model that `name` selects: NAME, or NAME@ and the beginning of a digest.

    Raises UsageError, also for a name that several digests have; NotThere when no model of that name has arrived;
    BadData or Temporary when no model fits and some manifest cannot be read.
    """
    models, refused = read_models(folder)
    found = matching(models, name)
    if not found and refused:
        raise refused[0]
    if not found:
        raise not_there(folder, name, models)
    refuse_several(found, name, folder)
    return max(found, key=lambda model: len(present(folder, model)) / max(1, len(model.parts)))


def not_there(folder: Medium, name: str, models: Iterable[Model]) -> NotThere:
    """The error for a name that no model has: a wrong name looks like one whose manifest has not arrived yet."""
    known = nearest(name, {f"{model.name}@{model.digest[:12]}" if "@" in name else model.name for model in models})
    return NotThere(
        f"no model '{name}' is packed in {folder}, or it has not arrived",
        hint=f"if the name is right, wait for the sync, then run the same command; {known}",
    )


def refuse_several(found: Iterable[Model], name: str, folder: Medium) -> None:
    """Raise UsageError when a name selects models of several digests or kinds."""
    if len({(model.digest, model.kind) for model in found}) > 1:
        one = ", ".join(sorted({f"{model} ({model.kind})" for model in found}))
        raise UsageError(f"'{name}' is more than one model in {folder}", hint=f"name one of them: {one}")


def matching(models: Iterable[Model], name: str) -> list[Model]:
    """The models that NAME or NAME@DIGEST may select. Raises UsageError for an impossible name."""
    plain, at, digest = name.partition("@")
    digest = digest.removeprefix("sha256:")
    if at and len(digest) < SHORTEST:
        raise UsageError(f"'{name}': at least {SHORTEST} digits of a digest follow the @")
    try:
        as_ollama = str(OllamaName.parse(plain)).lower()
    except BadData:
        as_ollama = ""
        if not is_plain(plain):
            raise UsageError(
                f"{plain[:200]!r} cannot be the name of a model", hint="hybrid models list shows the names"
            ) from None
    return [
        model
        for model in models
        if model.digest.startswith(digest)
        and (model.name.lower() == as_ollama if model.kind == "ollama" else model.name == plain)
    ]


def check(folder: Medium, models: Iterable[Model], on_progress: OnProgress) -> list[HybridError]:
    """Read every layer of the models, each once. Returns the errors of what is missing or damaged."""
    seen: set[Layer] = set()
    wrong: list[HybridError] = []
    for model in models:
        for layer in model.layers:
            if layer not in seen:
                seen.add(layer)
                wrong += check_layer(folder, layer, on_progress)
    return wrong
