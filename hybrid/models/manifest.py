"""The manifest of a packed model: its name, digest, layers and their parts. Its file name holds its sha256.

<folder>/models/manifests/model-<sha256>.json                              the model
<folder>/models/layers/<xx>/<sha256>/<batch>/part-<number>-<sha256>.bin    a part of one of its layers (layers.py)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from hybrid.canonical import Json, decode, digest, encode
from hybrid.errors import BadData, HybridError, Temporary
from hybrid.folder.medium import Medium
from hybrid.folder.names import DIGEST
from hybrid.machine.terminal import count_of
from hybrid.model_files.gguf_files import names_of, stem_of
from hybrid.model_files.location import TEXTS, WEIGHTS, split_digest
from hybrid.models.names import OllamaName, collide, is_inner, is_plain
from hybrid.models.ollama_manifest import MAX_SIZE, layers_of

FORMAT = "hybrid/model"
PLACE = "models/manifests"
PART = 64 * 1024 * 1024
"""Bytes of a part. At most two parts of a model are in memory at a time."""
BATCH = 250
MOST_PARTS = 1000 * BATCH
MAX_MANIFEST = 16 * 1024 * 1024
FILE = re.compile(r"model-([0-9a-f]{64})\.json")
PART_FILE = re.compile(r"part-(\d{6})-([0-9a-f]{64})\.bin")

Kind = Literal["ollama", "folder", "gguf"]
MEMBERS = {"format", "version", "kind", "name", "digest", "source", "part_size", "layers"}
LAYER_MEMBERS = {"path", "sha256", "size", "parts"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a layer: its path in the folder, its sha256, its size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One content-addressed file of a model. `path`: its destination in the model's folder, or in Ollama's blobs."""

    path: str
    sha256: str
    size: int
    parts: tuple[Part, ...] = ()

    @property
    def place(self) -> str:
        """The path of the layer in the folder."""
        return f"models/layers/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True, slots=True)
class Model:
    """A packed model. `source`: the exact text of Ollama's manifest, whose sha256 is the digest; else ""."""

    kind: Kind
    name: str
    digest: str
    layers: tuple[Layer, ...]
    source: str
    part_size: int

    @property
    def size(self) -> int:
        """Bytes of all layers, each once."""
        return sum({layer.sha256: layer.size for layer in self.layers}.values())

    @property
    def parts(self) -> dict[str, Part]:
        """Path -> part, each once."""
        return {part.path: part for layer in self.layers for part in layer.parts}

    def __str__(self) -> str:
        return f"{self.name}@{self.digest[:12]}"

    def to_bytes(self) -> bytes:
        """The content of its manifest: canonical JSON and a newline."""
        layers: list[Json] = [
            {
                "path": layer.path,
                "sha256": layer.sha256,
                "size": layer.size,
                "parts": [part.sha256 for part in layer.parts],
            }
            for layer in self.layers
        ]
        head = {"format": FORMAT, "version": 1, "kind": self.kind, "name": self.name, "digest": self.digest}
        return encode({**head, "source": self.source, "part_size": self.part_size, "layers": layers}) + b"\n"

    @property
    def path(self) -> str:
        """The path of its manifest in the folder."""
        return f"{PLACE}/model-{hashlib.sha256(self.to_bytes()).hexdigest()}.json"


def parts_of(layer: Layer, part_size: int, hashes: Sequence[str]) -> tuple[Part, ...]:
    """The first parts of a layer, with these hashes. Each has `part_size` bytes, except the last part of the layer."""
    return tuple(
        Part(
            f"{layer.place}/{number // BATCH:03d}/part-{number:06d}-{sha256}.bin",
            sha256,
            min(part_size, layer.size - number * part_size),
        )
        for number, sha256 in enumerate(hashes)
    )


def verify_model(path: str, data: bytes) -> Model:
    """The model in the bytes of a manifest. Raises BadData when it is damaged, foreign or inconsistent."""
    name = FILE.fullmatch(path.rpartition("/")[2])
    if name is None or hashlib.sha256(data).hexdigest() != name[1]:
        raise BadData(
            f"{path}: does not match the sha256 in its name: damaged or still on its way",
            hint="wait for the sync, or delete it and pack the model again",
        )
    value = decode(data, what=path, limit=MAX_MANIFEST)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BadData(f"{path}: not the manifest of a model")
    if value.get("version") != 1:
        raise BadData(f"{path}: version {value.get('version')!r:.20}, this hybrid reads 1", hint="update hybrid")
    try:
        return _model(value, data)
    except (ValueError, TypeError, BadData) as error:
        raise BadData(f"{path}: {error}", hint="pack the model again; this file may be deleted") from error


