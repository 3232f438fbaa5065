"""Checks of single operations: the device itself, attention, and the products of adapters."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from gpu.checks import Check, Machine, Outcome
from hybrid.machine import nvidia
from hybrid.training import grouped
from hybrid.training.attention import PackLayout, fused_kernels, packed_attention, packed_layout, varlen_works
from hybrid.training.grouped import RowGroups, RowIndices, best_method, grouped_mm_works

HEADS, SHARED = 32, 8
WIDTHS = (64, 128, 256, 320)
CASES: dict[str, tuple[float, int | None]] = {"plain": (0.0, None), "padding": (0.2, None), "window": (0.0, 512)}
"""Part of a text that is trained padding, and the sliding window: each has a path of its own."""
PLAIN = "aten::_scaled_dot_product_attention_math"
GROWTH = 2.4
"""Times the memory that a text of twice the length may take: plain matrix products take 4 times."""
TOLERANCE = 0.05


def device(machine: Machine) -> Outcome:
    """The GPU that torch computes on, beside what nvidia-smi says."""
    found = nvidia.own_gpu()
    figures = {
        "device": machine.device.name,
        "capability": list(machine.capability),
        "dtype": machine.device.dtype_name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": found.driver if found else None,
        "nvidia_smi": found.name if found else None,
        "free_mib": machine.device.memory >> 20,
    }
    return Outcome(found is not None and found.capability in (None, machine.capability), figures)


def attention(machine: Machine) -> Outcome:
    """Memory, kernels and errors of attention over a pack, for narrow and wide heads, with padding and a window."""
    wrong, figures = list[str](), {}
    lengths, heads, shared = ((64, 128), 4, 2) if machine.forced else ((2048, 4096), HEADS, SHARED)
    for width in WIDTHS:
        kernels = fused_kernels(machine.torch_device, machine.device.dtype, heads, shared, width)
        for case, (padding, window) in CASES.items():
            one = Case(machine, heads, shared, width, padding, window, kernels)
            low, high = (machine.peak(partial(one.gradients, length)) for length in lengths)
            growth, error = high / low, one.error(300)
            plain = PLAIN in one.operations(lengths[0])
            figures[f"{width} {case}"] = {"growth": round(growth, 2), "plain": plain, "error": round(error, 4)}
            if growth > GROWTH or plain or error > TOLERANCE or (not kernels and machine.device.kind == "cuda"):
                wrong.append(f"{width} {case}")
    return Outcome(not wrong, figures, f"wrong: {', '.join(wrong)}" if wrong else "")


class Case:
    """Attention with heads of one width over a text, a part of it padding, with a window or without."""

    def __init__(
        self,
        machine: Machine,
        heads: int,
        shared: int,
        width: int,
        padding: float,
        window: int | None,
        kernels: Sequence[SDPBackend],
    ) -> None:
        self._machine, self._heads, self._shared, self._width = machine, heads, shared, width
        self._padding, self._window, self._kernels = padding, window, kernels

    def inputs(self, length: int, dtype: torch.dtype) -> list[torch.Tensor]:
        """Query, key and value [1, heads, length, width], the same numbers in every type."""
        generator = torch.Generator().manual_seed(0)
        sizes = [(1, heads, length, self._width) for heads in (self._heads, self._shared, self._shared)]
        made = [torch.randn(size, generator=generator) for size in sizes]
        return [one.to(self._machine.torch_device, dtype).requires_grad_() for one in made]

    def gradients(self, length: int, dtype: torch.dtype | None = None, *, fused: bool = True) -> list[torch.Tensor]:
        """The output and the gradients."""
        query, key, value = inputs = self.inputs(length, dtype or self._machine.device.dtype)
        layout = PackLayout((length,), (int(self._padding * length),))
        with packed_layout(layout), sdpa_kernel(self._kernels) if fused and self._kernels else nullcontext():
            output, _ = packed_attention(None, query, key, value, None, sliding_window=self._window)
            return [output.detach(), *torch.autograd.grad(output.float().square().sum() / 2, inputs)]

    def operations(self, length: int) -> set[str]:
        """The names of the operations that run."""
        with profile(activities=[ProfilerActivity.CPU]) as records:
            self.gradients(length)
        return {one.key for one in records.key_averages()}

    def error(self, length: int) -> float:
        """The largest relative error, by norm, beside plain matrix products in fp32."""
        with sdpa_kernel([SDPBackend.MATH]):
            right = self.gradients(length, torch.float32, fused=False)
        pairs = zip(self.gradients(length), right, strict=True)
        return max(float((one.float() - other).norm() / other.norm()) for one, other in pairs)


def varlen(machine: Machine) -> Outcome:
    """The self-test of torch's variable-length kernel, which includes gradients and a window."""
    dtype = machine.device.dtype
    figures = {str(width): varlen_works(machine.torch_device, dtype, HEADS, SHARED, width) for width in (64, 128, 256)}
    if machine.capability < (8, 0):
        return Outcome(None, figures, "torch has this kernel from Ampere on")
    return Outcome(all(figures.values()), figures)


