"""A federation in one file, as somebody new writes it: a plugin that trains a real model with what a lab offers."""

MODULE = '''
"""Two clients train adapters over one frozen classifier; after every round both go on with the mean of A and of B."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import safetensors.torch
import torch

from hybrid import BadData, Inputs, Lab, Role, RoundFailed, RoundMetrics, Rounds, Series, Stage, Tuning
from hybrid.loops import LabelledText

GOOD, BAD = "fresh fine great lovely superb".split(), "awful bland nasty stale terrible".split()
THINGS = "cake film soup plot menu hero salad scene".split()
CLIENTS, RANK, SCALE, BATCH = 2, 4, 2.0, 8


@dataclass(frozen=True)
class TwoKitchens:
    """Federated averaging of adapters on reviews of a few words."""

    rounds: int = 4
    seeds: tuple[int, ...] = (0,)
    learning_rate: float = 0.01
    roles: ClassVar[Mapping[str, Role]] = {"": Role("", backend="classifier", model="tiny")}

    def inputs(self) -> Inputs:
        return Inputs({f"mean/seed-{seed}": seed for seed in self.seeds}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("rounds", "any", 1, Rounds(self.series, self.loop)),)

    def series(self, tasks: Mapping[str, Any]) -> Iterator[Series]:
        return (Series(name, self.rounds, {"seed": seed}) for name, seed in tasks.items())

    def loop(self, series: Series, lab: Lab, tasks: Mapping[str, Any]) -> "Kitchens":
        return Kitchens(lab, tasks[series.name], self.learning_rate)


class Kitchens:
    """Its state: the adapter and the head that all clients begin a round with."""

    def __init__(self, lab: Lab, seed: int, learning_rate: float) -> None:
        self.rate, draw = learning_rate, random.Random(seed)
        rows = [(f"the {thing} was {word}", int(word in GOOD)) for thing in THINGS for word in GOOD + BAD]
        draw.shuffle(rows)
        texts = lab.tokenize([text for text, _ in rows], longest=16)
        self.rows = [(text, label) for text, (_, label) in zip(texts, rows)]
        self.bank = lab.classifiers(CLIENTS, RANK, None, 2)
        self.adapter = self.bank.new_adapter(RANK, SCALE * RANK, seed)
        self.head = self.bank.new_head(2, seed)

    def round(self, number: int) -> RoundMetrics:
        tuning = Tuning({}, self.rate, 1, rank=RANK, alpha=SCALE * RANK, clip=1.0)
        for client in range(CLIENTS):
            self.bank.put(client, self.adapter, self.head, tuning)
        own = [self.rows[16 + client :: CLIENTS] for client in range(CLIENTS)]  # 16 rows are held out
        losses = []
        for start in range(0, min(map(len, own)), BATCH):
            step = [(client, row) for client in range(CLIENTS) for row in own[client][start : start + BATCH]]
            found = self.bank.backward([LabelledText(client, *row, 1 / BATCH) for client, row in step])
            self.bank.step(list(range(CLIENTS)), self.rate)
            losses.append(found.mean().item())
        if not losses[-1] < 100:
            raise RoundFailed("diverged", f"the loss is {losses[-1]:.3g}")
        self.average()
        self.bank.put(0, self.adapter, self.head, tuning)
        logits = self.bank.logits([(0, text) for text, _ in self.rows[:16]])
        right = [int(row.argmax()) == label for row, (_, label) in zip(logits, self.rows)]
        return RoundMetrics(number, {"loss": sum(losses) / len(losses), "accuracy": sum(right) / len(right)})

    def average(self) -> None:
        each = [self.bank.weights(client).layers for client in range(CLIENTS)]
        pairs = {name: zip(*(one[name] for one in each)) for name in each[0]}
        mean = {name: tuple(torch.stack(parts).mean(0) for parts in pair) for name, pair in pairs.items()}
        heads = [self.bank.head(client) for client in range(CLIENTS)]
        self.adapter = self.bank.adapter(mean, RANK, SCALE * RANK)
        self.head = {name: torch.stack([head[name] for head in heads]).mean(0) for name in heads[0]}

    def state(self) -> bytes:
        tensors = {f"head.{name}": value for name, value in self.head.items()}
        for name, (a, b) in self.adapter.layers.items():
            tensors |= {f"{name}.a": a, f"{name}.b": b}
        return safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})

    def load(self, state: bytes) -> None:
        try:
            found = safetensors.torch.load(state)
            layers = {name: (found[f"{name}.a"], found[f"{name}.b"]) for name in self.bank.layers}
            head = {name: found[f"head.{name}"] for name in self.head}
            if any(found[name].shape != one.shape for name, one in safetensors.torch.load(self.state()).items()):
                raise ValueError("a tensor of another shape")
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise BadData(f"not the state of two kitchens: {error}") from error
        self.head, self.adapter = head, self.bank.adapter(layers, RANK, SCALE * RANK)

    def close(self) -> None:
        self.bank.close()
'''
