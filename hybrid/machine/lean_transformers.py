"""Load transformers without the libraries that it takes, where they are installed, for what is never asked of it.

A module of its text generation imports scikit-learn for one curve of assisted decoding, and with it pandas, pyarrow and
matplotlib; its losses import SciPy for the detection of objects. That is a third of the memory and of the time that a
worker takes to begin. transformers asks a function for each library whether it is there.

torch does the same with Triton, the compiler for GPUs, which takes 70 MiB: without a GPU nothing can use it.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name

UNUSED = "sklearn", "scipy"
MODULES = frozenset(
    ("hybrid.backends.classifier", "hybrid.backends.transformers", "hybrid.backends.tuned.backend",
     "hybrid.model_files.weights")
)  # fmt: skip
"""Modules of this package that need transformers; sentence-transformers needs scikit-learn itself."""
GPUS = "nvidia*", "dri", "kfd", "dxg"
"""What is in /dev where there is a GPU: of NVIDIA, of any maker, of AMD, of Windows in WSL."""
DEVICES = Path("/dev")


def leave_out_unused() -> None:
    """Let transformers find none of `UNUSED`, and torch no Triton on a machine without a GPU. Does nothing once
    transformers has been loaded, by whomever.

    Raises ModuleNotFoundError without transformers. Others may import these libraries as ever.
    """
    if "transformers" in sys.modules:
        return
    for name in UNUSED:
        for module in ("transformers.utils.import_utils", "transformers.utils"):
            _answer_no(module, f"is_{name}_available")
    if not may_have_gpu():
        with suppress(ImportError):  # private to torch: another release may not have it
            _answer_no("torch.utils._triton", "has_triton_package")


def may_have_gpu() -> bool:
    """Whether this machine has the device file of a GPU. Where there are no device files (Windows) it may have one."""
    return not DEVICES.is_dir() or any(found for name in GPUS for found in DEVICES.glob(name))


def _answer_no(module: str, function: str) -> None:
    found = resolve_name(f"{module}:")
    if hasattr(found, function):  # else it is another release, which may not ask
        setattr(found, function, _is_not_there)


def _is_not_there() -> bool:
    return False