def products(machine: Machine) -> Outcome:
    """Which method multiplies rows with their adapters, and whether torch's own is right here."""
    dtype, there = machine.device.dtype, machine.torch_device
    method = best_method(there, dtype, 8, 16)
    hopper = machine.capability == (9, 0) and dtype == torch.bfloat16
    figures = {"method": method, "grouped_mm_is_right": grouped_mm_works(there, dtype)}
    return Outcome(method == ("grouped" if hopper else "padded"), figures)


def rectangles(machine: Machine) -> Outcome:
    """Products in rectangles of like lengths beside one rectangle of all: seconds for lengths like SEAL's, and bytes
    for one long text beside many short ones.
    """
    draws, scale = random.Random(0), 20 if machine.forced else 1
    alike = [2 * draws.randint(500, 1200) // scale for _ in range(16)]
    skewed = [4000 // scale, *[70] * 28]
    with mock.patch.object(grouped, "MAX_WASTE", 1e9):
        whole = seconds(machine, _products(machine, alike))
    figures = {
        "ratio": round(seconds(machine, _products(machine, alike)) / whole, 3),
        "rectangles": len(RowIndices(alike, "padded").rectangles),
        "skewed_bytes_a_row": round(machine.peak(_products(machine, skewed)) / sum(skewed)),
    }
    with mock.patch.object(grouped, "MAX_WASTE", 1e9):
        figures["skewed_bytes_a_row_of_one"] = round(machine.peak(_products(machine, skewed)) / sum(skewed))
    return Outcome(figures["ratio"] <= 1.1 and figures["skewed_bytes_a_row"] < 20_000, figures)


def _products(machine: Machine, lengths: Sequence[int]) -> Callable[[], None]:
    """The products of a layer of 2,048 numbers with adapters of rank 128, forward and backward."""
    width, rank = (64, 8) if machine.forced else (2048, 128)
    how = {"device": machine.torch_device, "dtype": machine.device.dtype}
    rows, matrices = torch.zeros(sum(lengths), width, **how), torch.zeros(len(lengths), width, rank, **how)
    groups = RowGroups(lengths, machine.torch_device, "padded")

    def act() -> None:
        inner = groups.times(rows, matrices)
        groups.outer(rows, inner)
        groups.times(inner, matrices.transpose(1, 2))

    return act


def seconds(machine: Machine, act: Callable[[], object], times: int = 5) -> float:
    """The least time of some calls, after one to warm up."""
    found = []
    for _ in range(times + 1):
        machine.wait()
        start = time.perf_counter()
        act()
        machine.wait()
        found.append(time.perf_counter() - start)
    return min(found[1:])


CHECKS = {
    "device": Check(
        device,
        "torch computes on the GPU that nvidia-smi lists",
        "hybrid doctor names the driver that is needed; take another machine",
    ),
    "attention": Check(
        attention,
        f"no plain matrix products, memory at most {GROWTH} times at twice the length, errors under {TOLERANCE}",
        "report the figures: attention.must_expand decides for which heads keys and values are copied",
    ),
    "varlen": Check(
        varlen,
        "from Ampere on the variable-length kernel is right for heads of 64, 128 and 256",
        "nothing: training takes the other kernels, text by text; report the figures",
    ),
    "products": Check(
        products,
        "grouped_mm on Hopper, rectangles on every other GPU",
        "nothing on Hopper where grouped_mm is wrong: rectangles are taken; report the figures",
    ),
    "rectangles": Check(
        rectangles,
        "at most 1.1 times the seconds of one rectangle; under 20,000 bytes a row for one long text among short ones",
        "set grouped.MAX_WASTE to 2: fewer rectangles, more padding",
    ),
}
