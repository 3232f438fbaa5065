"""Flower's simulation with PEFT clients, in an environment of its own: its simulation pins another Ray than the tests.

`installed()` makes the environment, which sees torch, transformers and PEFT of the running one. `main` is what runs
there: a client is a `ClientApp` as in Flower's examples, and the server its `FedAvg`. A client's model is built anew
for every message, as in these examples, or with `keep` once for each process of Ray.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import venv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VERSION = "1.42.0"
TICKS = os.sysconf("SC_CLK_TCK")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}


@contextmanager
def installed() -> Iterator[Path]:
    """The Python of a new environment with Flower, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True, symlinks=True)
        python = Path(folder, "bin/python")
        command = [python, "-m", "pip", "install", "-q", f"flwr[simulation]=={VERSION}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        yield python


def measured(python: Path, model: str, rounds: int, *, keep: bool) -> dict[str, Any]:
    """The figures of the simulation, in a process of its own."""
    folders = [str(Path(__file__).parents[1]), sysconfig.get_paths()["purelib"]]
    source = (
        f"import sys; sys.path += {folders}; from peers.federated_flower import main; main({model!r}, {rounds}, {keep})"
    )
    paths = os.pathsep.join(folders[:1])
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, **QUIET, "HOME": home, "PYTHONPATH": paths}
        site = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            stdout=subprocess.PIPE, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        Path(site, "running.pth").write_text(folders[1])  # behind the environment's own packages
        done = subprocess.run(
            [python, "-c", source], env=environment, cwd=home, stdout=subprocess.PIPE, text=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(name: str, rounds: int, keep: bool) -> None:  # noqa: FBT001
    """Print the figures of the simulation as one JSON object."""
    import torch
    from flwr.app import ArrayRecord, ConfigRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation
    from peft import get_peft_model_state_dict

    from peers.federated import CLIENTS
    from peers.federated_peft import peft_model

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
        spent = [end - begun for begun, end in zip(seconds[1:], seconds[2:], strict=False)]  # not the first round
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
    from flwr.app import MetricRecord

    found = sorted((one["metrics"]["client"], list(one["metrics"]["values"])) for one in records)
    return MetricRecord({"values": [value for _, values in found for value in values]})


def client_app() -> Any:
    """The `ClientApp`: it trains or tests the adapter that it is sent, on the client's own texts."""
    from flwr.clientapp import ClientApp

    app = ClientApp()
    app.train()(train)
    app.evaluate()(evaluate)
    return app


def train(message: Any, context: Any) -> Any:
    """Train an epoch; the reply has the adapter, and the losses of the first and the last step."""
    from flwr.app import ArrayRecord
    from peft import get_peft_model_state_dict

    from peers.federated import TRAIN, texts
    from peers.federated_peft import trained_by_peft

    model, client = _model(message), int(context.node_config["partition-id"])
    losses = trained_by_peft(model, texts(client, TRAIN, "train"))
    return _reply(message, client, TRAIN, losses, {"arrays": ArrayRecord(get_peft_model_state_dict(model))})


def evaluate(message: Any, context: Any) -> Any:
    """Test on the held-out texts."""
    from peers.federated import HELD_OUT, texts
    from peers.federated_peft import accuracy_by_peft

    client = int(context.node_config["partition-id"])
    right = accuracy_by_peft(_model(message), texts(client, HELD_OUT, "held out"))
    return _reply(message, client, HELD_OUT, [right], {})


def _reply(message: Any, client: int, count: int, values: list[float], more: dict[str, Any]) -> Any:
    from flwr.app import Message, MetricRecord, RecordDict

    metrics = MetricRecord({"num-examples": count, "client": client, "values": values})
    return Message(content=RecordDict({**more, "metrics": metrics}), reply_to=message)


def _model(message: Any) -> Any:
    """The client's model with the adapter that was sent."""
    import torch
    from peft import set_peft_model_state_dict

    from peers.federated_peft import peft_model

    torch.set_num_threads(1)
    how = message.content["config"]
    build: Callable[[str], Any] = _kept if how["keep"] else peft_model
    model = build(str(how["model"]))
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    return model


@functools.cache
def _kept(name: str) -> Any:
    from peers.federated_peft import peft_model

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


