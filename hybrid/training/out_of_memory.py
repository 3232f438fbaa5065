"""Out of memory as an outcome that training reacts to, not as an error that ends it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

MESSAGES = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
"""What torch says in a plain RuntimeError when memory is lacking: launching a kernel, in cuBLAS, on a CPU."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that the device's memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in MESSAGES)


def fits(act: Callable[[], object]) -> bool:
    """Call `act`. False when the device's memory did not suffice: what `act` had allocated is then free again."""
    try:
        act()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Outside the handler: until it ends, the error's traceback keeps the tensors of the failed pass. Routes and the
    # graph refer to each other, so only the collector frees them.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
