"""The members of a federation in the slots of one frozen model: installed, trained side by side, read, tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import CannotRun
from hybrid.loops import EncodedText, Lab, LabelledText
from pipelines.atlas.aggregation import Factors, Update
from pipelines.atlas.client_models import ClientModel, Head
from pipelines.atlas.methods import Method
from pipelines.atlas.rows import Encoded
from pipelines.atlas.self_pruning import kept_rank
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.split import Batch

Batches = Sequence[Sequence[Encoded]]
"""The steps of a member in a round, each the rows of one optimizer step."""
SEEDS = 1_000_003
"""Between the seeds of the adapters of two rounds."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """What crossed the cut of a split model in a round: bytes up and down, and the relative error of its format."""

    up: int = 0
    down: int = 0
    error: float = 0.0


class Slots:
    """One slot a member, over one model: the largest rank of each one's adapter, and the labels of its head."""

    def __init__(
        self, lab: Lab, settings: AtlasSettings, method: Method, seed: int, ranks: Sequence[int], labels: Sequence[int]
    ) -> None:
        self._settings, self._method, self._seed = settings, method, seed
        self._ranks, self._labels = ranks, max(labels)
        self._heads: dict[int, Head] = {}
        self._held: dict[int, int] = {}  # member -> the rank of what was installed
        self._stacks = method.combine == "stack"
        most = max(ranks) + (max(settings.server_rank, *ranks) if self._stacks else 0)  # the start has their ranks
        self._bank: Any = lab.classifiers(len(ranks), most, settings.targets or None, self._labels)
        self.layers: Mapping[str, tuple[int, int]] = self._bank.layers
        self.sizes: tuple[int, int, int] = self._bank.sizes
        """Of the base model: its numbers, its blocks, and the width of what they give to each other."""
        self.split = 0 if method.groups == "pooled" else settings.split_after
        self.crossed = Crossed()
        try:
            self._check(max(ranks))
        except CannotRun:
            self.close()
            raise

    def _check(self, rank: int) -> None:
        """Raise CannotRun for a rank or a cut that the model does not have."""
        narrow = min(self.layers, key=lambda name: min(self.layers[name]))
        width = min(self.layers[narrow])
        if rank > width:
            raise CannotRun(f"rank={rank} is above the width {width} of {narrow}", hint=f"--set rank={width} or less")
        if self.split > self.sizes[1]:
            blocks = self.sizes[1]
            raise CannotRun(
                f"split_after={self.split}: the model has {blocks} blocks", hint=f"--set split_after={blocks} or less"
            )

    def first(self, rank: int, labels: int, ranks: Mapping[str, int] | None = None) -> ClientModel:
        """What a member of this rank and of a task with so many labels begins with: the same A, cut to the rank, and
        the same head for all with as many labels; B is zero.
        """
        return _model(self._fresh(rank), self._head(labels), ranks)

    def install(self, member: int, model: ClientModel, number: int = 0) -> None:
        """Put a model into its member's slot for training; with `stack` frozen, below an adapter of this round."""
        weights, rank, frozen = self._adapter(model.update), self._ranks[member], 0
        if self._stacks:
            frozen = weights.rank
            weights = self._fresh(rank, number).stacked_on(weights)
        trains_a = self._method.combine != "nested"
        self._held[member] = weights.rank
        tuning = self._settings.tuning(self._seed, weights.rank)
        self._bank.put(member, weights, model.head, tuning, frozen=frozen, train_a=trains_a)

    def installed(self, member: int, model: ClientModel) -> bool:
        """Whether the slot holds exactly `model`, as float32."""
        held = _model(self._bank.weights(member), self._bank.head(member), None)
        expected = {name: (one.a, one.b) for name, one in model.update.items()}
        same_head = all(np.array_equal(held.head[name], np.float32(value)) for name, value in model.head.items())
        return same_head and all(
            np.array_equal(held.update[name].a[: len(a)], np.float32(a))
            and np.allclose(held.update[name].b[:, : len(a)], b, rtol=1e-6, atol=0)
            for name, (a, b) in expected.items()
        )

    def train(self, batches: Mapping[int, Batches]) -> dict[int, list[float]]:
        """Train the members, each on its batches, a step of all at a time. Returns the loss of each step.

        Without the penalty of HetLoRA, which is in the gradients alone.
        """
        found: list[tuple[list[int], Any]] = []
        with self._bank.cut(self.split, self._settings.down_wire) as crossing:
            for number in range(max(map(len, batches.values()), default=0)):
                now = {member: steps[number] for member, steps in batches.items() if number < len(steps)}
                found.append((list(now), self._bank.backward(labelled(now))))
                for member in now if self._method.combine == "padded" and self._settings.hetlora_decay < 1 else ():
                    first = kept_rank(self._held[member], self._settings.hetlora_decay)
                    self._bank.penalise_ranks(member, first, self._settings.hetlora_penalty)
                self._bank.step(list(now), self._settings.learning_rate)
        self.crossed = Crossed(crossing.up, crossing.down, crossing.error)
        losses: dict[int, list[float]] = {member: [] for member in batches}
        for members, values in found:  # read at the end: each reading waits for a GPU
            known = values.tolist()
            for member in members:
                losses[member].append(known[member])
        return losses

    def gradients(self, rows: Mapping[int, Sequence[Encoded]]) -> list[dict[str, NDArray[np.float64]]]:
        """The mean gradient of B over each member's rows of each label, members in ascending order; nothing is trained.

        Layer -> [labels, out, rank], zero for a label without rows. In the sum over the labels the gradients of a task
        whose labels differ by no single word cancel, and what is left is how many rows of each a member has.
        """
        parts: dict[int, list[dict[str, NDArray[np.float64]]]] = {member: [] for member in sorted(rows)}
        for label in range(self._labels):
            now = {member: [row for row in of if row.label == label] for member, of in rows.items()}
            if texts := labelled({member: of for member, of in now.items() if of}):
                self._bank.backward(texts)
            for member, found in parts.items():
                found.append(_arrays(self._bank.gradients_of_b(member)))
                self._bank.forget_gradients(member)
        return [{name: np.stack([part[name] for part in found]) for name in self.layers} for found in parts.values()]

    def read(self, member: int, ranks: Mapping[str, int]) -> ClientModel:
        """The model in a slot; with `stack` what was trained on top of what was installed."""
        weights, head = self._bank.weights(member), self._bank.head(member)
        if not self._stacks:
            return _model(weights, head, ranks)
        own = self._ranks[member]
        update = {
            name: Factors(_array(a)[-own:], _array(b)[:, -own:] * weights.scale)
            for name, (a, b) in weights.layers.items()
        }
        return ClientModel(update, _arrays(head))

    def show(self, models: Sequence[ClientModel]) -> None:
        """Put everyone's model into its slot to be tested."""
        for member, model in enumerate(models):
            weights = self._adapter(model.update)
            self._bank.put(member, weights, model.head, self._settings.tuning(self._seed, weights.rank))

    def logits(self, rows: Iterable[tuple[int, EncodedText]]) -> NDArray[np.float64]:
        """The logits [rows, labels] of rows, each with the model of its member. `show` the models before."""
        return _array(self._bank.logits(list(rows)))

    def close(self) -> None:
        """Give the model back as it was."""
        self._bank.close()

    def _fresh(self, rank: int, number: int = 0) -> Any:
        """A new adapter, the same for all members in a round."""
        return self._bank.new_adapter(rank, self._settings.scale * rank, self._seed + number * SEEDS)

    def _head(self, labels: int) -> Head:
        if labels not in self._heads:
            self._heads[labels] = self._bank.new_head(labels, self._seed)
        return self._heads[labels]

    def _adapter(self, update: Update) -> Any:
        """The adapter of an update, for the bank."""
        rank, scale = max(len(one.a) for one in update.values()), self._settings.scale
        layers = {name: (one.a, one.b / scale) for name, one in update.items()}
        return self._bank.adapter(layers, rank, scale * rank)


def load(batches: Batches) -> Batch:
    """The texts and tokens of all steps together."""
    rows = [row for step in batches for row in step]
    return Batch(len(rows), sum(len(row.text.ids) for row in rows))


def labelled(batches: Mapping[int, Sequence[Encoded]]) -> list[LabelledText]:
    """The rows of one optimizer step of each member, the loss of a member being the mean over its rows."""
    return [
        LabelledText(member, row.text, row.label, 1 / len(rows)) for member, rows in batches.items() for row in rows
    ]


def _model(weights: Any, head: Mapping[str, Any], ranks: Mapping[str, int] | None) -> ClientModel:
    """The adapter as an update, each layer cut to its rank."""
    update = {}
    for name, (a, b) in weights.layers.items():
        rank = ranks[name] if ranks else len(a)
        update[name] = Factors(_array(a)[:rank], _array(b)[:, :rank] * weights.scale)
    return ClientModel(update, _arrays(head))


def _arrays(tensors: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    return {name: _array(value) for name, value in tensors.items()}


def _array(value: Any) -> NDArray[np.float64]:
    """A tensor of torch, or an array, in float64 on the CPU."""
    value = value.detach().cpu().double().numpy() if hasattr(value, "detach") else value
    return np.asarray(value, np.float64)