def _model(value: dict[str, Any], data: bytes) -> Model:
    if set(value) != MEMBERS or encode(value) + b"\n" != data:
        raise ValueError("its members are not those of a model, or a name stands twice in it")
    kind, texts, part_size = value["kind"], ("name", "digest", "source"), value["part_size"]
    if kind not in get_args(Kind) or not all(isinstance(value[key], str) for key in texts):
        raise ValueError("its kind, name, digest or source is not what it must be")
    if type(part_size) is not int or not 1 <= part_size <= PART or not DIGEST.fullmatch(value["digest"]):
        raise ValueError("its digest or the size of its parts is not what it must be")
    if not isinstance(value["layers"], list):
        raise ValueError("it has no layers")
    layers = tuple(_layer(layer, part_size) for layer in value["layers"])
    model = Model(kind, value["name"], value["digest"], layers, value["source"], part_size)
    checks = {"ollama": _check_ollama, "folder": _check_folder, "gguf": _check_gguf}
    checks[kind](model)
    return model


def _layer(value: Any, part_size: int) -> Layer:
    if not isinstance(value, dict) or set(value) != LAYER_MEMBERS:
        raise ValueError("the members of a layer are not what they must be")
    path, sha256, size, hashes = (value[key] for key in ("path", "sha256", "size", "parts"))
    if not (isinstance(path, str) and isinstance(hashes, list) and all(map(_is_digest, [sha256, *hashes]))):
        raise ValueError("a layer has no path, digest or parts of digests")
    if type(size) is not int or not 0 <= size < MAX_SIZE:
        raise ValueError(f"layer {sha256[:12]} has no size")
    if len(hashes) != -(-size // part_size) or len(hashes) > MOST_PARTS:
        raise ValueError(f"layer {sha256[:12]}: {count_of(len(hashes), 'part')} of it do not make {size:,} bytes")
    layer = Layer(path, sha256, size)
    return replace(layer, parts=parts_of(layer, part_size, hashes))


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and bool(DIGEST.fullmatch(value))


def _check_ollama(model: Model) -> None:
    source = model.source.encode()
    if hashlib.sha256(source).hexdigest() != model.digest:
        raise ValueError("its source does not have its digest")
    if str(OllamaName.parse(model.name)) != model.name:
        raise ValueError("its name is not as Ollama shows it")
    said = layers_of(source, what="its source")
    if [(layer.path, layer.sha256, layer.size) for layer in model.layers] != [
        (f"sha256-{sha256}", sha256, size) for sha256, size in said.items()
    ]:
        raise ValueError("its layers are not those of its source")


def _check_folder(model: Model) -> None:
    _check_plain(model)
    paths = [layer.path for layer in model.layers]
    if not all(map(is_inner, paths)) or collide(paths):
        raise ValueError("two of its files share a path, or one has a path that cannot be")
    if folder_digest(model.layers) != model.digest:
        raise ValueError("its files do not have its digest")


def _check_gguf(model: Model) -> None:
    _check_plain(model)
    paths = [layer.path for layer in model.layers]
    if not paths or split_digest([layer.sha256 for layer in model.layers]) != model.digest:
        raise ValueError("its files do not have its digest")
    named = PurePosixPath(paths[0])
    if not all(map(is_inner, paths)) or paths != names_of(stem_of(named) if len(paths) > 1 else named.stem, len(paths)):
        raise ValueError("it is not a GGUF file, nor the parts of one in order")


def _check_plain(model: Model) -> None:
    if model.source or not is_plain(model.name):
        raise ValueError("its name or source is not what it must be")
    sizes: dict[str, Layer] = {}
    for layer in model.layers:
        if sizes.setdefault(layer.sha256, layer).parts != layer.parts:
            raise ValueError(f"layer {layer.sha256[:12]} is described in two ways")


def folder_digest(layers: tuple[Layer, ...]) -> str:
    """The result of `digest_of` for the folder with these files; files in subfolders do not count."""
    known = (*TEXTS, WEIGHTS)
    named = {layer.path: layer.sha256 for layer in layers if len(PurePosixPath(layer.path).parts) == 1}
    shaping = sorted(path for path in named if any(fnmatchcase(path, pattern) for pattern in known))
    return digest([[path, named[path]] for path in shaping])


def read_models(folder: Medium) -> tuple[list[Model], list[HybridError]]:
    """Every model in the folder, by name and digest, and the errors of invalid manifests.

    Raises Temporary, CannotRun.
    """
    models, refused = [], list[HybridError]()
    for name in sorted(entry.name for entry in folder.entries(PLACE) if FILE.fullmatch(entry.name)):
        try:
            models.append(verify_model(f"{PLACE}/{name}", folder.read(f"{PLACE}/{name}", MAX_MANIFEST)))
        except (BadData, Temporary) as error:  # an unreadable manifest must not hide the others
            refused.append(error)
    return sorted(models, key=lambda model: (model.name, model.digest, model.path)), refused
