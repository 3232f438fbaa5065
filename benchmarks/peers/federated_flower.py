"""Federated clients in Flower's simulation with PEFT, as in its examples: `flower.measured` runs `main`.

A client is a `ClientApp`, and the server its `FedAvg`. A client's model is built anew for every message, as in these
examples, or with `keep` once for each process of Ray.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from peers.federated import CLIENTS, HELD_OUT, TRAIN, texts
from peers.federated_peft import accuracy_by_peft, peft_model, trained_by_peft

TICKS = os.sysconf("SC_CLK_TCK")


def main(name: str, rounds: int, *, keep: bool) -> None:
    """Print the figures of the simulation as one JSON object."""
    torch.set_num_threads(1)
    seconds: list[float] = []
    sampler = Sampler()
    server = ServerApp()

    def round_ended(_: int, __: Any) -> None:
        seconds.append(processor_seconds())

    @server.main()  # type: ignore[untyped-decorator]
    def serve(grid: Any, context: Any) -> None:  # noqa: ARG001
        strategy = FedAvg(
            min_train_nodes=CLIENTS, min_evaluate_nodes=CLIENTS, min_available_nodes=CLIENTS,
            train_metrics_aggr_fn=together, evaluate_metrics_aggr_fn=together,
        )  # fmt: skip
        start = ArrayRecord(get_peft_model_state_dict(peft_model(name)))
        how = ConfigRecord({"model": name, "keep": keep})
        found = strategy.start(
            grid, start, num_rounds=rounds + 1, train_config=how, evaluate_config=how, evaluate_fn=round_ended
        )
        losses = [list(found.train_metrics_clientapp[one]["values"]) for one in range(1, rounds + 2)]
        right = [list(found.evaluate_metrics_clientapp[one]["values"]) for one in range(1, rounds + 2)]
        spent = [end - begun for begun, end in pairwise(seconds[1:])]  # not the first round
        answer = {
            "cpu_s": min(spent), "mib": sampler.peak, "losses": losses,
            "accuracy": [sum(one) / len(one) for one in right],
        }  # fmt: skip
        sampler.ended.set()
        print(json.dumps(answer), flush=True)

    sampler.start()
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2, "address": "local"}}
    run_simulation(server, client_app(), CLIENTS, backend_config=resources)


def together(records: Iterable[Any], _: str) -> Any:
    """The values of all clients, in the order of the clients."""
    found = sorted((one["metrics"]["client"], list(one["metrics"]["values"])) for one in records)
    return MetricRecord({"values": [value for _, values in found for value in values]})


def client_app() -> Any:
    """The `ClientApp`: it trains or tests the adapter that it is sent, on the client's own texts."""
    app = ClientApp()
    app.train()(train)
    app.evaluate()(evaluate)
    return app


def train(message: Any, context: Any) -> Any:
    """Train an epoch; the reply has the adapter, and the losses of the first and the last step."""
    model, client = _model(message), int(context.node_config["partition-id"])
    losses = trained_by_peft(model, texts(client, TRAIN, "train"))
    return _reply(message, client, TRAIN, losses, {"arrays": ArrayRecord(get_peft_model_state_dict(model))})


def evaluate(message: Any, context: Any) -> Any:
    """Test on the held-out texts."""
    client = int(context.node_config["partition-id"])
    right = accuracy_by_peft(_model(message), texts(client, HELD_OUT, "held out"))
    return _reply(message, client, HELD_OUT, [right], {})


def _reply(message: Any, client: int, count: int, values: list[float], more: dict[str, Any]) -> Any:
    metrics = MetricRecord({"num-examples": count, "client": client, "values": values})
    return Message(content=RecordDict({**more, "metrics": metrics}), reply_to=message)


def _model(message: Any) -> Any:
    """The client's model with the adapter that was sent."""
    torch.set_num_threads(1)
    how = message.content["config"]
    build: Callable[[str], Any] = _kept if how["keep"] else peft_model
    model = build(str(how["model"]))
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    return model


@functools.cache
def _kept(name: str) -> Any:
    return peft_model(name)


class Sampler(threading.Thread):
    """The peak of the memory of this process and those that it started, in MiB; pages that several share count once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.ended = 0.0, threading.Event()

    def run(self) -> None:
        """Read twice a second."""
        while not self.ended.wait(0.5):
            self.peak = max(self.peak, sum(map(_proportional_mib, _processes())))


def processor_seconds() -> float:
    """Of this process and those that it started, also those that have ended."""
    return sum(sum(map(int, fields[11:15])) for fields in _processes().values()) / TICKS


def _processes() -> dict[int, list[str]]:
    """This process and its descendants: id -> the fields of its `stat` from the state on."""
    found: dict[int, list[str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
    own, size = {os.getpid()}, 0
    while size < len(own):
        size = len(own)
        own |= {one for one, fields in found.items() if int(fields[1]) in own}
    return {one: found[one] for one in own if one in found}


def _proportional_mib(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
