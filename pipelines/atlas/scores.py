"""What the clients' models are worth after a round: scores of each client, of each task, and over all clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from hybrid.statistics import classification
from pipelines.atlas.client_models import ClientModel
from pipelines.atlas.rows import Encoded, FederatedRows
from pipelines.atlas.trained_slots import Slots

MEANS = (
    "accuracy", "loss", "train_loss", "f1", "mcc", "majority",
    "dev_accuracy", "dev_loss", "dev_f1", "dev_mcc", "dev_majority", "dev_majority_f1",
)  # fmt: skip
"""The metrics of clients of which the means over clients and over a task's clients are told."""


@dataclass(frozen=True, slots=True)
class Test:
    """Rows that a member's model answers. `usual` is the label that a model without any learning would always give.

    `labels`: how many the task has.
    """

    member: int
    rows: Sequence[Encoded]
    usual: int
    labels: int


def tested(
    slots: Slots, rows: FederatedRows, member_of: Sequence[int], models: Sequence[ClientModel], *, last: bool
) -> list[dict[str, float]]:
    """The scores of each client's model on the client's own rows; in the `last` round on the dev rows of its task, too.

    A model that several clients of a task have answers the dev rows once.
    """
    slots.show(models)
    own = [
        Test(of, one.test, most_frequent(one.train), rows.task_labels[one.task])
        for of, one in zip(member_of, rows.clients, strict=True)
    ]
    found = _scores(slots, own)
    if last:
        usual = {one.task: most_frequent(one.train) for one in rows.pools()}
        keys = [(one.task, models[of].digest) for of, one in zip(member_of, rows.clients, strict=True)]
        distinct = dict(zip(keys, member_of, strict=True))
        tests = [Test(of, rows.dev[task], usual[task], rows.task_labels[task]) for (task, _), of in distinct.items()]
        of_model = dict(zip(distinct, _scores(slots, tests), strict=True))
        for one, key in zip(found, keys, strict=True):
            one |= {f"dev_{name}": value for name, value in of_model[key].items()}
    return found


def _scores(slots: Slots, tests: Sequence[Test]) -> list[dict[str, float]]:
    logits = slots.logits([(one.member, row.text) for one in tests for row in one.rows])
    found, start = [], 0
    for one in tests:
        found.append(
            scored([row.label for row in one.rows], logits[start : start + len(one.rows)], one.usual, one.labels)
        )
        start += len(one.rows)
    return found


def scored(truth: Sequence[int], logits: NDArray[np.float64], usual: int, labels: int) -> dict[str, float]:
    """Accuracy, loss (mean cross-entropy, nats), F1 and MCC, and accuracy and F1 of always answering `usual`.

    `logits` are [rows, labels of the head], of which the task has `labels`. What is not defined, as the MCC of rows
    that all have the same label, is left out.
    """
    if not truth:
        return {}
    answers = logits.argmax(axis=1).tolist()
    most = logits.max(axis=1, keepdims=True)
    chances = logits - most - np.log(np.exp(logits - most).sum(axis=1, keepdims=True))
    same = [usual] * len(truth)
    found = {
        "accuracy": classification.accuracy(truth, answers),
        "loss": float(-chances[np.arange(len(truth)), truth].mean()),
        "f1": classification.f1(truth, answers, labels),
        "mcc": classification.mcc(truth, answers),
        "majority": classification.accuracy(truth, same),
        "majority_f1": classification.f1(truth, same, labels),
    }
    return {name: value for name, value in found.items() if value is not None and np.isfinite(value)}


def most_frequent(rows: Iterable[Encoded]) -> int:
    """The most frequent label, the lowest of several."""
    counts = Counter(row.label for row in rows)
    return min(counts, key=lambda label: (-counts[label], label))


def averages(clients: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The means of what clients have, each over those that have it."""
    found = {}
    for name in MEANS:
        if values := [one[name] for one in clients if name in one]:
            found[name] = fmean(values)
    return found


def spread(clients: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The accuracy of the worst client, and the 10th percentile (linear between clients)."""
    values = [one["accuracy"] for one in clients if "accuracy" in one]
    if not values:
        return {}
    return {"accuracy_worst": min(values), "accuracy_p10": float(np.quantile(values, 0.1))}
