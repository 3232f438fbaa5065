"""What the guide to federated fine-tuning promises of times and traffic, by its own formulas, beside what is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hybrid.loads import GuideTable

DISTILBERT, ADAPTER, HEAD = 66_955_010, 294_912, 592_130
"""Parameters of DistilBERT with a head of two labels; of adapters of rank 8 on its attention layers; of the head."""
FLOAT, MIB, MB = 4, 1024 * 1024, 1e6
FULL_RATE, ADAPTER_RATE = 93, 131
"""Samples a second on a T4 in the guide's own runs: fp32, padded to 128 tokens."""
CLAIMED = {"distilbert": 6, "bert-base": 10, "gpt2": 8, "roberta": 10}
"""GB that the guide names; the peak of its runs of DistilBERT was 3.2."""


class Experiment(NamedTuple):
    """A row of the guide: minutes promised; clients, rounds, samples, epochs and samples a second of its own run, and
    the minutes that this took (0: there is none).
    """

    name: str
    promised: int
    clients: int
    rounds: int
    samples: int
    epochs: int
    rate: int
    took: float


EXPERIMENTS = (
    Experiment("standard FL, SST-2", 25, 5, 5, 2000, 3, FULL_RATE, 27.2),
    Experiment("LoRA FL, SST-2", 20, 5, 5, 2000, 3, ADAPTER_RATE, 19.4),
)
DEFAULT_SAMPLES, DEFAULT_EPOCHS = 300, 1
"""A client's of the guide's default settings, for which it promises the minutes."""


def tables() -> Iterator[GuideTable]:
    """Minutes on a T4, traffic of a round, and memory."""
    rows = []
    for one in EXPERIMENTS:
        default = one.clients * one.rounds * DEFAULT_SAMPLES * DEFAULT_EPOCHS / one.rate / 60
        own = one.clients * one.rounds * one.samples * one.epochs / one.rate / 60
        rows.append((one.name, str(one.promised), f"{default:.1f}", f"{own:.1f}", f"{one.took:.1f}"))
    columns = (
        "experiment",
        "promised",
        "its speed, its default settings",
        "its speed, its run's settings",
        "its run took",
    )
    note = (
        "the promised minutes are those of runs with seven times the samples and three times the epochs of the defaults"
    )
    yield GuideTable("atlas: minutes on a T4", columns, tuple(rows), note)
    yield GuideTable(
        "atlas: traffic of a round of five clients",
        ("method", "guide, MiB", "sent up, MB", "sent up and down, MB"),
        tuple(
            (name, f"{guide_traffic(counted):,.0f}", f"{sent / MB:,.1f}", f"{2 * sent / MB:,.1f}")
            for name, counted, trained in (
                ("full fine-tuning", DISTILBERT, DISTILBERT),
                ("LoRA, rank 8, and head", DISTILBERT + ADAPTER + HEAD, ADAPTER + HEAD),
            )
            for sent in [trained * FLOAT * 5]
        ),
        "the guide counts all parameters, frozen ones too, in one direction: so LoRA looks dearer than full training",
    )
    yield GuideTable(
        "atlas: memory on a GPU",
        ("model", "guide, GB"),
        tuple((name, str(size)) for name, size in CLAIMED.items()),
        "its own runs of DistilBERT had a peak of 3.2 GB; `hybrid plan atlas` says what a run takes here",
    )


def guide_traffic(parameters: int, clients: int = 5) -> float:
    """The guide's MiB of a round: all parameters of a model, frozen or not, from each client, in one direction."""
    return parameters * FLOAT * clients / MIB
