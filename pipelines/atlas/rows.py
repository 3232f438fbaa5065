"""The rows of the clients of a federation: tokenized once, divided, put into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from hybrid.loops import EncodedText, Lab
from pipelines.atlas.partition import divide
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.task_data import Row, TaskData


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as tokens, with its label."""

    text: EncodedText
    label: int


@dataclass(frozen=True, slots=True)
class ClientRows:
    """What a client trains on, and is tested on every round."""

    task: str
    train: Sequence[Encoded]
    test: Sequence[Encoded]

    @property
    def truncated(self) -> int:
        """Rows that were longer than what the model is shown of them."""
        return sum(row.text.truncated for row in (*self.train, *self.test))

    def batches(self, size: int, epochs: int, key: str) -> list[list[Encoded]]:
        """The batches of a round: every row once an epoch, in an order that `key` draws."""
        found = []
        for epoch in range(epochs):
            rows = list(self.train)
            Random(f"{key} epoch {epoch}").shuffle(rows)
            found += [rows[start : start + size] for start in range(0, len(rows), size)]
        return found

    def halves(self, count: int, key: str) -> tuple[list[Encoded], list[Encoded]]:
        """At most `count` rows to train on, drawn by `key`, the rows of each label dealt to two halves in turn."""
        rows = Random(f"{key} sample").sample(list(self.train), min(count, len(self.train)))
        rows.sort(key=lambda row: row.label)
        return rows[::2], rows[1::2]


@dataclass(frozen=True, slots=True)
class FederatedRows:
    """The rows of all clients, and of each task the rows that final models are tested on and its number of labels."""

    clients: Sequence[ClientRows]
    dev: dict[str, Sequence[Encoded]]
    task_labels: Mapping[str, int]

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of their clients."""
        return list(dict.fromkeys(one.task for one in self.clients))

    def pools(self) -> list[ClientRows]:
        """The rows of all clients of a task together, for each task."""
        found = []
        for task in self.tasks:
            of = [one for one in self.clients if one.task == task]
            found.append(ClientRows(task, [row for one in of for row in one.train], []))
        return found

    def pool_of(self) -> list[int]:
        """The number of the pool of each client."""
        return [self.tasks.index(one.task) for one in self.clients]


def federated_rows(settings: AtlasSettings, seed: int, lab: Lab, data: Mapping[str, Any]) -> FederatedRows:
    """The rows of a run, each tokenized once, divided among the clients of its task as `seed` draws it."""
    found = {name: TaskData.from_json(name, one) for name, one in data["tasks"].items()}
    of_task = {name: [one for one, task in data["clients"].items() if task == name] for name in found}
    clients: dict[str, ClientRows] = {}
    dev: dict[str, Sequence[Encoded]] = {}
    for name, task in found.items():
        names = of_task[name]
        parts = divide(
            task.train[: settings.samples * len(names)], len(names), settings.partition, settings.concentration,
            f"{seed} {name}", settings.held_out,
        )  # fmt: skip
        for client, (train, test) in zip(names, parts, strict=True):
            encoded = _encoded([*train, *test], lab, settings.longest)
            clients[client] = ClientRows(name, encoded[: len(train)], encoded[len(train) :])
        dev[name] = _encoded(task.dev, lab, settings.longest)
    labels = {name: len(task.labels) for name, task in found.items()}
    return FederatedRows([clients[name] for name in data["clients"]], dev, labels)


def _encoded(rows: Sequence[Row], lab: Lab, longest: int) -> list[Encoded]:
    texts = [row.text if row.pair is None else (row.text, row.pair) for row in rows]
    return [Encoded(text, row.label) for text, row in zip(lab.tokenize(texts, longest), rows, strict=True)]
