"""What a guide to SEAL on small GPUs says of seconds and adapters, beside the arithmetic of the published training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hybrid.loads import GuideTable

PARAMETERS, HEAD, LAYERS, ATTENTION = 973e6, 263e6, 16, 2048
"""Llama-3.2-1B: frozen matrices, output head, layers, width of attention."""
WIDTHS = ((2048, 2048), (2048, 512), (2048, 8192), (2048, 8192), (8192, 2048))
"""Inputs and outputs of the five adapted layers of a block: q, v, gate, up and down."""
TOKENS, PADDED, LABELS, EPOCHS = 172_722, 322_790, 18_716, 2
"""Of a task of SEAL's training set with all augmentations: real tokens, as its code pads them, and labels."""
LENGTH = 1010
"""Tokens of the text that a token is in, on average."""
ADAM, FLOAT, MB = 16, 4, 1e6


class Claim(NamedTuple):
    """A GPU: its peak at 16 bit, and the seconds a task that the guide has for it; 0: it has none."""

    gpu: str
    flops: float
    seconds: float


CLAIMS = (Claim("t4", 65e12, 60), Claim("a100", 312e12, 5), Claim("h200", 990e12, 0))


def adapter_parameters(rank: int) -> int:
    """Parameters of an adapter of the five layers in all blocks."""
    return LAYERS * rank * sum(one + other for one, other in WIDTHS)


def operations(tokens: float, labels: float, rank: int) -> float:
    """Of a training: 4 P a token and 6 an adapter's parameter, causal attention, and the head where it is computed."""
    attention = 14 * ATTENTION * LENGTH * LAYERS / 2
    return EPOCHS * (tokens * (4 * PARAMETERS + 6 * adapter_parameters(rank) + attention) + 4 * HEAD * labels)


def tables() -> Iterator[GuideTable]:
    """Seconds a task, and what adapters take."""
    needed, padded = operations(TOKENS, LABELS, 128), operations(PADDED, PADDED, 128)
    rows = []
    for one in CLAIMS:
        said = f"{one.seconds:g}" if one.seconds else "–"
        share = f"{needed / one.flops / one.seconds:.0%}" if one.seconds else "–"
        rows.append((one.gpu, said, f"{needed / one.flops:.1f}", f"{padded / one.flops:.1f}", share))
    columns = (
        "GPU",
        "guide, seconds a task",
        "arithmetic at the peak",
        "as SEAL's code pads",
        "share of the peak it claims",
    )
    note = "trainings reach 40 to 60 % of a peak at best, so 5 seconds hold only for a task with few augmentations"
    yield GuideTable("seal: training on an ARC task, Llama-3.2-1B, rank 128", columns, tuple(rows), note)
    adapters: list[tuple[str, ...]] = []
    for rank in (8, 16, 64, 128):
        count = adapter_parameters(rank)
        sizes = (FLOAT * count, FLOAT * count // 2, ADAM * count)
        adapters.append((str(rank), f"{count:,}", *(f"{size / MB:,.0f}" for size in sizes), f"{16 / rank:g}"))
    sizes_of = ("rank", "parameters", "file in fp32, MB", "in bf16", "in training", "scale with alpha 16")
    note = "the guide goes from rank 128 to 16 and keeps alpha at 16: an update eight times as large at the same rate"
    yield GuideTable("seal: an adapter of Llama-3.2-1B", sizes_of, tuple(adapters), note)
