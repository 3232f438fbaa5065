"""The store of Ollama on this machine's own disk: models by name, layers by digest.

<store>/manifests/<host>/<namespace>/<model>/<tag>    what a model is made of <store>/blobs/sha256-<digest>
its layers <store>/hybrid-restore/                               incomplete layers; not in blobs/, where the server
deletes names that it does not know
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hybrid.errors import BadData, CannotRun, UsageError, nearest
from hybrid.machine.files import explain_errors, read_bounded
from hybrid.machine.mounts import carrier_of
from hybrid.models.names import OllamaName
from hybrid.models.ollama_manifest import MAX_SOURCE

STAGING = "hybrid-restore"
SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")


def chosen_store(store: Path | None) -> Path:
    """`--store`, else OLLAMA_MODELS, else Ollama's default."""
    named = os.environ.get("OLLAMA_MODELS")
    return store or (Path(named) if named else Path.home() / ".ollama" / "models")


@dataclass(frozen=True, slots=True)
class OllamaStore:
    """The store at `root`."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def names(self) -> list[str]:
        """The names of the models in the store, as `ollama list` shows them."""
        return sorted(str(name) for name, _ in self._manifests())

    def manifest_of(self, name: OllamaName) -> bytes:
        """The exact bytes of a model's manifest. Raises UsageError when there is none, BadData."""
        path = self.manifest_path(name)
        if not path.is_file():
            other = SERVICE_STORE
            elsewhere = f"; the service's models are in {other}: --store" if other.is_dir() else ""
            raise UsageError(
                f"no model '{name}' in Ollama's store {self}", hint=nearest(str(name), self.names()) + elsewhere
            )
        return read_bounded(path, MAX_SOURCE)

    def manifest_path(self, name: OllamaName) -> Path:
        """The path of a model's manifest, existing or not. For Ollama, names that differ only in case are the same."""
        path = self.root / "manifests"
        for part in name.parts:
            path = path / _spelled(refuse_link(path), part)
        return refuse_link(path)

    def blob(self, sha256: str) -> Path:
        """The path of a layer, existing or not."""
        return refuse_link(self.root / "blobs") / f"sha256-{sha256}"

    @property
    def staging(self) -> Path:
        """The folder in which layers are written until they are complete."""
        return self.root / STAGING

    def refuse_bad_place(self, folder: Path) -> None:
        """Raise CannotRun when the store is on a mount, UsageError when it is in the shared folder or around it."""
        why = f"the server deletes layers whose model it does not see: no store for {self}"
        with explain_errors(self.root, doing="looking where it is"):
            root, shared = self.root.resolve(), folder.resolve()
        if shared in (root, *root.parents) or root in shared.parents:
            raise UsageError(f"{why} in a shared folder", hint="--store: a place on this machine's own disk")
        marked = next((one for one in (root, *root.parents) if (one / "hybrid.json").is_file()), None)
        if marked:
            raise UsageError(f"{why} in the shared folder {marked}", hint="--store: a place on this machine's own disk")
        if carrier := carrier_of(root):
            raise CannotRun(f"{why} on a mount ({carrier})", hint="--store: a place on this machine's own disk")

    def _manifests(self) -> Iterator[tuple[OllamaName, Path]]:
        for path in sorted((self.root / "manifests").glob("*/*/*/*")):
            host, namespace, model, tag = path.parts[-4:]
            try:
                name = OllamaName.parse(f"{host}/{namespace}/{model}:{tag}")
            except BadData:
                continue
            if path.is_file():
                yield name, path


def refuse_link(path: Path) -> Path:
    """`path`. Raises BadData when it is a symbolic link, since nothing must be written through one."""
    if path.is_symlink():
        raise BadData(f"{path}: a link in Ollama's store, not followed", hint="put what it leads to in its place")
    return path


def _spelled(place: Path, part: str) -> str:
    """`part` in the spelling of an existing entry of `place` that differs only in case."""
    with explain_errors(place, doing="listing it"):
        found = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
    alike = [name for name in found if name.lower() == part.lower()]
    return part if part in alike or not alike else alike[0]
