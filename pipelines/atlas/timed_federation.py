"""A federation on a virtual clock: devices of unequal speed decide whose updates a round combines.

With `buffered` the server goes on with the next few updates. They began with models of earlier versions. What such a
client learned is added to the model that it would have now, as in FedBuff (arXiv 2106.06639): W + s (W_k - W_k'), with
W_k' what it began with and s = 1 / sqrt(1 + versions). The mean of these is W plus the mean of what was learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from hybrid.loops import Lab, Series
from pipelines.atlas import aggregation
from pipelines.atlas.aggregation import Factors
from pipelines.atlas.client_models import ClientModel
from pipelines.atlas.federation import Federation
from pipelines.atlas.methods import Combine
from pipelines.atlas.rounds import Traffic, draw_key, participants
from pipelines.atlas.rows import FederatedRows
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.sparse_updates import sparse
from pipelines.atlas.split import Shape, crossing_bytes
from pipelines.atlas.trained_slots import load
from pipelines.atlas.virtual_clock import DEVICES, TimedRound, VirtualClock, Work, training_operations

SERVER = DEVICES["gpu-16gb"]
"""Where the rest of a split model is."""


def clock_of(settings: AtlasSettings, seed: int, members: int) -> VirtualClock:
    """The clock of so many members, whose devices take turns."""
    devices = [DEVICES[settings.devices[one % len(settings.devices)]] for one in range(members)]
    return VirtualClock(
        devices, settings.arrivals, seed, deadline=settings.round_seconds, buffer=settings.buffer,
        most_stale=settings.most_stale,
    )  # fmt: skip


class TimedPools(Federation):
    """`centralised` on the clock: all rows are at the server, which trains one task after the other."""

    _number = 0

    def _begun(self, number: int, traffic: Traffic) -> list[int]:
        self._number = number
        return super()._begun(number, traffic)

    def _of_round(self, chosen: Sequence[int]) -> dict[str, float]:
        how = self.settings
        tokens = sum(load(self.members[one].batches(how.batch, how.epochs, "")).tokens for one in chosen)
        seconds = training_operations(self._slots.sizes[0], tokens) / SERVER.speed  # the same in every round
        return {**super()._of_round(chosen), "virtual_seconds": seconds * (self._number + 1)}


class TimedFederation(Federation):
    """Members whose updates arrive as a `VirtualClock` says. Late and lost ones count for nothing."""

    def __init__(self, settings: AtlasSettings, series: Series, lab: Lab, rows: FederatedRows) -> None:
        super().__init__(settings, series, lab, rows)
        self.clock = clock_of(settings, self.seed, len(self.members))
        self._begins: dict[int, ClientModel] = {}  # member -> what it began to train with
        self._timed: TimedRound | None = None
        self._sizes: dict[tuple[int, tuple[tuple[str, int], ...]], int] = {}  # by labels and ranks

    def _begun(self, number: int, traffic: Traffic) -> list[int]:
        chosen = idle = participants(len(self.members), self._count, self.seed, number)
        if self.settings.arrivals == "buffered":
            chosen = list(range(len(self.members)))
            idle = [one for one in chosen if one not in self.clock.computing]
        self._fetch(idle, traffic)
        self._begins |= {one: self.models[one] for one in idle}
        fetched = {one: traffic.down[one] if one in idle else self._size(self.models[one]) for one in chosen}
        self._timed = self.clock.round({one: self._work(one, number, size) for one, size in fetched.items()})
        self._fetch(self._timed.refreshed, traffic)
        self._begins |= {one: self.models[one] for one in self._timed.refreshed}
        return sorted(one.client for one in self._timed.arrivals)

    def _work(self, member: int, number: int, fetched: int) -> Work:
        """What a member does for one update: fetch, train, send, and with a split model what crosses the cut.

        The server's part of a split model counts as work of the device, as much as it could do in that time.
        """
        how, (parameters, blocks, width), after = self.settings, self._slots.sizes, self._slots.split
        of = load(self.members[member].batches(how.batch, how.epochs, draw_key(self.seed, number, member)))
        up, down = crossing_bytes(Shape(0, [1] * blocks, width, [1] * blocks, 0.0), of, after, how.down_wire)
        own = after / blocks if after else 1.0
        operations = training_operations(parameters, of.tokens)
        operations *= own + (1.0 - own) * self.clock.devices[member].speed / SERVER.speed
        ranks = self.server.members[member].ranks
        key = self.labels[member], tuple(sorted(ranks.items()))
        if key not in self._sizes:
            self._sizes[key] = self._sent_size(self._slots.first(max(ranks.values()), self.labels[member], ranks))
        return Work(operations, fetched + down, self._sizes[key] + up)

    def _size(self, model: ClientModel) -> int:
        return len(model.to_wire(self.settings.down_wire, self._part)) if self._exchanged else 0

    def _sent_size(self, model: ClientModel) -> int:
        """Bytes of an update of this shape: which entries it has changes nothing."""
        if self._sparse:
            return len(sparse(model, model, None, self.settings.top, self._part, keeps=False).data)
        return self._size(model)

    def _base(self, member: int) -> ClientModel:
        return self._begins[member]

    def _received(self, member: int, model: ClientModel) -> ClientModel:
        arrivals = self._timed.arrivals if self._timed else ()
        (arrival,) = [one for one in arrivals if one.client == member]
        if not arrival.staleness or self.method.combine == "keep":
            return model
        return renewed(self.method.combine, self.models[member], self._begins[member], model, arrival.weight)

    def _of_round(self, chosen: Sequence[int]) -> dict[str, float]:
        found = super()._of_round(chosen)
        if self._timed is None:
            return found
        return found | {
            "virtual_seconds": self._timed.ended,
            "late": len(self._timed.late) + len(self._timed.refreshed),
            "lost": self._timed.dropped,
            "staleness": fmean(one.staleness for one in self._timed.arrivals),
        }

    def _kept(self) -> tuple[list[ClientModel], dict[str, object]]:
        models, about = super()._kept()
        begins = {one: model for one, model in sorted(self._begins.items()) if one in self.clock.computing}
        about |= {"clock": self.clock.state(), "begins": {str(one): model.digest for one, model in begins.items()}}
        return [*models, *begins.values()], about

    def _restore(self, named: Mapping[str, ClientModel], about: Mapping[str, Any]) -> None:
        super()._restore(named, about)
        self.clock.load(about["clock"])
        self._begins = {int(one): named[digest] for one, digest in about["begins"].items()}
        if self._begins.keys() != self.clock.computing:
            raise ValueError("the models of clients that compute are missing")
        for one, model in self._begins.items():
            self._refuse_ranks(one, model, self.server.members[one].ranks)
            self._refuse_shapes(one, model)


def renewed(combine: Combine, now: ClientModel, before: ClientModel, trained: ClientModel, share: float) -> ClientModel:
    """The model `now` with a share of what training changed in `before`: in the products where these are combined, in
    the factors where those are. With `stack` what was sent is the change.
    """
    head = {name: value + share * (trained.head[name] - before.head[name]) for name, value in now.head.items()}
    if combine == "stack":
        return ClientModel(aggregation.stacked([trained.update], [share]), head)
    if combine in ("svd", "laplacian"):
        return ClientModel(aggregation.stacked([now.update, trained.update, before.update], [1.0, share, -share]), head)
    update = {}
    for name, one in now.update.items():
        old, new = before.update[name], trained.update[name]
        update[name] = Factors(one.a + share * (new.a - old.a), one.b + share * (new.b - old.b))
    return ClientModel(update, head)
