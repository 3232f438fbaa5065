"""How torch takes memory of a GPU."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Environment variables from which torch reads how it takes memory: the present one, which torch knows since 2.9, where
the next one is deprecated; the earlier one; that for AMD's GPUs.
"""

SEGMENTS = "expandable_segments:True"
"""Parts of memory that grow. Each pass of a training has another size, and parts of fixed sizes leave gaps."""


def let_segments_grow() -> None:
    """Let torch's memory of a GPU grow in place, unless the user has set how it is taken, or torch is missing.

    Applies when torch is imported afterwards, in this process and its children.
    """
    if sys.platform != "linux" or any(name in os.environ for name in NAMES):
        return
    try:
        major, minor = map(int, version("torch").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return
    os.environ[NAMES[0] if (major, minor) >= (2, 9) else NAMES[1]] = SEGMENTS
