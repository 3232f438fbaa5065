"""Processor seconds and memory of a round of federated LoRA with 12 clients, compared with a plain PEFT loop.

    python benchmarks/fed_round.py [--model minilm|distilbert|tiny] [--rounds 2] [--flower PYTHON | --without-flower]

A round: each client takes the global adapter and head, trains them for an epoch on its own texts, the server averages
all, and each client is evaluated on its own held-out texts. The model has the shape of all-MiniLM-L6-v2 (or of
DistilBERT, or of the built-in `tiny`) with random weights, which compute at the speed of real ones. Texts have the
lengths of SST-2's.

The peer is what one writes with PEFT: a model for each client, held in memory, batches padded to their longest text,
torch's AdamW, `get_peft_model_state_dict` and `set_peft_model_state_dict`. Both begin with the same values, use equal
batches, and must reach the same losses. Each side is a process of its own with one thread. The smallest processor time
of all rounds after a first counts. `memory` is the peak above what the process takes with its libraries loaded, over
the peer's; `memory_process` that of the whole processes.

The other peer is Flower's simulation with the same PEFT clients, in an environment that is made for it (530 MB), or
that of `--flower`: `ratio_flower` where a client's model is built for every message, as in Flower's examples, and
`ratio_flower_kept` where a process of Ray keeps it. Its figures are those of all its processes together.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from peers import flower
from peers.federated import (
    ALPHA,
    BATCH,
    CLIENTS,
    CLIP,
    HELD_OUT,
    RANK,
    RATE,
    SHAPES,
    TRAIN,
    model_of,
    texts,
)

from hybrid.loops import EncodedText, LabelledText
from hybrid.training.classifier_bank import ClassifierBank
from hybrid.training.classifier_model import ClassifierModel
from hybrid.tuning import Tuning

GOALS = {"ratio": 3.0, "memory": 0.5, "ratio_flower": 6.0, "memory_flower": 0.3}
MOST = "memory", "memory_flower"  # the goals that are upper bounds


class Side(Protocol):
    """One way of doing rounds."""

    def round(self) -> tuple[list[float], float]:
        """The losses of every client's first and last step, and the mean accuracy on held-out texts."""
        ...


class ByUs:
    """All clients in the slots of one bank."""

    def __init__(self, name: str) -> None:
        model = model_of(name)
        self.bank = bank = ClassifierBank(ClassifierModel(model.base_model), CLIENTS, RANK, SHAPES[name][2], 2)
        layers = {}
        for layer, (a, b) in bank.new_adapter(RANK, ALPHA, 0).layers.items():
            draw = torch.Generator().manual_seed(1)
            layers[layer] = torch.randn(a.shape, generator=draw) / a.shape[1] ** 0.5, b
        names = bank.new_head(2, 0)
        self._global = bank.adapter(layers, RANK, ALPHA), {key: model.get_parameter(key).detach() for key in names}
        self._tuning = Tuning({}, RATE, 1, weight_decay=0.01, clip=CLIP)
        self._train, self._held_out = (
            [[(EncodedText(text.ids), text.label) for text in texts(client, count, kind)] for client in range(CLIENTS)]
            for count, kind in ((TRAIN, "train"), (HELD_OUT, "held out"))
        )

    def round(self) -> tuple[list[float], float]:
        """`Side`."""
        clients = range(CLIENTS)
        self._install()
        losses = []
        for start in range(0, TRAIN, BATCH):
            step = [
                LabelledText(client, *one, 1 / BATCH)
                for client in clients
                for one in self._train[client][start : start + BATCH]
            ]
            losses.append(self.bank.backward(step).tolist())
            self.bank.step(clients, RATE)
        self._aggregate()
        self._install()
        held_out = [(client, *one) for client in clients for one in self._held_out[client]]
        found = self.bank.logits([(client, text) for client, text, _ in held_out]).argmax(dim=1).tolist()
        right = sum(one == label for one, (_, _, label) in zip(found, held_out, strict=True)) / len(held_out)
        return [loss for pair in zip(losses[0], losses[-1], strict=True) for loss in pair], right

    def _install(self) -> None:
        for client in range(CLIENTS):
            self.bank.put(client, *self._global, self._tuning)

    def _aggregate(self) -> None:
        adapters = [self.bank.weights(client) for client in range(CLIENTS)]
        heads = [self.bank.head(client) for client in range(CLIENTS)]
        layers = {
            layer: tuple(sum(one.layers[layer][part] for one in adapters) / CLIENTS for part in range(2))
            for layer in adapters[0].layers
        }
        head = {name: sum(one[name] for one in heads) / CLIENTS for name in heads[0]}
        self._global = self.bank.adapter(layers, RANK, ALPHA), head


