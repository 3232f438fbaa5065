"""Names of models and the paths derived from them: no path can leave its destination."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from hybrid.errors import BadData
from hybrid.folder.names import RESERVED

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
"""Ollama's defaults for the parts that a name lacks."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_PLAIN = re.compile(r"[A-Za-z0-9][\w.-]{0,99}(?:/[A-Za-z0-9][\w.-]{0,99})?", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}")
MAX_DEPTH = 4
"""Most components of the path of a file in a model's folder."""


@dataclass(frozen=True, slots=True)
class OllamaName:
    """A complete name, with Ollama's defaults. Its parts form the path below `manifests/`."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        """The name as `ollama list` shows it."""
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != HOST:
            return f"{self.host}/{self.namespace}/{short}"
        return short if self.namespace.lower() == NAMESPACE else f"{self.namespace}/{short}"

    @property
    def parts(self) -> tuple[str, str, str, str]:
        return self.host, self.namespace, self.model, self.tag

    @classmethod
    def parse(cls, text: str) -> OllamaName:
        """Parse a name as Ollama does. Raises BadData when it is invalid."""
        head, tag = text, TAG
        if text.rfind(":") > text.rfind("/"):
            head, _, tag = text.rpartition(":")
        head, _, model = head.rpartition("/")
        host, slash, namespace = head.rpartition("/")
        name = cls(host if slash else HOST, namespace if "/" in text else NAMESPACE, model, tag)
        good = _HOST.fullmatch(name.host) and _NAMESPACE.fullmatch(name.namespace)
        if not (good and _PART.fullmatch(model) and _PART.fullmatch(tag)):
            raise BadData(
                f"{text[:200]!r} is no name of a model in Ollama", hint="names are MODEL:TAG or USER/MODEL:TAG"
            )
        return name


def is_plain(name: str) -> bool:
    """Whether a model that is no Ollama model may have this name."""
    return bool(_PLAIN.fullmatch(name)) and len(name) <= 120 and ".." not in name


def is_inner(path: str) -> bool:
    """Whether a file in a model's folder may have this relative path, on every system."""
    parts = path.split("/")
    return len(parts) <= MAX_DEPTH and all(map(_is_file, parts)) and str(PurePosixPath(path)) == path


def _is_file(part: str) -> bool:
    device = part.partition(".")[0].lower() in RESERVED
    return bool(_FILE.fullmatch(part)) and not device and ".." not in part and not part.endswith(".")


def collide(paths: list[str]) -> bool:
    """Whether two of the paths are the same on some system, or one is a parent of another."""
    folded = {path.casefold() for path in paths}
    above = {str(parent) for path in folded for parent in PurePosixPath(path).parents}
    return len(folded) != len(paths) or bool(folded & above)


def slug(name: str) -> str:
    """A readable file name made from a model's name."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:60] or "model"
