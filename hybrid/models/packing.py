"""Pack a model into the shared folder. Its manifest, without which it does not exist, is written last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid.errors import BadData
from hybrid.folder.medium import Medium
from hybrid.folder.runs import check_mark
from hybrid.machine.files import explain_errors
from hybrid.machine.lock import exclusive_lock
from hybrid.model_files.location import sha256_of, split_digest
from hybrid.models import file_models
from hybrid.models.layers import OnProgress, write_layer
from hybrid.models.manifest import MAX_MANIFEST, PART, Kind, Layer, Model, folder_digest, verify_model
from hybrid.models.names import OllamaName
from hybrid.models.ollama_manifest import layers_of
from hybrid.models.ollama_store import OllamaStore


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on this machine's disk. `files`: path of a layer -> its file, sha256 and size in bytes."""

    kind: Kind
    name: str
    digest: str
    files: Mapping[str, tuple[Path, str, int]]
    text: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, _, size in self.files.values())


def ollama_source(store: OllamaStore, name: OllamaName) -> ModelSource:
    """A model of Ollama. Raises UsageError when it is not in the store, BadData when the store is damaged."""
    source = store.manifest_of(name)
    said = layers_of(source, what=str(store.manifest_path(name)))
    files = {f"sha256-{sha256}": (store.blob(sha256), sha256, size) for sha256, size in said.items()}
    for path, _, size in files.values():
        with explain_errors(path, doing="looking for it"):
            if not path.is_file() or path.stat().st_size != size:
                raise BadData(
                    f"{path}: a layer of {name} that is not there, or not of the {size:,} bytes it should have",
                    hint=f"this copy of the model is damaged: hybrid models pull {name}, or create it again",
                )
    return ModelSource("ollama", str(name), hashlib.sha256(source).hexdigest(), files, source.decode())


def plain_source(path: Path, name: str) -> ModelSource:
    """A model folder or a GGUF. Its files are hashed once; the digests are cached."""
    kind, found = file_models.described(path)
    files = {}
    for inner, file in found.items():
        with explain_errors(file, doing="reading it"):
            files[inner] = (file, sha256_of(file), file.stat().st_size)
    layers = tuple(Layer(inner, sha256, size) for inner, (_, sha256, size) in files.items())
    digest = folder_digest(layers) if kind == "folder" else split_digest([layer.sha256 for layer in layers])
    return ModelSource(kind, file_models.name_for(path, name), digest, files)


def pack(folder: Medium, source: ModelSource, on_progress: OnProgress, *, part_size: int = PART) -> Model:
    """Write the missing or damaged parts of a model. Packing is idempotent.

    Raises BadData when the source does not verify, Temporary when the folder is unavailable or full; the same call then
    resumes.
    """
    check_mark(folder)
    with exclusive_lock(Path(str(folder), "models"), f"packs models into {folder}"):
        layers = _layers(folder, source, part_size, on_progress)
        model = Model(source.kind, source.name, source.digest, layers, source.text, part_size)
        _publish(folder, model)
    return model


def _layers(folder: Medium, source: ModelSource, part_size: int, on_progress: OnProgress) -> tuple[Layer, ...]:
    """Write every layer once. Returns the layers with their parts."""
    done: dict[str, Layer] = {}
    for file, sha256, size in source.files.values():
        if sha256 in done:
            on_progress(size)
        else:
            done[sha256] = write_layer(folder, file, Layer("", sha256, size), part_size, on_progress)
    return tuple(replace(done[sha256], path=path) for path, (_, sha256, _) in source.files.items())


def _publish(folder: Medium, model: Model) -> None:
    """Write the manifest, after verifying it as a reader does."""
    data = model.to_bytes()
    if len(data) > MAX_MANIFEST:
        raise BadData(f"{model}: has too many layers to be packed: its manifest would be {len(data):,} bytes")
    verify_model(model.path, data)
    check_mark(folder)
    folder.write(model.path, data, heal=True)
