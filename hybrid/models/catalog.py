"""What is packed in the folder: models by name, which of them a name means, and how they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hybrid.errors import BadData, HybridError, UsageError, nearest
from hybrid.folder.medium import Medium, NotThere
from hybrid.models.layers import Told, check_layer, present
from hybrid.models.manifest import Layer, Model, read_models
from hybrid.models.names import OllamaName, is_plain

SHORTEST = 4
"""Fewest digits of a digest that name one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model stands: how many of its parts a listing shows, and how many of its bytes other models have too."""

    model: Model
    here: int
    parts: int
    shared: int

    @property
    def complete(self) -> bool:
        """Whether all parts are listed. Whether they are whole, `verify` tells."""
        return self.here == self.parts


def standings(folder: Medium) -> tuple[list[Standing], list[HybridError]]:
    """Every model in the folder, and why other manifests are none."""
    models, refused = read_models(folder)
    uses = Counter(sha256 for model in models for sha256 in {layer.sha256 for layer in model.layers})
    found = []
    for model in models:
        sizes = {layer.sha256: layer.size for layer in model.layers}
        shared = sum(size for sha256, size in sizes.items() if uses[sha256] > 1)
        found.append(Standing(model, len(present(folder, model)), len(model.parts), shared))
    return found, refused


def chosen(folder: Medium, name: str) -> Model:
    """The one model that `name` means: NAME, or NAME@ and the beginning of a digest.

    A name that several digests have is none. Raises UsageError; NotThere when no model of that name has arrived;
    BadData or Temporary when a manifest that cannot be read may be the one.
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
    """What is said of a name that no model has: nobody can tell a wrong one from one that is still on its way."""
    known = nearest(name, {f"{model.name}@{model.digest[:12]}" if "@" in name else model.name for model in models})
    return NotThere(
        f"no model '{name}' is packed in {folder}, or it has not arrived",
        hint=f"if the name is right, wait for the sync, then run the same command; {known}",
    )


def refuse_several(found: Iterable[Model], name: str, folder: Medium) -> None:
    """Raise UsageError when a name means models of several digests or kinds."""
    if len({(model.digest, model.kind) for model in found}) > 1:
        one = ", ".join(sorted({f"{model} ({model.kind})" for model in found}))
        raise UsageError(f"'{name}' is more than one model in {folder}", hint=f"name one of them: {one}")


def matching(models: Iterable[Model], name: str) -> list[Model]:
    """The models that NAME or NAME@DIGEST may mean. Raises UsageError on what can be the name of none."""
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
                f"{plain[:200]!r} can be no model's name", hint="hybrid models list shows the names"
            ) from None
    return [
        model
        for model in models
        if model.digest.startswith(digest)
        and (model.name.lower() == as_ollama if model.kind == "ollama" else model.name == plain)
    ]


def check(folder: Medium, models: Iterable[Model], told: Told) -> list[HybridError]:
    """Read every layer of the models, each once. What is missing or damaged."""
    seen: set[Layer] = set()
    wrong: list[HybridError] = []
    for model in models:
        for layer in model.layers:
            if layer not in seen:
                seen.add(layer)
                wrong += check_layer(folder, layer, told)
    return wrong
