"""The effective rank of many contexts by their Gram matrix beside the decomposition of all rows.

    python benchmarks/cvfp_rank.py [--rows 100000] [--width 768]

Both sides read the same rows. The guide's metric decomposes the rows, and builds two matrices of all pairs of rows
beside that. `memory` compares ours with these: it is computed, not taken, 37 GiB each at 100,000 rows. Processor
seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ |= {"OMP_NUM_THREADS": "1"}

import torch

from pipelines.cvfp.diagnostics import effective_rank

GOAL, MEMORY_GOAL, EQUAL = 10.0, 1 / 20, 1e-6
BLOCK = 8192
"""Rows that ours turns to fp64 at once."""


def by_decomposition(rows: torch.Tensor) -> float:
    """By the singular value decomposition of all rows, in fp64."""
    _, values, _ = torch.linalg.svd(rows.double(), full_matrices=False)
    shares = values / values.sum()
    return float((-(shares * (shares + 1e-10).log()).sum()).exp())


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(chosen.width, chosen.width, generator=generator) * torch.logspace(0, -2, chosen.width)
    rows = torch.randn(chosen.rows, chosen.width, generator=generator) @ mixing
    began = time.process_time()
    ours = effective_rank(rows)
    middle = time.process_time()
    theirs = by_decomposition(rows)
    seconds, peer_seconds = middle - began, time.process_time() - middle
    taken = 8 * (BLOCK * chosen.width + 3 * chosen.width**2)
    pairs = 2 * 4 * chosen.rows**2
    ratio, apart = peer_seconds / seconds, abs(ours - theirs) / theirs
    met = ratio >= GOAL and taken <= MEMORY_GOAL * pairs and apart <= EQUAL
    print(
        json.dumps({
            "name": "cvfp_rank", "peer": "singular value decomposition of all rows; the guide's matrices of all pairs",
            "ratio": round(ratio, 1), "goal": GOAL, "met": met, "memory": taken / pairs, "memory_goal": MEMORY_GOAL,
            "apart": apart, "seconds": round(seconds, 2), "peer_seconds": round(peer_seconds, 2),
            "effective_rank": round(ours, 3), "rows": chosen.rows, "width": chosen.width,
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
