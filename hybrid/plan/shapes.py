"""The shape of a model without its weights: from config.json, the header of a GGUF, or a table of well-known names."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any

from hybrid.backends.capacity import cached_bytes
from hybrid.errors import CannotRun, nearest
from hybrid.machine.files import expanded
from hybrid.model_files.gguf_files import parts_of
from hybrid.model_files.gguf_parts import contents
from hybrid.model_files.gguf_values import metadata_of
from hybrid.model_files.location import HUB_NAME, PACKAGED, WEIGHTS, config_of, locate
from hybrid.model_files.weight_files import tensors_of

TABLE = "models.toml"
ADDED = re.compile(r"(instruct|chat|base|it|hf|gguf|latest|uncased|cased|v\d(\.\d)?|text|f16|fp16|q\d\w*)$")
"""Ends of names that say nothing of the shape."""
QUANTIZED_BITS = 4.9
"""Bits a parameter of llama.cpp's Q4_K_M, which Ollama takes unless told otherwise."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "width": ("hidden_size", "n_embd", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "vocabulary": ("vocab_size",),
    "inner": ("intermediate_size", "n_inner", "hidden_dim"),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"),
}
"""What config.json calls it, by family."""
UNGATED = ("gpt2", "distilbert", "bert", "roberta", "phi", "gpt_neox", "opt")
ENCODERS = ("distilbert", "bert", "roberta")
TIED = ("gpt2", "gemma", "gemma2", "gemma3_text")
"""Families whose config.json need not say that the head is the embedding's matrix."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers of a transformer. `source` says where they are from.

    `parameters`: of all weights, tied ones once. `file_bytes`: of the weights as they are stored, 0 where they are not
    here. `gated`: an MLP of three matrices. `inner` is its width; of a mixture of `experts`, that of one. `active`:
    parameters that a token meets.
    """

    name: str
    source: str
    family: str
    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    context: int
    tied: bool
    gated: bool = True
    experts: int = 1
    used_experts: int = 1
    parameters: int = 0
    file_bytes: int = 0
    quantized: bool = False

    @property
    def attention(self) -> int:
        """Parameters of the matrices of attention in a layer."""
        return self.head * self.width * (2 * self.heads + 2 * self.kv_heads)

    @property
    def mlp(self) -> int:
        """Parameters of the matrices of one MLP in a layer."""
        return (3 if self.gated else 2) * self.width * self.inner

    @property
    def matrices(self) -> int:
        """Parameters of the matrices that every token is multiplied with, without the output head."""
        return self.layers * (self.attention + self.used_experts * self.mlp)

    @property
    def output_head(self) -> int:
        return self.vocabulary * self.width

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the weights in numbers of `itemsize` bytes."""
        return self.parameters * itemsize

    def stored_bytes(self) -> int:
        """Bytes of the weights as llama.cpp keeps them: those of the file, else of its usual format."""
        return self.file_bytes if self.quantized else int(self.parameters * QUANTIZED_BITS / 8)


def kv_bytes(shape: ModelShape, itemsize: int) -> int:
    """The bytes of the keys and values of a token."""
    return cached_bytes(shape.layers, shape.kv_heads, shape.head, itemsize)


def shape_of(name: str) -> ModelShape:
    """The shape of the model `name`: a file, a folder, a packaged model, a name of the table, or a config.json.

    Nothing is downloaded. Raises CannotRun where the shape is not to be had.
    """
    path = expanded(name)
    if name in PACKAGED or path.exists():
        return _of_path(name, path)
    known = _known()
    if (key := normalised(name)) in known:
        about = known[key]
        return shape_of_config(about, name, f"the table of known models ({about['name']})")
    raise CannotRun(
        f"the shape of the model '{name:.200}' is not known: it is neither here nor in the table of known models",
        hint=f"give a folder with its config.json, or a GGUF; {nearest(name[:100], (one['name'] for one in _table()))}",
    )


def _of_path(name: str, path: Path) -> ModelShape:
    if path.is_file() and path.suffix == ".json":
        return shape_of_config(config_of(path.parent, path.name), name, str(path))
    if path.is_dir() and (path / "config.json").is_file() and not any(path.glob(WEIGHTS)):
        return shape_of_config(config_of(path), name, f"{path / 'config.json'} (no weights beside it)")
    there = locate(name)
    return shape_of_gguf(there, name) if there.is_file() else shape_of_folder(there, name)


def shape_of_folder(folder: Path, name: str) -> ModelShape:
    """The shape of a model folder with weights: their headers tell the parameters exactly. Raises CannotRun."""
    shape = shape_of_config(config_of(folder), name, str(folder / "config.json"))
    tensors = {key: one for file in folder.glob(WEIGHTS) for key, one in tensors_of(file).items()}
    size = sum(one["data_offsets"][1] - one["data_offsets"][0] for one in tensors.values())
    return replace(shape, parameters=sum(prod(one["shape"]) for one in tensors.values()), file_bytes=size)


def shape_of_gguf(path: Path, name: str) -> ModelShape:
    """The shape that the header of a GGUF, or of its parts, tells. Raises CannotRun."""
    metadata = metadata_of(path)
    kind = str(metadata.values.get("general.architecture", ""))
    parts = [contents(part) for part in parts_of(path)]
    tensors = [tensor for part in parts for tensor in part.tensors]

    def number(key: str, otherwise: int = 0) -> int:
        return metadata.whole(f"{kind}.{key}") or otherwise

    by_name = {tensor.name: tensor.shape for tensor in tensors}
    width, layers, heads = number("embedding_length"), number("block_count"), number("attention.head_count")
    vocabulary = by_name.get("token_embd.weight", (0, 0))[-1]
    if not (width and layers and heads and vocabulary):
        raise CannotRun(f"{path}: its header does not tell the shape of a language model", hint="is it a whole GGUF?")
    return ModelShape(
        name=name,
        source=path.name,
        family=kind[:40],
        vocabulary=vocabulary,
        width=width,
        inner=number("expert_feed_forward_length") or number("feed_forward_length", 4 * width),
        layers=layers,
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head=number("attention.key_length", width // heads),
        context=number("context_length"),
        tied="output.weight" not in by_name,
        gated=any(".ffn_gate" in one for one in by_name),
        experts=number("expert_count", 1),
        used_experts=number("expert_used_count", 1),
        parameters=sum(tensor.parameters for tensor in tensors),
        file_bytes=sum(part.path.stat().st_size for part in parts),
        quantized=True,
    )


def shape_of_config(config: Mapping[str, Any], name: str, source: str) -> ModelShape:
    """The shape that a config.json tells; parameters by the formula of its family. Raises CannotRun."""
    text = config.get("text_config")
    told = {**config, **(text if isinstance(text, Mapping) else {})}
    found = {one: next(filter(None, (_whole(told, key) for key in keys)), 0) for one, keys in NAMES.items()}
    width, layers, heads, words = (found[one] for one in ("width", "layers", "heads", "vocabulary"))
    if not (width and layers and heads and words):
        raise CannotRun(
            f"{source} does not tell the shape of a language model", hint="is it the model's own config.json?"
        )
    family = str(told.get("model_type") or "")[:40]
    tied = told.get("tie_word_embeddings")
    experts = next(
        (n for key in ("num_experts", "num_local_experts", "n_routed_experts") if (n := _whole(told, key))), 1
    )
    shape = ModelShape(
        name=name,
        source=source,
        family=family,
        vocabulary=words,
        width=width,
        inner=(_whole(told, "moe_intermediate_size") if experts > 1 else 0) or found["inner"] or 4 * width,
        layers=layers,
        heads=heads,
        kv_heads=_whole(told, "num_key_value_heads") or heads,
        head=_whole(told, "head_dim") or width // heads,
        context=found["context"],
        tied=bool(tied) if isinstance(tied, bool) else family in TIED,
        gated=family not in UNGATED,
        experts=experts,
        used_experts=_whole(told, "num_experts_per_tok") or 1,
    )
    return replace(shape, parameters=_parameters(shape, told))


def _parameters(shape: ModelShape, told: Mapping[str, Any]) -> int:
    """All parameters of a transformer of this shape, by the way its family places biases and norms."""
    width, family = shape.width, shape.family
    biased = family in UNGATED
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    layer = shape.attention + shape.experts * shape.mlp + (shape.experts * width if shape.experts > 1 else 0)
    if biased:
        layer += queries + 2 * keys + width + shape.inner + width
    elif family == "qwen2" or told.get("attention_bias") is True:
        layer += queries + 2 * keys + (width if told.get("attention_bias") is True and family != "qwen2" else 0)
    layer += _norms(shape)
    words = shape.output_head * (1 if shape.tied or family in ENCODERS else 2)
    if family == "phi":
        words += shape.vocabulary
    positions = shape.context * width if family in ("gpt2", *ENCODERS) else 0
    if family in ("bert", "roberta"):
        positions += (_whole(told, "type_vocab_size") or 1) * width + width * width + width
    last = 2 * width if biased else width
    return words + positions + shape.layers * layer + last


def _norms(shape: ModelShape) -> int:
    width, family = shape.width, shape.family
    if family == "phi":
        return 2 * width  # one for attention and MLP together
    if family in UNGATED:
        return 4 * width
    if family in ("qwen3", "qwen3_moe"):
        return 2 * width + 2 * shape.head
    if family == "gemma3_text":
        return 4 * width + 2 * shape.head
    return (4 if family == "gemma2" else 2) * width


def normalised(name: str) -> str:
    """A model's name without its owner, separators, and what says nothing of its shape: `llama3.21b`."""
    parts = re.split(r"[-_:\s]+", name.rsplit("/", 1)[-1].lower().removeprefix("meta-"))
    while len(parts) > 1 and ADDED.fullmatch(parts[-1]):
        parts.pop()
    return "".join(parts)


@cache
def _table() -> tuple[Mapping[str, Any], ...]:
    return tuple(tomllib.loads((files("hybrid.plan") / TABLE).read_text(encoding="utf-8"))["model"])


@cache
def _known() -> Mapping[str, Mapping[str, Any]]:
    return {normalised(name): one for one in _table() for name in (one["name"], *one.get("also", ()))}


def is_hub_name(name: str) -> bool:
    """Whether a name is one of the Hub's, whose files are not here."""
    return bool(HUB_NAME.fullmatch(name)) and not Path(name).exists()


def _whole(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