LOADED = "hybrid.backends.classifier:ClassifierBackend"
"""What a worker loads for a federation; it takes transformers with fewer libraries than a script that imports it."""
SIDES = {"peft": "peers.federated_peft:ByPeft", "ours": "fed_round:ByUs"}


def measure(side: str, model: str, rounds: int) -> dict[str, Any]:
    """The figures of one side, in this process."""
    module, _, name = SIDES[side].partition(":")
    make = getattr(importlib.import_module(module), name)
    torch.set_num_threads(1)
    model_of("minilm")  # transformers loads the code of a model when it is asked for
    before = peak_mib()
    one: Side = make(model)
    seconds, losses, accuracies = [], [], []
    for _ in range(rounds + 1):
        began = time.process_time()
        of_round, right = one.round()
        seconds.append(time.process_time() - began)
        losses.append(of_round)
        accuracies.append(right)
    peak = peak_mib()
    figures = {"cpu_s": min(seconds[1:]), "mib": peak, "mib_above": peak - before}
    return {**figures, "losses": losses, "accuracy": accuracies}


def peak_mib() -> float:
    """The peak of this process's resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(side: str, how: argparse.Namespace) -> dict[str, Any]:
    """The figures of one side, in a process of its own."""
    load = (
        f"from hybrid.machine.late_imports import import_object as load; load({LOADED!r}, needed_for='a benchmark'); "
    )
    source = f"{load if side == 'ours' else ''}import fed_round; fed_round.main()"
    command = [sys.executable, "-c", source, "--side", side, "--model", how.model, "--rounds", str(how.rounds)]
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{side:5} {found['cpu_s']:.2f} s of processor time a round, peak {found['mib']:,.0f} MiB", flush=True)
    return found


def with_flower(how: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of Flower's simulation, with models that are built anew and kept."""
    with nullcontext(how.flower) if how.flower else flower.installed() as python:
        found = {
            name: flower.measured(python, how.model, how.rounds, keep=keep)
            for name, keep in (("flower", False), ("flower_kept", True))
        }
    for name, one in found.items():
        print(f"{name:12} {one['cpu_s']:.2f} s of processor time a round, peak {one['mib']:,.0f} MiB", flush=True)
    return found


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two sides' losses."""
    pairs = [pair for rounds in zip(one["losses"], other["losses"], strict=True) for pair in zip(*rounds, strict=True)]
    return max(abs(float(mine) - float(theirs)) for mine, theirs in pairs)


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", choices=tuple(SHAPES), default="minilm")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=tuple(SIDES), help="this side alone, in this process")
    parser.add_argument("--flower", type=Path, help="the Python of an environment with Flower; else one is made")
    parser.add_argument("--without-flower", action="store_true")
    how = parser.parse_args()
    if how.side:
        print(json.dumps(measure(how.side, how.model, how.rounds)))
        return
    peer, ours = in_process("peft", how), in_process("ours", how)
    flowers = {} if how.without_flower else with_flower(how)
    differ = max(difference(one, ours) for one in (peer, *flowers.values()))
    assert differ < 1e-3, f"the losses differ by {differ}"
    figures = {
        "ratio": peer["cpu_s"] / ours["cpu_s"],
        "memory": ours["mib_above"] / peer["mib_above"],
        "memory_process": ours["mib"] / peer["mib"],
        **{f"ratio_{name}": one["cpu_s"] / ours["cpu_s"] for name, one in flowers.items()},
        **{f"memory_{name}": ours["mib"] / one["mib"] for name, one in flowers.items()},
    }
    result = {
        "name": "fed-round",
        "peer": f"a plain PEFT loop over {CLIENTS} clients, and the simulation of Flower {flower.VERSION}",
        **{name: round(value, 2) for name, value in figures.items()},
        "goal": GOALS,
        "met": all(
            figures[name] <= goal if name in MOST else figures[name] >= goal
            for name, goal in GOALS.items()
            if name in figures
        ),
        "losses_differ": differ,
        "model": how.model,
        **{
            side: {key: round(found[key], 2) for key in ("cpu_s", "mib", "mib_above") if key in found}
            for side, found in (("peft", peer), *flowers.items(), ("ours", ours))
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
