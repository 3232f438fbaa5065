"""Parses Ollama's own manifest of a model: the layers by digest and size. It is untrusted input."""

from __future__ import annotations

import json
import re
from typing import Any

from hybrid.canonical import too_deep
from hybrid.errors import BadData

MAX_SOURCE = 4 * 1024 * 1024
MAX_SIZE = 2**53
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_NAMES = {"config", "layers", "digest", "size", "mediatype", "from", "name"}


def layers_of(source: bytes, *, what: str) -> dict[str, int]:
    """sha256 -> size in bytes of every layer, the configuration first, each once. `what` names the text for the error.

    Raises BadData. Ollama's parser ignores the case of names and takes the last of duplicates, so a manifest with a
    duplicate name, or with another case, could have other layers for Ollama than for this parser: it is refused.
    """
    value = _decoded(source, what)
    layers, config = value.get("layers"), value.get("config")
    if not isinstance(layers, list) or not isinstance(config, dict):
        raise BadData(f"{what}: no manifest of Ollama: it lacks config or layers")
    found: dict[str, int] = {}
    for layer in [config, *layers]:
        sha256, size = _layer(layer, what)
        if found.setdefault(sha256, size) != size:
            raise BadData(f"{what}: layer {sha256[:12]} has two sizes")
    return found


def _decoded(source: bytes, what: str) -> dict[str, Any]:
    if len(source) > MAX_SOURCE:
        raise BadData(f"{what}: larger than the {MAX_SOURCE:,} bytes allowed")
    try:
        value = json.loads(source.decode(), object_pairs_hook=_once, parse_constant=_refused, parse_int=_small)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{what}: not the JSON of a manifest: {str(error)[:200]}") from error
    if not isinstance(value, dict) or too_deep(value, source):
        raise BadData(f"{what}: not the JSON object of a manifest")
    return value


def _layer(layer: Any, what: str) -> tuple[str, int]:
    match = _DIGEST.fullmatch(str(layer.get("digest"))) if isinstance(layer, dict) else None
    size = layer.get("size") if match else None
    if match is None or type(size) is not int or not 0 <= size < MAX_SIZE:
        raise BadData(f"{what}: a layer without a digest sha256:... and a size: {str(layer)[:100]}")
    return match[1], size


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    folded = [name.casefold() for name, _ in pairs]
    if len(set(folded)) != len(folded):
        raise ValueError("a name stands twice in one object")
    odd = [name for name, _ in pairs if name.casefold() in _NAMES and name not in _NAMES | {"mediaType"}]
    if odd:
        raise ValueError(f"{odd[0]!r} is written in another case")
    return dict(pairs)


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _small(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number is too large")
    return int(digits)
