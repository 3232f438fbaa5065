"""The memory table of the guide to running a swarm in notebooks, by its own formula, beside what its code takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hybrid.loads import GuideTable
from hybrid.training.policy_memory import GIB, Shape, full_bytes, plain_bytes, process_bytes

GPT2, QWEN = Shape(124_439_808, 50_257, 12, 768), Shape(494_032_768, 151_936, 24, 896)
SEQUENCES, PROMPT, COMPLETION = 64, 450, 256
"""Of the guide: 8 questions of 8 answers a round; the length of a prompt is that of its logs."""
GB = 1e9
CONSTANTS: Mapping[str, tuple[Shape, int, float, float]] = {
    "GPT-2": (GPT2, 4, 0.5 * GB, 6.5), "Qwen2.5-0.5B": (QWEN, 2, 2.0 * GB, 16.0),
}  # fmt: skip
"""Model -> shape, bytes a number and constant that the guide's formula takes, and the GB that its table has."""
GPUS: Mapping[str, tuple[float, str]] = {
    "t4": (15.0, "1"), "l4": (22.5, "3"), "v100-32": (32.0, "4"), "a100-40": (40.0, "6"), "a100-80": (80.0, "8"),
}  # fmt: skip
"""GPU -> GiB, and how many nodes of GPT-2 the guide has on it."""
PASS = int(1.4 * GIB)
"""What a node's pass takes beyond what nodes hold, where the logits are computed in chunks."""
USABLE = 0.9


def guide_bytes(shape: Shape, sequences: int, completion: int, number: int) -> int:
    """The guide's formula: weights, gradients and Adam of `number` bytes a number, and one copy of the logits.

    Four copies are alive, and the code computes in fp32 whatever the model, so it is too small by a factor of 2.7.
    """
    return 4 * number * shape.parameters + 4 * sequences * completion * shape.vocabulary


def tables() -> Iterator[GuideTable]:
    """Memory of a node, and nodes on a GPU."""
    rows = []
    for name, (shape, number, constant, printed) in CONSTANTS.items():
        guided = guide_bytes(shape, SEQUENCES, COMPLETION, number) + constant
        plain = plain_bytes(shape, SEQUENCES, COMPLETION, PROMPT + COMPLETION)
        process = process_bytes(plain)
        rows.append((name, f"{printed:.1f}", f"{guided / GB:.1f}", f"{plain / GIB:.1f}", f"{process / GIB:.1f}"))
    columns = ("model", "guide's table, GB", "its formula, GB", "what its code allocates, GiB", "its process, GiB")
    note = (
        "its formula has one copy of the logits, its code four, in fp32: the batch of logits decides, not the weights"
    )
    yield GuideTable(
        f"sapo: memory of a node, {SEQUENCES} sequences of {COMPLETION} new tokens", columns, tuple(rows), note
    )
    process = process_bytes(plain_bytes(GPT2, SEQUENCES, COMPLETION, PROMPT + COMPLETION))
    nodes = []
    for gpu, (gib, guided_nodes) in GPUS.items():
        plain_nodes = int(gib * GIB // process)
        nodes.append(
            (gpu, guided_nodes, str(plain_nodes), str(_side_by_side(GPT2, gib)), str(_side_by_side(QWEN, gib)))
        )
    columns = ("GPU", "guide: GPT-2", "its code: GPT-2", "here: GPT-2", "here: Qwen2.5-0.5B")
    note = "here: all parameters of each node trained in fp32 in one process (rank=0); adapters take a fraction of it"
    yield GuideTable("sapo: nodes on a GPU", columns, tuple(nodes), note)


def _side_by_side(shape: Shape, gib: float) -> int:
    """Nodes that one process holds, with room for a pass."""
    nodes = 0
    while full_bytes(shape.parameters, nodes + 1) + PASS <= gib * GIB * USABLE:
        nodes += 1
    return nodes
