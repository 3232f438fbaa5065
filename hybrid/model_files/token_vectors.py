"""The vectors of a model's tokens: the matrix of its input embedding, from its safetensors files alone."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from hybrid.errors import CannotRun, listed
from hybrid.model_files.location import WEIGHTS, locate
from hybrid.model_files.weight_files import check_files

NAMES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight", "embed_in.weight")
"""How the names of such matrices end: Llama and its like, GPT-2, BERT, Llama's own, GPT-NeoX."""


def token_vectors(name: str) -> torch.Tensor:
    """The vectors [vocabulary, width] of the model that `name` means (`location.locate`), in float32.

    Raises CannotRun for a model that is not there, has no safetensors, or has not one such matrix.
    """
    folder = locate(name)
    if folder.is_file():
        raise CannotRun(f"{folder} is a GGUF", hint="give a folder with config.json and *.safetensors")
    check_files(folder)
    held = {one: file for file in sorted(folder.glob(WEIGHTS)) for one in _embeddings(file)}
    if len(held) != 1:
        found = f"{listed(sorted(held))}" if held else "none"
        raise CannotRun(f"{folder}: of the vectors of its tokens there should be one matrix, and there is {found}")
    ((matrix, file),) = held.items()
    with safe_open(file, "pt") as tensors:
        vectors: torch.Tensor = tensors.get_tensor(matrix).float()
    if vectors.dim() != 2 or not bool(vectors.isfinite().all()):
        raise CannotRun(f"{file}: {matrix:.100} is no matrix of finite numbers", hint="fetch the model again")
    return vectors


def _embeddings(file: Path) -> list[str]:
    with safe_open(file, "pt") as tensors:
        return [one for one in tensors.keys() if f".{one}".endswith(tuple(f".{name}" for name in NAMES))]  # noqa: SIM118
