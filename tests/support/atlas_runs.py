"""Runs of `atlas` without training: the records of made-up methods, and the outputs file that they stand in."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.metrics import RoundMetrics
from hybrid.outputs import write_outputs
from hybrid.records import Failure, Output

METHODS = ("local", "fedavg-lora", "flexlora", "cluster", "atlas")
WORTH = {
    "local": 0.0, "fedavg": 0.03, "fedavg-lora": 0.04, "hetlora": 0.03, "flora": 0.05, "flexlora": 0.06, "ffa": 0.02,
    "cluster": 0.09, "mira": 0.05, "atlas": 0.11, "centralised": 0.12, "oracle-clusters": 0.1, "random-clusters": -0.02,
}  # fmt: skip
"""What a method gains over local training in the end."""
TASKS = {"polarity": "accuracy", "paraphrase": "f1", "agreement": "mcc"}
LAYERS = tuple(f"encoder.layer.{layer}.attention.self.{name}" for layer in range(3) for name in ("query", "value"))

Groups = dict[str, dict[str, float]]
Change = Callable[[int, dict[str, float], Groups], None]
"""What is changed in a round before it is written: its number, metrics and groups."""


def federation(
    method: str, seed: int, *, clients: int = 6, rounds: int = 4, change: Change | None = None
) -> list[Output]:
    """The rounds of a method that learns: what it gains is in `WORTH`."""
    draw = random.Random(f"{method} {seed}")
    hard = random.Random(f"rows {seed}")  # how hard a client's rows are does not depend on the method
    ease = [hard.uniform(-0.05, 0.05) for _ in range(clients)]
    made = []
    for number in range(rounds):
        groups: Groups = {}
        for one in range(clients):
            gain = WORTH[method] * (number + 1) / rounds + 0.2 * (1 - 0.5 ** (number + 1))
            groups[f"client-{one:02}"] = _client(method, one, 0.55 + gain + ease[one] + draw.gauss(0, 0.004), draw)
            if number == rounds - 1:
                groups[f"client-{one:02}"] |= _dev(groups[f"client-{one:02}"], draw)
        metrics = _means(list(groups.values()))
        values = sorted(one["accuracy"] for one in groups.values())
        sent = 0 if method == "local" else 40_000 * clients * (100 if method == "fedavg" else 1)
        metrics |= {
            "accuracy_worst": values[0], "accuracy_p10": values[0] * 0.5 + values[1] * 0.5, "clients": clients,
            "upload_bytes": sent, "download_bytes": sent, "left_out": 0, "virtual_seconds": 30.0 * (number + 1),
            "clusters": len({one["cluster"] for one in groups.values()}),
        }  # fmt: skip
        for place, task in enumerate(TASKS):
            groups[f"task-{task}"] = _means([groups[f"client-{one:02}"] for one in range(clients) if one % 3 == place])
        if method == "atlas":
            groups |= {f"layer-{name}": {"rank": 2.0 + place} for place, name in enumerate(LAYERS)}
        if method in ("cluster", "atlas") and not number:
            metrics["structure_p"] = 0.005
        if change:
            change(number, metrics, groups)
        made.append(output(f"{method}/seed-{seed}", number, RoundMetrics(number, metrics, groups)))
    return made


def output(task: str, number: int, said: RoundMetrics | Failure) -> Output:
    """The record of a round, or of one that failed."""
    text, error = (None, said) if isinstance(said, Failure) else (said.to_text(), None)
    return Output(f"{task} {number}", task, f"{task}/{number:05}", {}, 0, text, error, None, finish="stop")


def atlas_outputs(
    methods: Sequence[str] = METHODS, seeds: Sequence[int] = (0, 1, 2), *, clients: int = 6, rounds: int = 4
) -> list[Output]:
    """The rounds of each method and seed, in the order of outputs.json."""
    every = [federation(name, seed, clients=clients, rounds=rounds) for name in methods for seed in seeds]
    return sorted((one for made in every for one in made), key=lambda one: (one.task, one.question))


def atlas_run(folder: Path, outputs: Sequence[Output], **about: Any) -> Path:
    """outputs.json of a run of `atlas` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "id": f"atlas-{folder.name}", "pipeline": "atlas", "model": "tiny",
        "settings": {"methods": list(dict.fromkeys(one.task.split("/")[0] for one in outputs)), "rank": [8]},
        "about": {"grader": "atlas", "metrics": TASKS, "same_as": {}, **about},
    }  # fmt: skip
    write_outputs(folder / "outputs.json", run, [{"name": "tiny"}], tasks_of(outputs), outputs)
    return folder / "outputs.json"


def tasks_of(outputs: Sequence[Output]) -> dict[str, Any]:
    """The tasks of the run: its series, and the data."""
    clients = sorted({name for one in outputs for name in re.findall(r'"(client-\d+)"', one.text or "")})
    tasks = {
        name: {"train": [], "dev": [], "labels": ["no", "yes"], "metric": metric, "source": "made up"}
        for name, metric in TASKS.items()
    }
    named = [(one.task, *one.task.split("/seed-")) for one in outputs if re.fullmatch(r".*/seed-\d+", one.task)]
    series = {task: {"method": method, "seed": int(seed)} for task, method, seed in named}
    truth = {name: list(TASKS)[place % 3] for place, name in enumerate(clients)}
    return {**series, "data": {"tasks": tasks, "clients": truth}}


def _client(method: str, one: int, accuracy: float, draw: random.Random) -> dict[str, float]:
    clustered = method in ("cluster", "atlas", "oracle-clusters")
    return {
        "accuracy": round(accuracy, 3), "loss": round(1.2 - accuracy + draw.uniform(0, 0.01), 6), "majority": 0.55,
        "train_loss": round(1.1 - accuracy, 6), "f1": round(accuracy - 0.02, 3), "mcc": round(2 * accuracy - 1.05, 3),
        "samples": 200 + one, "steps": 13, "rank": 8, "moved": round(draw.uniform(0.5, 1.5), 4), "installed": 1.0,
        "upload_bytes": 0 if method == "local" else 40_000, "download_bytes": 0 if method == "local" else 40_000,
        "cluster": one % 3 if clustered else draw.randrange(3) if method == "random-clusters" else 0,
        **({"nearest": 0.8} if clustered else {}),
    }  # fmt: skip


def _dev(found: Mapping[str, float], draw: random.Random) -> dict[str, float]:
    shift = draw.gauss(0, 0.003)
    own = {f"dev_{name}": round(found[name] + shift, 6) for name in ("accuracy", "loss", "f1", "mcc")}
    return {**own, "dev_majority": 0.55, "dev_majority_f1": 0.5}


def _means(clients: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [
        name
        for name in clients[0]
        if name.startswith("dev_") or name in ("accuracy", "loss", "train_loss", "f1", "mcc")
    ]
    return {name: sum(one[name] for one in clients) / len(clients) for name in names}
