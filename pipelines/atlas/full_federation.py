"""The loop of `fedavg`: all weights of the model are trained, by one client after another, and averaged.

McMahan and others 2017 (AISTATS). The heads are averaged among the clients of a task only.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from hybrid.canonical import decode, encode
from hybrid.errors import BadData
from hybrid.loops import Lab, RoundFailed, Series
from hybrid.metrics import RoundMetrics
from hybrid.round_costs import with_costs
from pipelines.atlas.rounds import Traffic, draw_key, metrics_of, participants
from pipelines.atlas.rows import ClientRows, Encoded, FederatedRows
from pipelines.atlas.scores import most_frequent, scored
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.timed_federation import clock_of
from pipelines.atlas.trained_slots import labelled, load
from pipelines.atlas.virtual_clock import TimedRound, VirtualClock, Work, full_training_operations

LOG = logging.getLogger("hybrid")
Weights = dict[str, NDArray[np.float32]]
CLOCK = "clock"
"""The name of the clock in a state."""


class FullFederation:
    """A `hybrid.loops.Loop`. One model is in memory at a time, and the weighted sums of those that were trained."""

    clock: VirtualClock | None = None

    def __init__(self, settings: AtlasSettings, series: Series, lab: Lab, rows: FederatedRows) -> None:
        self.settings, self.rows, self.lab = settings, rows, lab
        self.name, self.seed = series.name, int(str(series.settings["seed"]))
        self.labels = rows.task_labels
        self.model: Any = lab.full_classifier(self.labels[rows.tasks[0]], self.seed)
        self.heads: dict[str, Weights] = {}
        for task in rows.tasks:
            self._take_head(task)
            start = _arrays(self.model.weights())
            self.heads[task] = {name: start[name] for name in self.model.head_names}
        self.body = {name: value for name, value in start.items() if name not in self.model.head_names}
        sizes = {task: len(safetensors.numpy.save({**self.body, **head})) for task, head in self.heads.items()}
        self.sizes = [sizes[client.task] for client in rows.clients]  # bytes of the file with a client's weights
        if settings.devices:
            self.clock = clock_of(settings, self.seed, len(rows.clients))

    @with_costs
    def round(self, number: int) -> RoundMetrics:
        """Train the clients of a round, one after another, average them, test everyone. Raises RoundFailed."""
        traffic = Traffic.of(len(self.rows.clients))
        notes: list[dict[str, float]] = [{} for _ in self.rows.clients]
        chosen = participants(len(self.rows.clients), self.settings.participants, self.seed, number)
        for one in chosen:
            traffic.down[one] += self.sizes[one] if number else 0  # everyone makes the start from the seed
        timed = self._timed(chosen, number, traffic)
        arrived = sorted(one.client for one in timed.arrivals) if timed else chosen
        sums, heads = _Sum(), defaultdict[str, _Sum](_Sum)
        for one in arrived:
            client = self.rows.clients[one]
            weights = self._trained(client, draw_key(self.seed, number, one), notes[one])
            if weights is None:
                LOG.warning("%s, round %d: the weights of client %d are not finite: left out", self.name, number, one)
                continue
            traffic.up[one] += self.sizes[one]
            sums.add({name: weights[name] for name in self.body}, len(client.train))
            heads[client.task].add({name: weights[name] for name in self.heads[client.task]}, len(client.train))
        if not sums.rows:
            raise RoundFailed("diverged", "no client sent finite numbers; a lower full_learning_rate may do")
        self.body = sums.mean()
        self.heads |= {task: one.mean() for task, one in heads.items()}
        last = number == self.settings.rounds - 1
        for one, note in enumerate(notes):
            traffic.down[one] += self.sizes[one] if last else 0
            note |= {
                "samples": len(self.rows.clients[one].train), "cluster": 0, "installed": 1.0,
                "upload_bytes": traffic.up[one], "download_bytes": traffic.down[one],
            }  # fmt: skip
        more: dict[str, float] = {"clients": sums.clients, "left_out": len(arrived) - sums.clients, "clusters": 1}
        if timed:
            more |= {"virtual_seconds": timed.ended, "late": len(timed.late), "lost": timed.dropped}
        return metrics_of(number, self.rows, self._tested(notes, last=last), traffic, more, {})

    def _timed(self, chosen: Sequence[int], number: int, traffic: Traffic) -> TimedRound | None:
        """Whose updates arrive, and when, where there is a clock."""
        if self.clock is None:
            return None
        return self.clock.round({one: self._work(one, number, traffic.down[one]) for one in chosen})

    def _work(self, member: int, number: int, fetched: int) -> Work:
        """What a member does for one update."""
        client, how = self.rows.clients[member], self.settings
        tokens = load(client.batches(how.batch, how.epochs, draw_key(self.seed, number, member))).tokens
        parameters = sum(value.size for value in self.body.values())
        return Work(full_training_operations(parameters, tokens), fetched, self.sizes[member])

    def state(self) -> bytes:
        """The weights of the body and of each task's head, in float32, and the clock as JSON."""
        tensors: dict[str, NDArray[Any]] = {f":{name}": value for name, value in self.body.items()}
        tensors |= {f"{task}:{name}": value for task, head in self.heads.items() for name, value in head.items()}
        if self.clock:
            tensors[CLOCK] = np.frombuffer(encode(self.clock.state()), np.uint8)
        data: bytes = safetensors.numpy.save(tensors)
        return data

    def load(self, state: bytes) -> None:
        """Go on from a state. Raises BadData for one of another model or of other tasks."""
        try:
            given = safetensors.numpy.load(state)
            self.body = _like(self.body, given, "")
            self.heads = {task: _like(head, given, task) for task, head in self.heads.items()}
            if self.clock:
                self.clock.load(decode(given[CLOCK].astype(np.uint8).tobytes(), what="a clock"))
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
            raise BadData(f"the state of {self.name} does not fit: {error!s:.200}") from error

    def close(self) -> None:
        """Free the model."""
        self.model.close()

    def _take_head(self, task: str) -> None:
        """Give the model a head for the labels of a task."""
        if self.model.labels != self.labels[task]:
            self.model.begin_head(self.labels[task], self.seed)

    def _put(self, task: str) -> None:
        """Write the weights that the clients of a task begin with into the model."""
        self._take_head(task)
        self.model.load({**self.body, **self.heads[task]})

    def _trained(self, client: ClientRows, key: str, note: dict[str, float]) -> Weights | None:
        """A client's weights after its rows of a round; None when they are not finite."""
        how = self.settings
        before = {**self.body, **self.heads[client.task]}
        self._put(client.task)
        losses = self.model.train(
            [labelled({0: batch}) for batch in client.batches(how.batch, how.epochs, key)],
            how.full_learning_rate, how.tuning(self.seed, 1),
        )  # fmt: skip
        found = _arrays(self.model.weights())
        note["steps"] = len(losses)
        if not all(np.isfinite(value).all() for value in found.values()):
            return None
        moved = sum(float(np.square(found[name] - before[name], dtype=np.float64).sum()) for name in found)
        note |= {"train_loss": fmean(losses), "moved": moved**0.5}
        return found

    def _tested(self, notes: list[dict[str, float]], *, last: bool) -> list[dict[str, float]]:
        """The notes of the clients, with the scores of their task's model."""
        found = [dict(note) for note in notes]
        usual = {one.task: most_frequent(one.train) for one in self.rows.pools()}
        for task in self.rows.tasks:
            self._put(task)
            shared = self._scores(task, self.rows.dev[task], usual[task]) if last else {}
            dev = {f"dev_{name}": value for name, value in shared.items()}
            for one, client in zip(found, self.rows.clients, strict=True):
                if client.task == task:
                    one |= {**self._scores(task, client.test, most_frequent(client.train)), **dev}
        return found

    def _scores(self, task: str, rows: Sequence[Encoded], usual: int) -> dict[str, float]:
        logits = np.asarray(self.model.logits([row.text for row in rows]).double().cpu().numpy())
        return scored([row.label for row in rows], logits, usual, self.rows.task_labels[task])


