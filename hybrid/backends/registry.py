"""The table of backends, and the one way to open one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.backends.model_files import digest_of, locate
from hybrid.errors import CannotRun, UsageError, nearest
from hybrid.extras import import_object
from hybrid.protocols import Backend

BACKENDS = {
    "llamacpp": "hybrid.backends.llamacpp:LlamaCppBackend",
    "transformers": "hybrid.backends.transformers:TransformersBackend",
    "vllm": "hybrid.backends.vllm:VllmBackend",
    "scripted": "hybrid.backends.scripted:ScriptedBackend",
}
"""Name on the command line -> class. A class is made with (model name, options) and is ready when made."""

SUMMARIES = {
    "llamacpp": "embedded llama.cpp, no server: GGUF models on a laptop",
    "transformers": "Hugging Face transformers: any GPU or CPU",
    "vllm": "vLLM: a CUDA GPU",
    "scripted": "answers read from a file: for tests and dry runs",
}

DEFAULT_BACKEND = "llamacpp"
DEFAULT_MODEL = "smollm2"


def backend_class(name: str) -> Any:
    """The class of a backend; this is where its library is imported. Raises UsageError, CannotRun."""
    if name not in BACKENDS:
        raise UsageError(f"there is no backend '{name}'", hint=nearest(name, BACKENDS))
    return import_object(BACKENDS[name], needed_for=f"the backend '{name}'")


def open_backend(name: str, model: str, options: Mapping[str, str]) -> Backend:
    """Load `model` in the backend `name`. Raises UsageError on unknown options, CannotRun when it cannot be loaded."""
    cls = backend_class(name)
    for option in options:
        if option not in cls.options:
            raise UsageError(f"the backend '{name}' has no option '{option}'", hint=nearest(option, cls.options))
    backend: Backend = cls(model, options)
    return backend


def digest_before_loading(name: str, model: str) -> str:
    """The digest that the opened backend will give its model, from the files alone. Raises CannotRun."""
    if name not in BACKENDS:
        raise UsageError(f"there is no backend '{name}'", hint=nearest(name, BACKENDS))
    if name != "scripted":
        return digest_of(locate(model))
    if not Path(model).is_file():
        raise CannotRun(f"the backend 'scripted' needs a file of answers; '{model}' is not one")
    return digest_of(Path(model))
