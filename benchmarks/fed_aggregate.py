"""The aggregation of 50 clients' adapters of rank 16 over DistilBERT beside PEFT's `add_weighted_adapter`.

    python benchmarks/fed_aggregate.py [--clients 50] [--rank 16]

Both sides are given the same adapters of all 36 linear layers (24 of 768 x 768, 6 of 768 x 3072 and 6 of 3072 x 768),
and make the best adapter of rank 16 of their weighted sum: ours from the factors, PEFT (`svd`) from the dense sum. The
clients share a start, as in a federation, so part of what they learned is common to all. `ratio_stacked`: the exact
sum, of rank 800, beside PEFT's `svd`; `ratio_cat`: beside its `cat`. `ratio_flat`: nothing is common and no singular
value stands out, so that ours, too, computes the whole decomposition. Processor seconds of one thread.

Printed are also relative errors in the Frobenius norm, all layers together: what the rank loses, as we say it and as
it is, and with PEFT; how far our products are from PEFT's; and the error of the exact sum.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import numpy as np
import peft
import torch
import transformers

from pipelines.atlas.aggregation import Factors, Update, compressed_sum, product_error, shares, stacked

GOAL = 20.0  # PEFT's seconds / ours
REPEATS = 3
TARGETS = ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"]
COMMON = 0.3
"""Size of what is a client's own in A, beside the start that all share."""


def seconds_of(work: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, Any]:
    """The least processor seconds of some repetitions, and what came of it."""
    least, found = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        found = work()
        least = min(least, time.process_time() - start)
    return least, found


def made(layers: Mapping[str, tuple[int, int]], clients: int, rank: int, own: float) -> list[Update]:
    """The clients' updates; `own` = 1 leaves nothing in common."""
    draws = np.random.default_rng(0)
    updates: list[dict[str, Factors]] = [{} for _ in range(clients)]
    for name, (width_in, width_out) in layers.items():
        a, b = draws.normal(size=(rank, width_in)), draws.normal(size=(width_out, rank))
        for update in updates:
            update[name] = Factors(
                ((1 - own) * a + own * draws.normal(size=a.shape)).astype(np.float32).astype(np.float64),
                ((1 - own) * b + draws.normal(size=b.shape)).astype(np.float32).astype(np.float64),
            )
    return list(updates)


class Peer:
    """A DistilBERT with an adapter of PEFT for each client."""

    def __init__(self, rank: int) -> None:
        model = transformers.DistilBertModel(transformers.DistilBertConfig()).requires_grad_(requires_grad=False)
        self.config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)
        self.model = peft.get_peft_model(model, self.config, adapter_name="client-0")
        self.layers = {
            name.removeprefix("base_model.model."): one
            for name, one in self.model.named_modules()
            if isinstance(one, peft.tuners.lora.LoraLayer)
        }
        self.names = ["client-0"]

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Layer -> (in, out)."""
        return {name: (one.in_features, one.out_features) for name, one in self.layers.items()}

    def load(self, updates: Sequence[Update]) -> None:
        """One adapter a client, whose scale is 1."""
        for client, update in enumerate(updates):
            name = f"client-{client}"
            if name not in self.names:
                self.model.add_adapter(name, self.config)
                self.names.append(name)
            for layer, part in update.items():
                self.layers[layer].lora_A[name].weight.data = torch.tensor(part.a, dtype=torch.float32)
                self.layers[layer].lora_B[name].weight.data = torch.tensor(part.b, dtype=torch.float32)

    def aggregate(self, kind: str, weights: Sequence[float], **how: int) -> str:
        """The weighted sum as a new adapter."""
        name = f"{kind}-{len(self.model.peft_config)}"
        self.model.base_model.add_weighted_adapter(self.names, list(weights), name, combination_type=kind, **how)
        return name

    def update(self, name: str) -> Update:
        """The factors of an adapter."""
        return {
            layer: Factors(
                one.lora_A[name].weight.detach().double().numpy(),
                one.lora_B[name].weight.detach().double().numpy() * one.scaling[name],
            )
            for layer, one in self.layers.items()
        }


def report(clients: int, rank: int) -> dict[str, Any]:
    """Both sides, and whether the goal is met."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    peer = Peer(rank)
    weights = shares(range(10, 10 + clients))
    updates, flat = (made(peer.widths, clients, rank, own) for own in (COMMON, 1.0))
    peer.load(updates)
    first, (found, errors) = seconds_of(lambda: compressed_sum(updates, weights, rank))
    theirs, name = seconds_of(lambda: peer.aggregate("svd", weights, svd_rank=rank), 2)
    ours = min(first, seconds_of(lambda: compressed_sum(updates, weights, rank))[0])  # as busy a machine as the peer's
    cat, _ = seconds_of(lambda: peer.aggregate("cat", weights), 1)
    stacking, whole = seconds_of(lambda: stacked(updates, weights))
    hard, (_, flat_errors) = seconds_of(lambda: compressed_sum(flat, weights, rank), 1)
    of_peer = peer.update(name)
    print(f"ours {ours:.2f} s, stacked {stacking:.2f} s, flat {hard:.2f} s; PEFT svd {theirs:.2f} s, cat {cat:.2f} s")
    return {
        "name": "fed_aggregate",
        "peer": f"peft {peft.__version__} add_weighted_adapter, svd to rank {rank} of {clients} clients",
        "ratio": round(theirs / ours, 1),
        "goal": GOAL,
        "met": theirs / ours >= GOAL,
        "ratio_stacked": round(theirs / stacking, 1),
        "ratio_cat": round(cat / stacking, 2),
        "ratio_flat": round(theirs / hard, 1),
        "seconds": round(ours, 3),
        "peer_seconds": round(theirs, 2),
        "error": errors.whole,
        "error_measured": product_error(found, updates, weights),
        "peer_error_measured": product_error(of_peer, updates, weights),
        "error_stacked": product_error(whole, updates, weights),
        "beside_peer": product_error(found, [of_peer], [1.0]),
        "error_flat": flat_errors.whole,
    }


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rank", type=int, default=16)
    chosen = parser.parse_args()
    print(json.dumps(report(chosen.clients, chosen.rank)))


if __name__ == "__main__":
    main()
