"""A federation whose clients and server are series of their own, on any machines, and meet in the run's folder.

The server gives every client its model, waits for what they send, combines, tests and goes on; a client waits for its
model, trains it and sends it back. Nobody waits for a machine that is gone: after `deadline` seconds a round is closed
with the clients that have sent, if they are `quorum` of all or more, and who comes later takes part in the next one.
So what comes of a round depends on who was in time; its record names the clients.

A server's machine may be lost with its last rounds after the clients have answered in them. Their records are made, and
they do not train these rounds again: the server that goes on trains for them, from the same rows, with the same result.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from hybrid.canonical import Json, encode
from hybrid.errors import BadData
from hybrid.loops import Exchange, Lab, NotYet, RoundFailed, Series
from hybrid.metrics import RoundMetrics
from hybrid.round_costs import with_costs
from hybrid.tuning import MOST_RANK
from pipelines.atlas import aggregation
from pipelines.atlas.client_models import MOST_NORM, ClientModel, Part, note_of
from pipelines.atlas.federation import Federation
from pipelines.atlas.methods import METHODS, Method
from pipelines.atlas.rounds import Traffic, draw_key, participants
from pipelines.atlas.rows import FederatedRows
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.trained_slots import Slots
from pipelines.atlas.training_notes import gained, said

NOT_FINITE = "its numbers are not finite"
TOO_LARGE = f"its numbers are too large: a tensor has a norm above {MOST_NORM:,.0f}"
LOG = logging.getLogger("hybrid")


class FolderServer(Federation):
    """A federation whose members train elsewhere. The rows are known here, too: the server tests the models."""

    exchange: Exchange

    def __init__(self, settings: AtlasSettings, series: Series, lab: Lab, rows: FederatedRows) -> None:
        super().__init__(settings, series, lab, rows)
        self.series = series.settings
        self.shared = -1  # the round whose models were shared last, and when
        self.since = -math.inf
        self.sizes = [0] * len(self.members)  # bytes of the models that were shared last
        self.reasons: dict[int, str] = {}  # why the update of a member cannot be used
        self.arrived: dict[int, bytes] = {}  # what the members sent in the round in hand

    def connect(self, exchange: Exchange) -> None:
        """`hybrid.loops.SharingLoop`."""
        self.exchange = exchange

    def _round(self, number: int) -> RoundMetrics:
        """Close a round, once enough clients have sent. Raises NotYet, RoundFailed."""
        if self.slots is None:
            self._begin()
        if self.shared < number:
            self._share(number)
        self._wait(number)
        found = super()._round(number)
        if number == self.settings.rounds - 1:
            self._share(number + 1)  # who was late need not wait for a round that does not come
        return found

    def _share(self, number: int) -> None:
        """Give every member its model of a round."""
        for one, model in enumerate(self.models):
            data = self._message(one)
            self.exchange.share(down(self.name, one), number, data)
            self.models[one], self.sizes[one] = model.from_wire(data), len(data)
        self.shared, self.since, self.arrived = number, self.exchange.now(), {}

    def _message(self, member: int) -> bytes:
        """What a member is sent."""
        model = self.models[member]
        sent: Json = {name: part.rank for name, part in model.update.items()}
        note: Json = {"sent": sent, "ranks": dict(self.server.members[member].ranks)}
        return model.to_wire(self.settings.wire, self._part, encode(note).decode())

    def _wait(self, number: int) -> None:
        """Take what has arrived. Raises NotYet when that is not enough to close the round."""
        chosen = participants(len(self.members), self._count, self.seed, number)
        for one in chosen:
            if one not in self.arrived:
                found = self.exchange.newest(up(self.name, one), after=number - 1)
                if found:
                    self.arrived[one] = found[1] if found[0] == number else self._trained_here(one, number)
        missing, least = len(chosen) - len(self.arrived), math.ceil(self.settings.quorum * len(chosen))
        late = 0 < self.settings.deadline <= self.exchange.now() - self.since
        if missing and not (late and len(self.arrived) >= max(1, least)):
            raise NotYet(f"{missing} of {len(chosen)} clients have not sent their update of round {number}")

    def _trained_here(self, member: int, number: int) -> bytes:
        """The update of a member that has answered in a later round of a server that was lost."""
        LOG.info("%s: client %d is ahead of round %d: its update is computed here", self.name, member, number)
        about: dict[str, Json] = {
            "server": self.name,
            "client": member,
            "seed": self.seed,
            "method": self.series["method"],
        }
        client = FolderClient(self.settings, Series(self.name, 1, about), self.lab, self.rows)
        try:
            return client.answer(number, self._message(member))[1]
        finally:
            client.close()

    def _fetch(self, chosen: Sequence[int], traffic: Traffic) -> None:
        for one in chosen:
            traffic.down[one] += self.sizes[one]

    def _trained(
        self, chosen: Sequence[int], number: int, traffic: Traffic, notes: Sequence[dict[str, float]]
    ) -> dict[int, ClientModel]:
        self.refused, self.reasons, found = 0, {}, {}
        for one, data in sorted(self.arrived.items()):
            traffic.up[one] += len(data)
            ranks = self.server.members[one].ranks
            try:
                model = self._shaped(one, ranks).from_wire(data)
                notes[one].update(said(note_of(data)))
                if not model.finite:
                    raise BadData(NOT_FINITE)
                if not model.bounded:
                    raise BadData(TOO_LARGE)
                if self.method.combine == "nested" and not _same_a(model, self.models[one]):
                    raise BadData("its A is not the one that all have")
            except BadData as error:
                self._refuse(number, one, error.message)
                self.reasons[one] = error.message
            else:
                found[one] = model
        return found

    def _failed(self) -> RoundFailed:
        other = {one: why for one, why in self.reasons.items() if why not in (NOT_FINITE, TOO_LARGE)}
        if not other:
            return super()._failed()
        one, why = min(other.items())
        return RoundFailed("no-update", f"no update of a client can be used; that of client {one}: {why}")

    def _shaped(self, member: int, ranks: Mapping[str, int]) -> ClientModel:
        """What the update of a member must look like, with the A that it has where none is sent."""
        if self.method.combine == "nested":
            return self.models[member]
        return ClientModel.shaped(self._slots.layers, ranks, self.models[member].head)

    def _of_round(self, chosen: Sequence[int]) -> dict[str, float]:
        return {"late": len(chosen) - len(self.arrived)}


class FolderClient:
    """One client of a federation: a `hybrid.loops.SharingLoop` without a state of its own."""

    exchange: Exchange

    def __init__(self, settings: AtlasSettings, series: Series, lab: Lab, rows: FederatedRows) -> None:
        self.settings = settings
        self.server, self.number = str(series.settings["server"]), int(str(series.settings["client"]))
        self.seed, self.rows = int(str(series.settings["seed"])), rows.clients[self.number]
        self.method: Method = METHODS[series.settings["method"]]  # type: ignore[index]
        self.lab, self._labels = lab, rows.task_labels[self.rows.task]
        self._slots: tuple[int, Slots] | None = None  # of how many ranks

    def connect(self, exchange: Exchange) -> None:
        """`hybrid.loops.SharingLoop`."""
        self.exchange = exchange

    @with_costs
    def round(self, number: int) -> RoundMetrics:
        """Train the server's model of a round, and send it. A round that was closed without this client is skipped.

        Raises NotYet, and RoundFailed for a model that does not fit.
        """
        sent = self.exchange.newest(up(self.server, self.number), after=number - 1)
        if sent and sent[0] == number:  # before a kill
            return RoundMetrics(number, {**said(note_of(sent[1])), "upload_bytes": len(sent[1])})
        found = self.exchange.newest(down(self.server, self.number), after=number - 1)
        if found is None:
            raise NotYet(f"the server's model of round {number}")
        if found[0] > number:
            return RoundMetrics(number, {"skipped": 1.0})
        metrics, data = self.answer(number, found[1])
        self.exchange.share(up(self.server, self.number), number, data)
        return RoundMetrics(number, {**metrics, "upload_bytes": len(data)})

    def answer(self, number: int, given: bytes) -> tuple[dict[str, float], bytes]:
        """What training the model that the server sent for a round comes to, and the message with it.

        Raises RoundFailed for a model that does not fit.
        """
        try:
            note = note_of(given)
            sent, ranks = _ranks(note, "sent"), _ranks(note, "ranks")
            slots = self._open(max(ranks.values()))
            start = slots.first(max(ranks.values()), self._labels, ranks)
            shaped = ClientModel.shaped(slots.layers, sent, start.head)
            before = (start if self.method.combine == "nested" else shaped).from_wire(given)
            aggregation.check(before.update, self.number, slots.layers)
        except (BadData, ValueError, KeyError) as error:
            raise RoundFailed("bad-model", f"what the server sent does not fit: {error!s:.200}") from error
        return self._trained(number, slots, before, ranks)

    def _trained(
        self, number: int, slots: Slots, before: ClientModel, ranks: Mapping[str, int]
    ) -> tuple[dict[str, float], bytes]:
        how = self.settings
        slots.install(0, before, number)
        if not slots.installed(0, before):
            raise RoundFailed("not-installed", "the slot does not hold what the server sent")
        batches = self.rows.batches(how.batch, how.epochs, draw_key(self.seed, number, self.number))
        (losses,) = slots.train({0: batches}).values()
        trained = slots.read(0, ranks)
        metrics = {"steps": float(len(losses)), "installed": 1.0}
        if trained.finite:
            metrics |= gained(self.method, before, trained, losses)
        part: Part = "b" if self.method.combine == "nested" else "all"
        return metrics, trained.to_wire(how.wire, part, encode(metrics).decode())

    def state(self) -> bytes:
        """Nothing: all that a round depends on comes from the server."""
        return b"client"

    def load(self, state: bytes) -> None:
        """Raises BadData for anything else than nothing."""
        if state != b"client":
            raise BadData("the state of a client is empty")

    def close(self) -> None:
        """Give the model back as it was."""
        if self._slots is not None:
            self._slots[1].close()

    def _open(self, rank: int) -> Slots:
        if self._slots is None or self._slots[0] != rank:
            self.close()
            self._slots = rank, Slots(self.lab, self.settings, self.method, self.seed, [rank], [self._labels])
        return self._slots[1]


def _same_a(one: ClientModel, other: ClientModel) -> bool:
    """Whether two models of the same layers have the same A in each."""
    return all(np.array_equal(part.a, other.update[name].a) for name, part in one.update.items())


def down(series: str, member: int) -> str:
    """Under what the server shares a member's model."""
    return f"{series}/down/{member}"


def up(series: str, member: int) -> str:
    """Under what a member shares its update."""
    return f"{series}/up/{member}"


def _ranks(note: Json, name: str) -> dict[str, int]:
    """The ranks by layer of a message, untrusted. Raises ValueError."""
    value = note.get(name) if isinstance(note, dict) else None
    if not isinstance(value, dict) or not value:
        raise ValueError(f"it does not say its {name}")
    for layer, rank in value.items():
        if type(rank) is not int or not 1 <= rank <= MOST_RANK:
            raise ValueError(f"{layer:.100} has the rank {rank!r:.40}")
    return {layer: int(str(rank)) for layer, rank in value.items()}
