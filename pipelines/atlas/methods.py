"""The methods that are compared: how clients are grouped, how their updates are combined, and what they train.

Every method is a row of `METHODS`; `docs/atlas.md` names the papers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Groups = Literal["each", "all", "found", "true", "random", "pooled"]
"""Who shares a model: nobody, all, the clusters that fingerprints show, those of the true tasks, random ones of the
same sizes as the true ones, or one model a task that is trained on the rows of all its clients.
"""
Combine = Literal["keep", "factors", "padded", "svd", "stack", "nested", "laplacian", "full"]
"""What the server makes of the updates of a group."""

MethodName = Literal[
    "local", "fedavg", "fedavg-lora", "hetlora", "flora", "flexlora", "ffa", "cluster", "mira", "atlas",
    "centralised", "oracle-clusters", "random-clusters",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    `budgeted`: ranks come from the clients' memory budgets; `equal_ranks`: all clients have the lowest rank, since
    updates of different ranks cannot be combined so.
    """

    groups: Groups
    combine: Combine
    budgeted: bool = False
    equal_ranks: bool = False

    @property
    def fingerprinted(self) -> bool:
        """Whether the clients' gradients are compared before the first round."""
        return self.groups == "found" or self.combine == "laplacian"


METHODS: Mapping[MethodName, Method] = {
    "local": Method("each", "keep"),
    "fedavg": Method("all", "full"),
    "fedavg-lora": Method("all", "factors", equal_ranks=True),
    "hetlora": Method("all", "padded"),
    "flora": Method("all", "stack"),
    "flexlora": Method("all", "svd"),
    "ffa": Method("all", "nested"),
    "cluster": Method("found", "svd"),
    "mira": Method("all", "laplacian", equal_ranks=True),
    "atlas": Method("found", "laplacian", budgeted=True),
    "centralised": Method("pooled", "keep"),
    "oracle-clusters": Method("true", "svd"),
    "random-clusters": Method("random", "svd"),
}
ALL: tuple[MethodName, ...] = get_args(MethodName)


def same_as(
    name: MethodName, ranks: Sequence[int], tasks: int, smoothing: float, *, changed: Collection[MethodName] = ()
) -> str:
    """The method that `name` is the same as at these settings, by construction; "" for none.

    `ranks` are those of all clients. Those of `changed` have a setting of their own: `atlas` a budget, which chooses
    other ranks, and `hetlora` the norms as weights. Equal figures of the two methods are no sign that one of them did
    nothing.
    """
    budgeted = METHODS[name].budgeted and name in changed
    if len(ranks) == 1 and name not in ("local", "fedavg", "flora", "ffa") and not budgeted:
        return "local"  # a client without others
    if name == "hetlora" and len(set(ranks)) == 1 and name not in changed:
        return "fedavg-lora"
    if name in ("oracle-clusters", "random-clusters") and tasks == 1:
        return "flexlora"
    if name == "cluster" and tasks == 1:
        return "flexlora"  # where no structure is found
    if METHODS[name].combine == "laplacian" and smoothing == 0 and not budgeted:
        return "local"
    return ""


def client_name(number: int, clients: int) -> str:
    """The name of a client in records: with as many digits as the last of them needs, two or more."""
    return f"client-{number:0{max(2, len(str(clients - 1)))}}"
