"""The embedder `sentence-transformers`: texts to vectors inside this process, with a model in a local folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import sentence_transformers
import torch
import transformers

from hybrid.backends.completions import encodable
from hybrid.backends.devices import limit_threads
from hybrid.backends.load_hints import EMBEDDER, EMBEDDER_ELSE, cannot_load, reason_of
from hybrid.backends.options import one_of, whole_number
from hybrid.canonical import digest
from hybrid.errors import CannotRun
from hybrid.model_files.location import (
    FETCH_AGAIN,
    PICKLES,
    WEIGHTS,
    digest_of,
    embedder_folder,
    json_in,
    refuse_adapter,
)
from hybrid.model_files.weights import check_folder
from hybrid.protocols import Model, Vector
from hybrid.records import Failure

BATCH = 64
LIBRARY_TYPES = "sentence_transformers."
"""Prefix of the types of the library's own modules; any other type would be code that comes with the model."""


class SentenceTransformersEmbedder:
    """A folder in the library's layout with safetensors weights.

    A text that is too long is a failure, never truncated.
    """

    options: ClassVar[Mapping[str, str]] = {
        "device": "auto, cpu, cuda, mps (auto: a GPU when there is one)",
        "batch": "texts that are computed together (default 64)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self._batch = whole_number(options, "batch", BATCH, low=1, high=4096)
        device = one_of(options, "device", ("auto", "cpu", "cuda", "mps"))
        folder = embedder_folder(model)
        folders = _parts(folder)
        for module_folder in folders:
            refuse_adapter(module_folder)
            check_folder(module_folder, transformers.AutoModel, optional=_optional_prefix(module_folder))
        limit_threads()
        transformers.logging.disable_progress_bar()  # otherwise it shows one for loading weights
        try:
            self._engine: Any = sentence_transformers.SentenceTransformer(
                str(folder),
                device=None if device == "auto" else device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # the library raises many types, torch's among them; all mean: no model
            raise cannot_load("sentence-transformers", folder, reason_of(error), EMBEDDER, EMBEDDER_ELSE) from error
        self.model = Model(
            name=model,
            digest=_digest(folder, folders),
            context=int(self._engine.max_seq_length or 512),
            about={
                "engine": "sentence-transformers",
                "version": f"sentence-transformers {version('sentence-transformers')}, torch {version('torch')}",
                "device": str(self._engine.device),
                "dimensions": len(self._engine.encode("a", show_progress_bar=False)),
            },
        )

    @staticmethod
    def digest_of(model: str) -> str:
        """The digest of a model, from its files alone. Raises CannotRun."""
        folder = embedder_folder(model)
        return _digest(folder, _parts(folder))

    def embed(self, texts: Iterable[str]) -> Iterator[Vector | Failure]:
        """Batch by batch, in order."""
        source = iter(texts)
        while batch := [encodable(text) for text in islice(source, self._batch)]:
            lengths = [len(ids) for ids in self._engine.tokenizer(batch, truncation=False, verbose=False)["input_ids"]]
            short = [text for text, length in zip(batch, lengths, strict=True) if length <= self.model.context]
            vectors = iter(self._vectors(short))
            for length in lengths:
                yield next(vectors) if length <= self.model.context else self._too_long(length)

    def close(self) -> None:
        """Free the model's memory."""
        self._engine = None

    def _vectors(self, texts: list[str]) -> list[Vector | Failure]:
        if not texts:
            return []
        with torch.inference_mode():
            found = self._engine.encode(
                texts, batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False
            )
        return [_unit(row) for row in found.tolist()]

    def _too_long(self, length: int) -> Failure:
        return Failure("too-long", f"a text has {length} tokens, the model reads {self.model.context}")


def _digest(folder: Path, folders: list[Path]) -> str:
    return digest([[one.relative_to(folder).as_posix(), digest_of(one)] for one in folders])


def _parts(folder: Path) -> list[Path]:
    """The folder and those of its modules. Raises CannotRun for code, for pickled weights, and for damage."""
    modules = json_in(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise CannotRun(f"{folder / 'modules.json'}: not a list of modules", hint=FETCH_AGAIN)
    for one in modules:
        if not str(one.get("type", "")).startswith(LIBRARY_TYPES):
            raise CannotRun(f"{folder}: the module {one.get('type')!r:.80} is code of its own, which is never run")
    folders = {
        folder,
        *(module_folder for one in modules if (module_folder := _inside(folder, str(one.get("path", "")))).is_dir()),
    }
    for module_folder in sorted(folders):
        pickled = sorted(file.name for file in module_folder.iterdir() if file.suffix in PICKLES)
        if pickled and not any(module_folder.glob(WEIGHTS)):
            raise CannotRun(
                f"{module_folder} holds pickled weights only ({pickled[0]}): reading them can run any code",
                hint="convert them to safetensors, or take a version of the model that has them",
            )
    return sorted(folders)


def _optional_prefix(module_folder: Path) -> str:
    """The prefix of the names of weights that may be missing: texts are pooled from hidden states, and many checkpoints
    were saved without the pooler that some architectures have.
    """
    uses_pooler = any(
        "pooler_output" in file.read_text("utf-8", "replace") for file in module_folder.glob("*config*.json")
    )
    return "" if uses_pooler else "pooler."


def _inside(folder: Path, path: str) -> Path:
    module_folder = (folder / path).resolve()
    if not module_folder.is_relative_to(folder):
        raise CannotRun(f"{folder / 'modules.json'}: the path {path!r:.80} leads out of the folder")
    return module_folder


def _unit(numbers: list[float]) -> Vector | Failure:
    length = math.hypot(*numbers)
    if not (math.isfinite(length) and length > 0):
        return Failure("engine", f"the vector of a text has the length {length}")
    return tuple(one / length for one in numbers)
