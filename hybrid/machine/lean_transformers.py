"""Load transformers without the libraries that it takes, where they are installed, for what is never asked of it.

A module of its text generation imports scikit-learn for one curve of assisted decoding, and with it pandas, pyarrow and
matplotlib; its losses import SciPy for the detection of objects. That is a third of the memory and of the time that a
worker takes to begin. transformers asks a function for each library whether it is there.
"""

from __future__ import annotations

import importlib
import sys

UNUSED = "sklearn", "scipy"
MODULES = frozenset(
    ("hybrid.backends.classifier", "hybrid.backends.transformers", "hybrid.backends.tuned.backend",
     "hybrid.model_files.weights")
)  # fmt: skip
"""Modules of this package that need transformers; sentence-transformers needs scikit-learn itself."""


def leave_out_unused() -> None:
    """Let transformers find none of `UNUSED`. Does nothing once it has been loaded, by whomever.

    Raises ModuleNotFoundError without transformers. Others may import these libraries as ever.
    """
    if "transformers" in sys.modules:
        return
    for module in map(importlib.import_module, ("transformers.utils.import_utils", "transformers.utils")):
        for name in UNUSED:
            if hasattr(module, f"is_{name}_available"):  # else it is another release, which may not ask
                setattr(module, f"is_{name}_available", _is_not_there)


def _is_not_there() -> bool:
    return False
