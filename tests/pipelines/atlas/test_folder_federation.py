"""A federation whose clients and server meet in the folder: as if they trained side by side, and what may go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from hybrid import round_costs
from hybrid.errors import NotFinished, UsageError
from hybrid.execution.exchange import TensorExchange
from hybrid.execution.local import Engine, LocalResult, run_here
from hybrid.folder.medium import Disk
from hybrid.folder.tensors import RunTensors
from hybrid.loops import Lab, NotYet, RoundFailed
from hybrid.metrics import RoundMetrics
from hybrid.progress import SilentProgress
from hybrid.settings import build
from pipelines.atlas.client_models import note_of
from pipelines.atlas.folder_federation import FolderClient, FolderServer, up
from pipelines.atlas.loop import loop
from pipelines.atlas.pipeline import DATA, Atlas

SMALL = (
    "tasks=polarity,paraphrase", "clients=4", "samples=20", "dev=16", "rounds=3", "batch=8", "rank=4",
    "learning_rate=0.01", "fingerprint_rows=8",
)  # fmt: skip
ONLY_HERE = "late", "upload_bytes", "download_bytes"


def parts(lab: Lab, root: Path, *settings: str) -> tuple[FolderServer, list[FolderClient], TensorExchange]:
    """The server and the clients of a federation, connected."""
    pipeline = build(Atlas, [*SMALL, "methods=flexlora", "exchange=folder", *settings])
    inputs = pipeline.inputs()
    exchange = TensorExchange(RunTensors("run", "20260101t000000z-aaaaaaaa", Disk(root)), "rounds/1", "0" * 64)
    made: list[Any] = [loop(pipeline, one, lab, inputs.tasks[DATA]) for one in pipeline._series(inputs.tasks)]
    for one in made:
        one.connect(exchange)
    return made[0], made[1:], exchange


def compared(one: RoundMetrics) -> Any:
    """The numbers of a record, but for bytes: messages have more. Sums of floats depend on who trains beside."""
    parts = {"": one.metrics, **one.groups}
    values = {(part, name): value for part, found in parts.items() for name, value in found.items()}
    return pytest.approx({key: value for key, value in values.items() if key[1] not in ONLY_HERE}, rel=1e-3, abs=1e-4)


def texts(folder: Path) -> dict[str, str]:
    """Question -> the record of a round."""
    (path,) = folder.glob("results/*/outputs.json")
    return {one["question"]: one["text"] for one in json.loads(path.read_text())["records"]}


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("flexlora", ()),
        ("flora", ()),
        ("ffa", ()),
        ("atlas", ()),
        ("hetlora", ("hetlora_decay=0.75", "hetlora_penalty=100")),  # ranks fall from round to round
    ],
)
def test_in_the_folder_the_same_comes_as_side_by_side(
    lab: Lab, tmp_path: Path, method: str, more: tuple[str, ...]
) -> None:
    server, clients, _ = parts(lab, tmp_path, f"methods={method}", "rank=2,4", *more)
    pipeline = build(Atlas, [*SMALL, f"methods={method}", "rank=2,4", *more])
    inputs = pipeline.inputs()
    alone = loop(pipeline, next(pipeline._series(inputs.tasks)), lab, inputs.tasks[DATA])
    for number in range(3):
        with pytest.raises(NotYet, match=f"4 of 4 clients have not sent their update of round {number}"):
            server.round(number)
        for one in clients:
            one.round(number)
        found, expected = server.round(number), alone.round(number)
        assert compared(found).expected == compared(expected)
    for one in (server, alone, *clients):
        one.close()


def test_the_peak_of_a_round_of_the_server_is_that_of_all_it_does(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    shared = FolderServer._share
    monkeypatch.setattr(round_costs, "forget_peak", lambda device: done.append("forget"))
    monkeypatch.setattr(FolderServer, "_share", lambda of, number: done.append("share") or shared(of, number))
    server, clients, _ = parts(lab, tmp_path, "clients=2")
    with pytest.raises(NotYet):
        server.round(0)
    assert done == ["forget", "share"]
    for one in clients:
        one.round(0)
    done.clear()
    assert server.round(0).costs[""].keys() == {"round_seconds", "peak_bytes"}
    assert done == ["forget"]
    for one in (server, *clients):
        one.close()


@pytest.mark.parametrize("method", ["flexlora", "ffa"])
def test_a_server_that_lost_its_last_rounds_does_them_again_without_the_clients(
    lab: Lab, tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    how = f"methods={method}", "rank=2,4", "clients=2"
    server, clients, _ = parts(lab, tmp_path, *how)
    whole, states = [], []
    for number in range(3):
        with pytest.raises(NotYet):
            server.round(number)
        for one in clients:
            one.round(number)
        whole.append(server.round(number).to_text())
        states.append(server.state())
    again, _, _ = parts(lab, tmp_path, *how)
    again.load(states[0])
    with caplog.at_level("INFO"):
        assert [again.round(number).to_text() for number in (1, 2)] == whole[1:]
    assert "client 1 is ahead of round 1: its update is computed here" in caplog.text
    for one in (server, again, *clients):
        one.close()


def test_who_is_late_is_not_waited_for_and_takes_part_again(lab: Lab, tmp_path: Path) -> None:
    server, clients, _ = parts(lab, tmp_path, "quorum=0.5", "deadline=1e-6")
    with pytest.raises(NotYet):
        server.round(0)
    clients[0].round(0)
    with pytest.raises(NotYet):
        server.round(0)  # one of four is no quorum
    clients[1].round(0)
    assert {name: server.round(0).metrics[name] for name in ("clients", "late", "left_out")} == {
        "clients": 2, "late": 2, "left_out": 0,
    }  # fmt: skip
    with pytest.raises(NotYet):
        server.round(1)
    assert clients[2].round(0).metrics == {"skipped": 1.0}
    for one in clients:
        one.round(1)
    assert server.round(1).metrics["clients"] == 4


@pytest.mark.parametrize("method", ["flexlora", "hetlora"])
def test_a_round_of_a_client_with_a_low_rank_takes_no_rank_from_the_others(
    lab: Lab, tmp_path: Path, method: str
) -> None:
    server, clients, _ = parts(lab, tmp_path, f"methods={method}", "rank=2,4", "participants=1", "rounds=6")
    for number in range(6):
        with pytest.raises(NotYet):
            server.round(number)
        for one in clients:
            one.round(number)
        found = server.round(number)
        assert (found.metrics["clients"], found.metrics["left_out"]) == (1, 0)
    for one in (server, *clients):
        one.close()


def test_a_round_without_an_update_of_the_right_shape_did_not_diverge(lab: Lab, tmp_path: Path) -> None:
    server, clients, _ = parts(lab, tmp_path, "clients=2", "rounds=1")
    with pytest.raises(NotYet):
        server.round(0)
    server.arrived = {0: b"", 1: b""}
    with pytest.raises(RoundFailed, match="no update of a client can be used; that of client 0") as caught:
        server.round(0)
    assert caught.value.failure.kind == "no-update"
    for one in (server, *clients):
        one.close()


def lies(tensors: dict[str, Any]) -> dict[str, bytes]:
    """Messages that are none."""
    save, note = safetensors.numpy.save, '{"steps": 2, "train_loss": 0.5, "moved": 1}'
    name = next(one for one in tensors if one.endswith(".B"))
    return {
        "nothing": b"",
        "no tensors": b"\xff" * 100,
        "another shape": save({**tensors, name: tensors[name][:-1]}, {"note": note}),
        "not finite": save({**tensors, name: np.full_like(tensors[name], np.inf)}, {"note": note}),
        "no note": save(tensors),
        "a note of texts": save(tensors, {"note": '{"steps": "two"}'}),
        "a number too large": save(tensors, {"note": '{"steps": 1e300}'}),
        "weights too wide": save({**tensors, name: np.full_like(tensors[name], 1e300, np.float64)}, {"note": note}),
        "another A": save({**tensors, f"{name[:-2]}.A": np.ones((4, 64), np.float32)}, {"note": note}),
        **{
            text: save({one: np.full_like(value, float(text)) for one, value in tensors.items()}, {"note": note})
            for text in ("3e38", "1e12", "1e6")
        },
    }


@pytest.mark.parametrize(
    ("lie", "method"),
    [
        ("nothing", "flexlora"),
        ("no tensors", "flexlora"),
        ("another shape", "flexlora"),
        ("not finite", "flexlora"),
        ("no note", "flexlora"),
        ("a note of texts", "flexlora"),
        ("a number too large", "flexlora"),
        ("weights too wide", "flexlora"),  # the product of two is infinite, and no SVD takes that
        ("another A", "ffa"),
        ("3e38", "flexlora"),  # finite, but no longer after the next product
        ("1e12", "hetlora"),
        ("1e12", "ffa"),
        ("1e6", "flora"),
    ],
)
def test_a_client_that_lies_is_left_out_and_named_and_the_federation_goes_on(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture, lie: str, method: str
) -> None:
    server, clients, exchange = parts(lab, tmp_path, "rounds=2", f"methods={method}")
    with pytest.raises(NotYet):
        server.round(0)
    for one in clients:
        one.round(0)
    found = exchange.newest(up(server.name, 3))
    assert found is not None
    data = lies(safetensors.numpy.load(found[1]))[lie]
    for path in (tmp_path / "runs").rglob("*.bin"):
        if path.parts[-4] == exchange._key(up(server.name, 3)):
            path.unlink()
    exchange.share(up(server.name, 3), 0, data)
    metrics = server.round(0).metrics
    assert (metrics["clients"], metrics["left_out"]) == (3, 1)
    assert "client 3 is left out" in caplog.text
    with pytest.raises(NotYet):
        server.round(1)
    for one in clients:
        one.round(1)
    metrics = server.round(1).metrics
    assert (metrics["clients"], metrics["left_out"]) == (4, 0)
    for one in (server, *clients):
        one.close()


def test_a_client_that_is_given_weights_too_large_to_learn_says_what_is_a_number(lab: Lab, tmp_path: Path) -> None:
    server, clients, _ = parts(lab, tmp_path, "clients=2")
    with pytest.raises(NotYet):
        server.round(0)
    given = server._message(0)
    spoiled = {name: np.full_like(value, 1e12) for name, value in safetensors.numpy.load(given).items()}
    metrics, data = clients[0].answer(0, safetensors.numpy.save(spoiled, {"note": json.dumps(note_of(given))}))
    assert (metrics["installed"], "train_loss" in metrics, note_of(data)) == (1.0, False, metrics)
    for one in (server, *clients):
        one.close()


def test_killed_in_every_round_the_run_ends_in_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pipeline = build(Atlas, [*SMALL, "methods=flexlora", "exchange=folder", "clients=2", "rounds=2"])

    def run(folder: Path) -> LocalResult:
        return run_here(
            folder, "atlas", pipeline, {"": Engine("classifier", "tiny", {"device": "cpu"})}, SilentProgress()
        )

    whole = run(tmp_path / "whole")
    died = set[tuple[int, int]]()
    answer = FolderClient.round

    def dies(self: FolderClient, number: int) -> RoundMetrics:
        found = answer(self, number)
        if (self.number, number) not in died:
            died.add((self.number, number))
            raise KeyboardInterrupt  # after its update was shared, before it is a record
        return found

    monkeypatch.setattr(FolderClient, "round", dies)
    for _ in range(4):
        with pytest.raises(NotFinished):
            run(tmp_path / "killed")
    run(tmp_path / "killed")
    assert texts(tmp_path / "killed") == texts(tmp_path / "whole")
    assert whole.failed == 0


def test_clients_in_the_folder_are_asked_for_by_the_exchange() -> None:
    with pytest.raises(UsageError, match="'folder' is said by another setting") as caught:
        build(Atlas, ["clients=folder"])
    assert caught.value.hint == "--set exchange=folder"
