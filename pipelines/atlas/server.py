"""What the server makes of the updates that clients sent: the models that they go on with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.atlas import aggregation, laplacian
from pipelines.atlas.aggregation import Ranks, Update
from pipelines.atlas.client_models import ClientModel, Head
from pipelines.atlas.methods import Combine

Models = Mapping[int, ClientModel]
AVERAGED: frozenset[Combine] = frozenset({"factors", "padded", "nested"})
"""Whose factors mean the same before and after a round, rank by rank; the others factor anew."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who trains one model: its task, how many rows it trains on, and the ranks of its adapter's layers."""

    task: str
    rows: int
    ranks: Mapping[str, int]


@dataclass(slots=True)
class Server:
    """Combines updates. `labels` are the members' groups; `similarity` [members, members] is needed for `laplacian`."""

    combine: Combine
    members: list[Member]
    labels: Sequence[int]
    smoothing: float
    server_rank: int
    similarity: NDArray[np.float64] | None = None
    sharpness: float = 1.0
    by_norm: bool = False
    """With `padded`: an update counts by its norm, too."""
    errors: list[float] = field(default_factory=list)
    """Relative errors of what was combined in the last round, one a group or member."""

    def combined(self, held: Models, trained: Models) -> dict[int, ClientModel]:
        """The models of all members after a round.

        `held` are those of all before it, `trained` is what those who took part sent: their adapters, or with `stack`
        what they add to the adapter that they hold. In a group of which nobody took part everyone keeps his model.
        """
        self.errors = []
        if self.combine == "keep":
            return {**held, **trained}
        if self.combine == "laplacian":
            return self._smoothed(held, trained)
        groups = defaultdict[int, list[int]](list)
        for member, label in enumerate(self.labels):
            groups[label].append(member)
        found = dict(held)
        for group in groups.values():
            if sent := {one: trained[one] for one in group if one in trained}:
                updates = self._updates(group, held[group[0]].update, sent)
                heads = self._heads(group, held, sent)
                found |= {one: ClientModel(self._whole(one, updates[one], held), heads[one]) for one in group}
        return found

    def _updates(self, group: Sequence[int], before: Update, sent: Models) -> Mapping[int, Update]:
        """The update of each of a group; `before` is what all of them held, with `stack`."""
        updates, weights = [one.update for one in sent.values()], self._shares(list(sent))
        match self.combine:
            case "factors":
                one = aggregation.factor_mean(updates, weights)
                self.errors.append(aggregation.product_error(one, updates, weights))
                return dict.fromkeys(group, one)
            case "nested":
                one = aggregation.nested_mean(updates, weights)
                self.errors.append(aggregation.product_error(one, updates, weights))
                return {member: _first(one, self.members[member].ranks) for member in group}
            case "padded":
                weights = aggregation.norm_weights(updates, weights) if self.by_norm else weights
                mixed = aggregation.zero_padded(updates, weights, [self.members[one].ranks for one in group])
                self.errors += [aggregation.product_error(one, updates, weights) for one in mixed]
                return dict(zip(group, mixed, strict=True))
            case "svd":
                return self._shared(group, aggregation.stacked(updates, weights))
            case "stack":
                earlier = [before] if size_of(before) else []
                whole = aggregation.stacked([*earlier, *updates], [*[1.0] * len(earlier), *weights])
                return dict.fromkeys(group, self._compressed(whole, self.server_rank))
        raise ValueError(f"no way to combine adapters is called {self.combine}")

    def _whole(self, member: int, update: Update, held: Models) -> Update:
        """What a member receives with all its ranks: those that nobody sent are the ones that it holds.

        Where products are combined these are rows of A alone, with zeros in B: they are free to learn.
        """
        if self.combine == "stack":
            return update
        own, averaged = held[member].update, self.combine in AVERAGED
        ranks = self.members[member].ranks
        found = {name: one.extended(own[name], ranks[name], with_b=averaged) for name, one in update.items()}
        if any(one.rank != ranks[name] for name, one in found.items()):
            raise ValueError(f"member {member} does not have its ranks")
        return found

    def _shared(self, group: Sequence[int], whole: Update) -> Mapping[int, Update]:
        """The same update for all, compressed to each member's ranks; once for those with the same ranks."""
        done: dict[tuple[tuple[str, int], ...], Update] = {}
        found = {}
        for member in group:
            ranks = self.members[member].ranks
            key = tuple(sorted(ranks.items()))
            if key not in done:
                done[key] = self._compressed(whole, ranks)
            found[member] = done[key]
        return found

    def _compressed(self, update: Update, ranks: Ranks) -> Update:
        found, errors = aggregation.compressed(update, ranks)
        self.errors.append(errors.whole)
        return found

    def _smoothed(self, held: Models, trained: Models) -> dict[int, ClientModel]:
        """A step of the Laplacian for those who took part; heads have edges to those of the same task only."""
        if self.similarity is None:
            raise ValueError("a Laplacian needs the similarity of the members")
        now = {**held, **trained}
        shares = self._shares(range(len(self.members)))
        graph = laplacian.adjacency(self.similarity, sharpness=self.sharpness, labels=self.labels, shares=shares)
        ranks = [member.ranks for member in self.members]
        updates, errors = laplacian.step(
            [now[one].update for one in range(len(now))], graph, self.smoothing, ranks, only=trained
        )
        self.errors.append(errors.whole)
        heads = self._smoothed_heads(now, graph, trained)
        return {one: ClientModel(self._whole(one, updates[one], held), heads[one]) for one in range(len(now))}

    def _smoothed_heads(self, now: Models, graph: NDArray[np.float64], trained: Models) -> dict[int, Head]:
        """The same step for the heads, task by task: those of others may have another number of labels."""
        found: dict[int, Head] = {}
        for task in dict.fromkeys(member.task for member in self.members):
            alike = [one for one, member in enumerate(self.members) if member.task == task]
            only = [place for place, one in enumerate(alike) if one in trained]
            own = [now[one].head for one in alike]
            moved = laplacian.step_dense(own, graph[np.ix_(alike, alike)], self.smoothing, only=only)
            found |= dict(zip(alike, moved, strict=True))
        return found

    def _heads(self, group: Sequence[int], held: Models, sent: Models) -> Mapping[int, Head]:
        """The heads of a group: the mean of those who took part, among the members with the same task."""
        heads = {one: held[one].head for one in group}
        for task in {self.members[one].task for one in sent}:
            alike = [one for one in sent if self.members[one].task == task]
            mean = aggregation.mean([sent[one].head for one in alike], self._shares(alike))
            heads |= {one: mean for one in group if self.members[one].task == task}
        return heads

    def _shares(self, chosen: Iterable[int]) -> list[float]:
        """Each one's share of the rows."""
        return aggregation.shares([self.members[one].rows for one in chosen])


def size_of(update: Update) -> float:
    """The Frobenius norm of the products of all layers together."""
    return rounded(float(np.sqrt(sum(one.norm() ** 2 for one in update.values()))))


def rounded(value: float) -> float:
    """To 9 digits: the last ones of a factorization depend on where in memory its matrices are."""
    return float(f"{value:.9g}")


def _first(update: Update, ranks: Mapping[str, int]) -> Update:
    """The first ranks of each layer."""
    return {layer: one.first(ranks[layer]) for layer, one in update.items()}
