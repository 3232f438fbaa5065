"""Small models to pack, as files and in an Ollama store, and a folder whose calls fail while it is written."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.canonical import encode
from hybrid.folder.medium import Disk, Entry
from hybrid.folder.runs import join_folder
from hybrid.models.manifest import Model
from hybrid.models.names import OllamaName
from hybrid.models.ollama_store import OllamaStore
from hybrid.models.packing import ollama_source, pack

PART = 1000
"""Bytes of a part in tests."""


def ignore_progress(_: int) -> None:
    """A progress callback that does nothing."""


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def tensors(data: bytes) -> bytes:
    """A safetensors file with `data` as its only tensor."""
    header = encode({"noise": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}})
    return len(header).to_bytes(8, "little") + header + data


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def add_blob(store: OllamaStore, data: bytes) -> dict[str, Any]:
    """Put a layer into a store. Returns what a manifest says of it."""
    path = store.root / "blobs" / f"sha256-{sha256_of(data)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"digest": f"sha256:{sha256_of(data)}", "size": len(data)}


def add_model(store: OllamaStore, name: str, weights: bytes, template: bytes = b"{{ .Prompt }}") -> bytes:
    """Make a model of two layers and a configuration, as `ollama create` does. Returns its manifest."""
    kinds = {"model": weights, "template": template}
    layers = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", **add_blob(store, data)} for kind, data in kinds.items()
    ]
    config = add_blob(store, b'{"model_format":"gguf"}')
    manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode() + b"\n"
    path = store.manifest_path(OllamaName.parse(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(manifest)
    return manifest


def packed(root: Path, name: str = "tiny", size: int = 4500, seed: int = 0) -> tuple[Disk, OllamaStore, Model]:
    """A shared folder with a model of Ollama in it, and the store that it came from."""
    folder, store = join_folder(root / "folder", make=True), OllamaStore(root / "store")
    add_model(store, name, noise(size, seed))
    return folder, store, repack(folder, store, name)


def repack(folder: Disk | FailingFolder, store: OllamaStore, name: str) -> Model:
    return pack(folder, ollama_source(store, OllamaName.parse(name)), ignore_progress, part_size=PART)


def files_of(root: Path) -> dict[str, bytes]:
    """Every file below a place, by its relative path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def large_parts(model: Model) -> list[str]:
    """Paths of the parts of the model's largest layer."""
    return [part.path for part in max(model.layers, key=lambda layer: layer.size).parts]


class ProcessKilled(BaseException):
    """Stands for a killed process: a BaseException that no code may catch."""


class FailingFolder:
    """A folder that fails at a chosen call: `torn` bytes of the file are written, then it raises."""

    def __init__(self, folder: Disk, at: int, error: BaseException, torn: int = 0) -> None:
        self.folder, self.at, self.error, self.torn = folder, at, error, torn
        self.calls = 0

    def __str__(self) -> str:
        return str(self.folder)

    def entries(self, place: str) -> list[Entry]:
        return self.folder.entries(place)

    def read(self, path: str, limit: int) -> bytes:
        if path != "hybrid.json":
            self._count()
        return self.folder.read(path, limit)

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        try:
            self._count()
        except BaseException:
            if self.torn:
                place = self.folder.root / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data[: self.torn])
            raise
        self.folder.write(path, data, heal=heal)

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error


def republish(folder: Disk, model: Model, change: Mapping[str, Any]) -> str:
    """Write the model's manifest once more with other members, under the name that it then proves. Returns its path."""
    data = encode({**json.loads(model.to_bytes()), **change}) + b"\n"
    path = f"models/manifests/model-{sha256_of(data)}.json"
    folder.write(path, data)
    return path
