"""HetLoRA's self-pruning of ranks (arXiv 2401.06432): clients whose last ranks shrink in training go on without them.

In training the norms of the last ranks are penalised, in each layer the product of |A| and |B|. After it the server
compares these ranks with those that it sent: where they became smaller, the client's rank falls by the factor `decay`.
A client could tell as well; the server knows both, and so need not believe it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipelines.atlas.aggregation import Update
from pipelines.atlas.client_models import ClientModel


def kept_rank(rank: int, decay: float) -> int:
    """The ranks that a client would keep; the others are the last ones, of which there are none where it is `rank`."""
    return max(1, math.floor(decay * rank + 1e-9))


def last_ranks(update: Update, first: int) -> float:
    """The sum over layers of |A| |B| (Frobenius) of the ranks from `first` on."""
    parts = (type(one)(one.a[first:], one.b[:, first:]) for one in update.values())
    return math.fsum(math.sqrt((one.a**2).sum() * (one.b**2).sum()) for one in parts)


def pruned(before: ClientModel, trained: ClientModel, ranks: Mapping[str, int], decay: float) -> Mapping[str, int]:
    """The ranks by layer that a client goes on with: fewer where its last ranks became smaller in training."""
    most = max(ranks.values())
    first = kept_rank(most, decay)
    if first == most or last_ranks(trained.update, first) >= last_ranks(before.update, first):
        return ranks
    return {name: min(rank, first) for name, rank in ranks.items()}