class _Sum:
    """A weighted sum of weights, in float64."""

    def __init__(self) -> None:
        self.rows, self.clients = 0, 0
        self.total: dict[str, NDArray[np.float64]] = {}

    def add(self, weights: Weights, rows: int) -> None:
        """Add a client's weights, as many times as it has rows."""
        for name, value in weights.items():
            wide = value.astype(np.float64) * rows
            self.total[name] = self.total[name] + wide if name in self.total else wide
        self.rows, self.clients = self.rows + rows, self.clients + 1

    def mean(self) -> Weights:
        """The mean over the rows."""
        return {name: (value / self.rows).astype(np.float32) for name, value in self.total.items()}


def _arrays(tensors: Mapping[str, Any]) -> Weights:
    return {name: np.array(value.detach().cpu().float().numpy()) for name, value in tensors.items()}


def _like(weights: Weights, given: Mapping[str, NDArray[Any]], task: str) -> Weights:
    """The tensors of `given` under a task's names. Raises ValueError for other shapes, KeyError."""
    found = {}
    for name, value in weights.items():
        one = given[f"{task}:{name}"]
        if one.shape != value.shape or one.dtype != np.float32 or not np.isfinite(one).all():
            raise ValueError(f"{name:.100} has another shape or type, or numbers that are not finite")
        found[name] = one
    return found
