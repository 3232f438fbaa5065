"""The loop of one method and seed: clients train side by side, the server combines, all are tested."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import BadData
from hybrid.loops import Lab, RoundFailed, Series
from hybrid.metrics import RoundMetrics
from hybrid.round_costs import with_costs
from pipelines.atlas import aggregation, fingerprints
from pipelines.atlas.client_models import ClientModel, Part, packed, unpacked
from pipelines.atlas.grouping import Gradients, Grouping, fingerprint_bytes, grouped
from pipelines.atlas.methods import METHODS, Method
from pipelines.atlas.model_check import CANDIDATES, budgeted_ranks
from pipelines.atlas.rounds import Traffic, draw_key, metrics_of, participants
from pipelines.atlas.rows import ClientRows, FederatedRows
from pipelines.atlas.scores import tested
from pipelines.atlas.self_pruning import pruned
from pipelines.atlas.server import AVERAGED, Member, Server, rounded
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.sparse_updates import fits, sparse
from pipelines.atlas.split import LABEL_BYTES
from pipelines.atlas.trained_slots import Batches, Slots, load
from pipelines.atlas.training_notes import gained

LOG = logging.getLogger("hybrid")
Ranks = Sequence[Mapping[str, int]]
LEAST_ROWS = 32
"""Of a fingerprint, where a client has them."""


class Federation:
    """A `hybrid.loops.Loop`. A member trains one model: a client, or for `centralised` all clients of a task together.

    All that is drawn depends on the seed, the round and the member alone, so no random state is kept.
    """

    def __init__(self, settings: AtlasSettings, series: Series, lab: Lab, rows: FederatedRows) -> None:
        self.settings, self.rows, self.lab = settings, rows, lab
        self.name, self.seed = series.name, int(str(series.settings["seed"]))
        self.method: Method = METHODS[series.settings["method"]]  # type: ignore[index]
        pooled = self.method.groups == "pooled"
        self.members: Sequence[ClientRows] = rows.pools() if pooled else rows.clients
        self._count = 0 if pooled else settings.participants
        self.member_of = rows.pool_of() if pooled else list(range(len(rows.clients)))
        self.labels = [rows.task_labels[member.task] for member in self.members]
        self.slots: Slots | None = None
        self.models: list[ClientModel] = []
        self.fetched: list[str] = []  # the digest of what each member has
        self.fingerprint_bytes = [0] * len(self.members)
        self.refused = 0  # updates of the round in hand that cannot be used
        self.unsent: dict[int, ClientModel] = {}  # member -> what its sparse updates left

    @with_costs
    def round(self, number: int) -> RoundMetrics:
        """Train the clients of a round, combine what they send, test everyone. Raises RoundFailed."""
        return self._round(number)

    def _round(self, number: int) -> RoundMetrics:
        """The round itself, whose costs are measured once, also where a subclass does more."""
        traffic = Traffic.of(len(self.members))
        if self.slots is None:
            self._begin()
        if number == 0:
            traffic.up = list(self.fingerprint_bytes)
        chosen = self._begun(number, traffic)
        notes: list[dict[str, float]] = [{} for _ in self.members]
        trained = self._trained(chosen, number, traffic, notes)
        if not trained:
            raise self._failed()
        trained = self._pruned(trained)
        combined = self.server.combined(dict(enumerate(self.models)), trained)
        self.models = [combined[one] for one in range(len(self.members))]
        last = number == self.settings.rounds - 1
        if last:
            self._fetch(range(len(self.members)), traffic)
        for one in range(len(self.members)):
            notes[one] |= self._note(one, traffic)
        scores = tested(self._slots, self.rows, self.member_of, self.models, last=last)
        clients = [{**notes[of], **score} for of, score in zip(self.member_of, scores, strict=True)]
        more = {"clients": len(trained), "left_out": self.refused, **self._of_server(), **self._of_round(chosen)}
        if number == 0 and self.grouping.p_value is not None:
            more["structure_p"] = self.grouping.p_value
        return metrics_of(number, self.rows, clients, traffic, more, self._layers() if last else {})

    def state(self) -> bytes:
        """The models of all members, one that several have once, and what was found before the first round."""
        kept, about = self._kept()
        return packed({model.digest: model for model in kept}, about)

    def _kept(self) -> tuple[list[ClientModel], dict[str, object]]:
        """The models that a state holds, and what is to be known of them."""
        about: dict[str, object] = {
            "series": self.name,
            "models": [model.digest for model in self.models],
            "fetched": self.fetched,
            "ranks": [dict(member.ranks) for member in self.server.members],
            "grouping": self.grouping.to_json(),
            "unsent": {str(one): model.digest for one, model in sorted(self.unsent.items())},
        }
        return [*self.models, *self.unsent.values()], about

    def load(self, state: bytes) -> None:
        """Go on from a state. Raises BadData for one of another federation."""
        named, about = unpacked(state, f"the state of {self.name}")
        try:
            self._restore(named, about)
        except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
            raise BadData(f"the state of {self.name} does not fit: {error!s:.200}") from error

    def close(self) -> None:
        """Give the model back as it was."""
        if self.slots is not None:
            self.slots.close()

    @property
    def _slots(self) -> Slots:
        if self.slots is None:
            raise RuntimeError("the federation has not begun")
        return self.slots

    def _begin(self) -> None:
        """Compare fingerprints, where the method does, choose ranks, and give everyone the same start."""
        tasks = [member.task for member in self.members]
        halves, ranks = None, None
        if self.method.fingerprinted:
            halves, ranks = self._fingerprints()
            self.fingerprint_bytes = [sum(map(fingerprint_bytes, both)) for both in zip(*halves, strict=True)]
        self.grouping = grouped(self.method, tasks, halves, self.settings.most_clusters, self.seed)
        most = self._uniform_ranks()
        if ranks is not None:
            most = [max(one.values()) for one in ranks]
        self._open(most, ranks)
        self.models = [
            self._slots.first(rank, labels, member.ranks)
            for rank, labels, member in zip(most, self.labels, self.server.members, strict=True)
        ]
        self.fetched = [model.digest for model in self.models]  # everyone makes the start from the seed

    def _open(self, most: Sequence[int], ranks: Ranks | None) -> None:
        """Slots for the members, whose largest ranks are `most`, and their server."""
        self.slots = Slots(self.lab, self.settings, self.method, self.seed, most, self.labels)
        ranks = ranks or [dict.fromkeys(self.slots.layers, rank) for rank in most]
        members = [
            Member(member.task, len(member.train), rank) for member, rank in zip(self.members, ranks, strict=True)
        ]
        self.server = Server(
            self.method.combine, members, self.grouping.labels, self.settings.smoothing, self.settings.server_rank,
            self.grouping.similarity, self.settings.sharpness, self.settings.hetlora_weights == "norms",
        )  # fmt: skip

    def _uniform_ranks(self) -> list[int]:
        ranks = self.settings.ranks()
        if self.method.groups == "pooled":
            return [max(ranks)] * len(self.members)
        return [min(ranks)] * len(ranks) if self.method.equal_ranks else list(ranks)

    def _fingerprints(self) -> tuple[tuple[Gradients, Gradients], Ranks | None]:
        """Everyone's gradients of B at the same start, whose A and head all share, of two halves of its rows; ranks
        within the budgets.

        Everyone has as many rows as the one with the fewest, or LEAST_ROWS: fingerprints of many rows are less noisy,
        and would be told from the others by that.
        """
        rank = max(self.settings.ranks())
        slots = Slots(self.lab, self.settings, self.method, self.seed, [rank] * len(self.members), self.labels)
        try:
            for one, labels in enumerate(self.labels):
                slots.install(one, slots.first(rank, labels))
            least = min(len(member.train) for member in self.members)
            count = min(self.settings.fingerprint_rows, max(least, LEAST_ROWS))
            rows = [member.halves(count, draw_key(self.seed, -1, one)) for one, member in enumerate(self.members)]
            first, second = (
                slots.gradients({one: halves[half] or halves[0] for one, halves in enumerate(rows)}) for half in (0, 1)
            )
            whole = [{name: one[name] + other[name] for name in one} for one, other in zip(first, second, strict=True)]
            budgeted = self.method.budgeted and self.settings.budget_kb
            return (first, second), self._device_ranks(whole, slots) if budgeted else None
        finally:
            slots.close()

    def _device_ranks(self, gradients: Sequence[Mapping[str, NDArray[np.float64]]], slots: Slots) -> Ranks:
        """Ranks by layer within the members' budgets, more where the gradient is larger. Raises CannotRun."""
        return [
            budgeted_ranks(self.settings, slots, one, self.labels[one], fingerprints.importance([gradient]))
            for one, gradient in enumerate(gradients)
        ]

    def _begun(self, number: int, traffic: Traffic) -> list[int]:
        """The members whose updates the round combines, with the models that they train."""
        chosen = participants(len(self.members), self._count, self.seed, number)
        self._fetch(chosen, traffic)
        return chosen

    def _base(self, member: int) -> ClientModel:
        """The model that a member begins to train with."""
        return self.models[member]

    def _received(self, member: int, model: ClientModel) -> ClientModel:
        """What counts of the update that a member sent."""
        return model

    def _fetch(self, chosen: Sequence[int], traffic: Traffic) -> None:
        """What the server has for its members is sent to those who do not have it yet."""
        for one in chosen if self._exchanged else ():
            if self.fetched[one] != self.models[one].digest:
                data = self.models[one].to_wire(self.settings.down_wire, self._part)
                traffic.down[one] += len(data)
                self.models[one] = self.models[one].from_wire(data)
                self.fetched[one] = self.models[one].digest

    def _trained(
        self, chosen: Sequence[int], number: int, traffic: Traffic, notes: Sequence[dict[str, float]]
    ) -> dict[int, ClientModel]:
        """Train the members side by side. Returns what they sent, as the server reads it; who sent no numbers is
        left out, and named.
        """
        slots, how, self.refused = self._slots, self.settings, 0
        starts: dict[int, ClientModel] = {}
        for one in chosen:
            slots.install(one, self._base(one), number)
            if not slots.installed(one, self._base(one)):
                raise RoundFailed("not-installed", f"member {one} does not hold what the server sent")
            if self._sparse:
                starts[one] = slots.read(one, self.server.members[one].ranks)
        batches = {
            one: self.members[one].batches(how.batch, how.epochs, draw_key(self.seed, number, one)) for one in chosen
        }
        losses = slots.train(batches)
        self._count_split(batches, traffic)
        found = {}
        for one in chosen:
            model, before = slots.read(one, self.server.members[one].ranks), self._base(one)
            notes[one] |= {"steps": len(losses[one]), "installed": 1.0}
            if not model.finite:
                self._refuse(number, one, "its numbers are not finite")
                continue
            notes[one] |= gained(self.method, before, model, losses[one])
            received, size = self._sent(one, model, starts.get(one))
            traffic.up[one] += size
            found[one] = self._received(one, received)
        return found

    def _pruned(self, trained: Mapping[int, ClientModel]) -> dict[int, ClientModel]:
        """With hetlora, what was sent without the ranks that its members give up from here on."""
        decay = self.settings.hetlora_decay if self.method.combine == "padded" else 1.0
        found = dict(trained)
        for one, model in trained.items() if decay < 1 else ():
            member = self.server.members[one]
            ranks = pruned(self._base(one), model, member.ranks, decay)
            self.server.members[one] = replace(member, ranks=ranks)
            found[one] = model.first(ranks)
            if one in self.unsent:
                self.unsent[one] = self.unsent[one].first(ranks)
        return found

    def _sent(self, member: int, model: ClientModel, start: ClientModel | None) -> tuple[ClientModel, int]:
        """What the server reads of what a member sends, and its bytes. `start`: what training began with, for top-k."""
        if start is not None:
            rest = self.unsent.get(member)
            message = sparse(model, start, rest, self.settings.top, self._part, keeps=self._keeps)
            self.unsent[member] = message.rest
            return message.received, len(message.data)
        data = model.to_wire(self.settings.wire if self._exchanged else "fp32", self._part)  # as states keep it, too
        return model.from_wire(data), len(data) if self._exchanged else 0

    @property
    def _keeps(self) -> bool:
        """Whether what a sparse update leaves of factors has a place in the next one."""
        return self.method.combine in AVERAGED

    @property
    def _sparse(self) -> bool:
        return self._exchanged and self.settings.wire == "topk"

    def _count_split(self, batches: Mapping[int, Batches], traffic: Traffic) -> None:
        """What crossed the cut of a split model is traffic of the members by their tokens, their labels too."""
        crossed, loads = self._slots.crossed, {one: load(steps) for one, steps in batches.items()}
        tokens = sum(one.tokens for one in loads.values())
        for one, of in loads.items() if crossed.up else ():
            traffic.up[one] += crossed.up * of.tokens // tokens + of.texts * LABEL_BYTES
            traffic.down[one] += crossed.down * of.tokens // tokens

    def _failed(self) -> RoundFailed:
        """What ends a round of which no update can be used."""
        return RoundFailed("diverged", "no client sent numbers to go on from; a lower learning_rate may do")

    def _refuse(self, number: int, member: int, why: str) -> None:
        self.refused += 1
        LOG.warning("%s, round %d: the update of client %d is left out: %s", self.name, number, member, why)

    @property
    def _exchanged(self) -> bool:
        """Whether members send and fetch: a model that each of them keeps never leaves its place."""
        return self.method.combine != "keep"

    @property
    def _part(self) -> Part:
        """What is sent of an adapter."""
        return "b" if self.method.combine == "nested" else "all"

    def _note(self, member: int, traffic: Traffic) -> dict[str, float]:
        """What is known of a member beside its training and its tests."""
        nearest = self.grouping.nearest()
        return {
            "samples": len(self.members[member].train),
            "cluster": self.server.labels[member],
            "rank": fmean(self.server.members[member].ranks.values()),
            "upload_bytes": traffic.up[member],
            "download_bytes": traffic.down[member],
            **({"nearest": nearest[member]} if nearest else {}),
        }

    def _layers(self) -> dict[str, dict[str, float]]:
        """Mean, least and most of the ranks of each layer, where they differ."""
        ranks = [member.ranks for member in self.server.members]
        if len({rank for one in ranks for rank in one.values()}) == 1:
            return {}
        found = {}
        for name in self._slots.layers:
            of = [one[name] for one in ranks]
            found[name] = {"rank": fmean(of), "rank_least": min(of), "rank_most": max(of)}
        return found

    def _of_round(self, chosen: Sequence[int]) -> dict[str, float]:
        """Further metrics of a round."""
        crossed = self._slots.crossed
        if not crossed.up:
            return {}
        return {"split_up_bytes": crossed.up, "split_down_bytes": crossed.down, "split_error": crossed.error}

    def _of_server(self) -> dict[str, float]:
        errors = self.server.errors
        return {"clusters": len(set(self.server.labels))} | (
            {"aggregation_error": rounded(max(errors))} if errors else {}
        )

    def _restore(self, named: Mapping[str, ClientModel], about: Mapping[str, Any]) -> None:
        counts = {len(about[name]) for name in ("models", "ranks", "fetched")}
        if about["series"] != self.name or counts != {len(self.members)}:
            raise ValueError(f"it is of {about['series']!s:.100}")
        ranks = [dict(one) for one in about["ranks"]]
        models = [named[digest] for digest in about["models"]]
        for one, model in enumerate(models):
            self._refuse_ranks(one, model, ranks[one])  # before slots of these ranks take memory
        self.grouping = Grouping.from_json(about["grouping"], len(self.members))
        own = self.method.combine == "padded"  # slots as they were before ranks were pruned: sums round alike
        self._open(self._uniform_ranks() if own else [max(one.values()) for one in ranks], ranks)
        self.models = models
        self.fetched = [str(digest) for digest in about["fetched"]]
        self.unsent = {int(one): named[digest] for one, digest in about.get("unsent", {}).items()}
        for one, model in enumerate(models):
            self._refuse_shapes(one, model)
        for one, rest in self.unsent.items():
            if one not in range(len(self.members)) or not fits(rest, self.models[one], keeps=self._keeps):
                raise ValueError(f"what member {one} has not sent is of another model")

    def _refuse_ranks(self, member: int, model: ClientModel, ranks: Mapping[str, Any]) -> None:
        """Raise ValueError for ranks that the settings do not allow a member, or a model of a state without them."""
        budgeted = self.method.budgeted and self.settings.budget_kb
        uniform = self._uniform_ranks()
        most = max(CANDIDATES) if budgeted else uniform[member]
        if any(type(rank) is not int or not 1 <= rank <= most for rank in ranks.values()):
            raise ValueError(f"the ranks of member {member} are not between 1 and {most}")
        found = {name: of.rank for name, of in model.update.items()}
        if self.method.combine != "stack" and found != ranks:
            raise ValueError(f"the model of member {member} does not have its ranks")
        if self.method.combine == "stack" and max(found.values()) > max(self.settings.server_rank, *uniform):
            raise ValueError(f"the model of member {member} has more ranks than the server keeps")

    def _refuse_shapes(self, member: int, model: ClientModel) -> None:
        """Raise ValueError for a model of a state whose layers or head are not those of a member."""
        aggregation.check(model.update, member, self._slots.layers)
        if self.server.members[member].ranks.keys() != self._slots.layers.keys():
            raise ValueError(f"the ranks of member {member} are of other layers")
        expected = self._slots.first(1, self.labels[member]).head
        if {name: one.shape for name, one in model.head.items()} != {name: one.shape for name, one in expected.items()}:
            raise ValueError(f"the head of member {member} has other shapes")
