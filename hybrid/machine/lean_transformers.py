"""Load transformers without the libraries that it takes, where they are installed, for what is never asked of it.

A module of its text generation imports scikit-learn for one curve of assisted decoding, and with it pandas, pyarrow and
matplotlib; its losses import SciPy for the detection of objects. That is a third of the memory and of the time that a
worker takes to begin. transformers asks a function for each library whether it is there.

torch does the same with Triton, the compiler for GPUs, which takes 70 MiB: without a GPU nothing can use it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

UNUSED = "sklearn", "scipy"
MODULES = frozenset(
    ("hybrid.backends.classifier", "hybrid.backends.transformers", "hybrid.backends.tuned.backend",
     "hybrid.model_files.weights")
)  # fmt: skip
"""Modules of this package that need transformers; sentence-transformers needs scikit-learn itself."""
GPUS = "nvidia*", "dri", "kfd", "dxg"
"""What is in /dev where there is a GPU: of NVIDIA, of any maker, of AMD, of Windows."""


def leave_out_unused() -> None:
    """Let transformers find none of `UNUSED`, and torch no Triton on a machine without a GPU. Does nothing once
    transformers has been loaded, by whomever.

    Raises ModuleNotFoundError without transformers. Others may import these libraries as ever.
    """
    if "transformers" in sys.modules:
        return
    asked = [("transformers.utils.import_utils", f"is_{name}_available") for name in UNUSED]
    asked += [("transformers.utils", name) for _, name in asked]
    if not may_have_gpu():
        asked.append(("torch.utils._triton", "has_triton_package"))
    modules = map(importlib.import_module, (name for name, _ in asked))
    for module, (_, function) in zip(modules, asked, strict=True):
        if hasattr(module, function):  # else it is another release, which may not ask
            setattr(module, function, _is_not_there)


def may_have_gpu() -> bool:
    """Whether this machine has the device file of a GPU."""
    return any(found for name in GPUS for found in Path("/dev").glob(name))


def _is_not_there() -> bool:
    return False
