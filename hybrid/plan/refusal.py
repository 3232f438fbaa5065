"""Refuses a model whose weights alone do not fit this machine, before anything of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from hybrid.backends.memory import available
from hybrid.backends.options import whole_number
from hybrid.errors import CannotRun
from hybrid.machine import nvidia
from hybrid.machine.terminal import clean_line
from hybrid.plan.gpus import GIB, Gpu
from hybrid.plan.memory import CONTEXT, itemsize_of
from hybrid.plan.shapes import shape_of

REFUSED = ("transformers", "vllm")
"""Backends that need the weights whole in the memory of their device; llama.cpp and Ollama leave a part elsewhere."""
MIB = 1 << 20


def refuse_unfitting(backend: str, model: str, options: Mapping[str, str]) -> None:
    """Raise CannotRun for a model whose weights do not fit the device that a backend takes here.

    A model whose shape cannot be read is left to the engine. Other programs' memory is not looked at: it may be free
    when the model is loaded.
    """
    if backend not in REFUSED:
        return
    device, gpus = this_device(options), whole_number(options, "gpus", 1, low=1, high=64)
    try:
        shape = shape_of(model)
    except CannotRun:
        return
    itemsize = itemsize_of(options, device)
    weights, most = shape.weight_bytes(itemsize) // gpus, device.memory - (0 if device.is_cpu else CONTEXT)
    if device.memory and weights > most:
        shared = f" / {gpus} GPUs" if gpus > 1 else ""
        raise CannotRun(
            f"the model {clean_line(model, 200)} does not fit {device.name}: {shape.parameters:,} parameters x "
            f"{itemsize} bytes{shared} = {weights / GIB:,.2f} GiB, of {most / GIB:,.2f} GiB",
            hint=_hint(backend, device),
        )


def this_device(options: Mapping[str, str]) -> Gpu:
    """The device that a backend takes on this machine: its first GPU, else the CPU. `memory` is 0 where unknown."""
    found = None if options.get("device") == "cpu" or nvidia.hidden() else nvidia.own_gpu()
    if found is None:
        return Gpu("cpu", available() or 0, (0, 0), 1.0, 1.0)
    memory = (found.memory_total or 0) * MIB
    return Gpu(found.name, memory, found.capability or (0, 0), 1.0, 1.0)


def _hint(backend: str, device: Gpu) -> str:
    other = "--backend-option gpus=2, " if backend == "vllm" else ""
    half = "--backend-option dtype=bfloat16, " if device.is_cpu else ""
    return f"{other}{half}a smaller model, or a larger device: `hybrid plan` shows which"
