"""Top-k on the wire: what is sent, what is remembered, and federations that learn from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from hybrid.errors import BadData, UsageError
from hybrid.loops import Lab
from hybrid.settings import build
from pipelines.atlas.aggregation import Factors
from pipelines.atlas.client_models import ClientModel, tensors_of
from pipelines.atlas.pipeline import Atlas
from pipelines.atlas.sparse_updates import largest, received, sparse
from tests.support.small_federation import SMALL, made, results


def model(seed: int, scale: float = 1.0) -> ClientModel:
    draw = np.random.default_rng(seed)
    a, b, head = (scale * draw.standard_normal(shape).astype(np.float32) for shape in ((3, 8), (6, 3), (2, 5)))
    return ClientModel({"q": Factors(a.astype(np.float64), b.astype(np.float64))}, {"weight": head.astype(np.float64)})


def values(of: ClientModel) -> dict[str, np.ndarray[Any, Any]]:
    return tensors_of(of, "all", np.float64)


def test_the_entries_that_changed_most_are_sent_and_the_rest_is_remembered() -> None:
    start, trained = model(0), model(1)
    message = sparse(trained, start, None, 0.25, "all", keeps=True)
    sent = safetensors.numpy.load(message.data)
    for name, value in values(trained).items():
        change = np.float32(value - values(start)[name]).ravel()
        at = sent[f"{name}.at"]
        assert len(at) == -(-change.size // 4)
        assert np.abs(change[at]).min() >= np.abs(np.delete(change, at)).max()
        assert np.array_equal(sent[name], change[at])
        whole = values(message.received)[name] + values(message.rest)[name]
        assert np.allclose(whole, value, rtol=0, atol=1e-6), "nothing is lost"


def test_all_that_a_client_changed_arrives_in_the_end() -> None:
    """Error feedback: a client that changes nothing more sends what is left, until the reader has all of it."""
    held, trained, rest = model(0), model(1), None
    steps = 0
    while rest is None or any(np.abs(value).max() > 1e-6 for value in values(rest).values()):  # what is rounding
        message = sparse(trained if rest is None else held, held, rest, 0.2, "all", keeps=True)
        held, rest, steps = message.received, message.rest, steps + 1
    assert steps == 5
    assert all(np.allclose(values(held)[name], value, atol=1e-6) for name, value in values(trained).items())


def test_of_factors_that_are_computed_anew_nothing_is_kept_but_of_the_head() -> None:
    rest = values(sparse(model(1), model(0), None, 0.2, "all", keeps=False).rest)
    assert list(rest) == ["head.weight"]
    assert rest["head.weight"].any()


def test_of_equal_entries_the_first_are_taken_and_one_at_least() -> None:
    assert largest(np.float32([1, -1, 1, 0]), 0.5).tolist() == [0, 1]
    assert largest(np.float32([0, 3]), 0.001).tolist() == [1]
    assert largest(np.zeros(10, np.float32), 0.3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("method", ["ffa", "flora", "atlas"])
def test_a_federation_of_sparse_updates_goes_on_to_the_bit_and_sends_less(lab: Lab, method: str) -> None:
    settings = "rounds=3", "wire=topk", "top=0.1", "participants=4"
    whole = results(lab, method, *settings)
    dense = results(lab, method, "rounds=3", "participants=4")
    assert whole[1].metrics["upload_bytes"] < 0.4 * dense[1].metrics["upload_bytes"]  # ranks of 4: names weigh much
    assert whole[1].metrics["download_bytes"] == dense[1].metrics["download_bytes"], "what the server sends is whole"
    assert whole[0].metrics["train_loss"] == dense[0].metrics["train_loss"]
    assert whole[2].metrics["train_loss"] != dense[2].metrics["train_loss"]
    federation = made(lab, method, *settings)
    for number in range(2):
        federation.round(number)
    state = federation.state()
    federation.close()
    again = made(lab, method, *settings)
    again.load(state)
    assert again.round(2).to_text() == whole[2].to_text()
    again.close()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("hetlora", ("rank=2,4", "hetlora_decay=0.75", "hetlora_penalty=100")),
        ("flexlora", ("rank=2,8", "participants=2")),
        ("ffa", ("rank=2,4", "participants=2")),
    ],
)
def test_ranks_that_differ_or_fall_are_no_obstacle(lab: Lab, method: str, settings: tuple[str, ...]) -> None:
    settings = *settings, "rounds=6", "wire=topk"
    whole = results(lab, method, *settings)
    federation = made(lab, method, *settings)
    for number in range(3):
        federation.round(number)
    again = made(lab, method, *settings)
    again.load(federation.state())
    federation.close()
    assert [again.round(number).to_text() for number in (3, 4, 5)] == [one.to_text() for one in whole[3:]]
    again.close()


@pytest.mark.parametrize("fault", ["member", "shape", "factors"])
def test_a_state_with_the_rest_of_another_model_is_refused(lab: Lab, fault: str) -> None:
    federation = made(lab, "flexlora", "wire=topk")
    federation.round(0)
    (rest, *_) = federation.unsent.values()
    if fault == "member":
        federation.unsent[5] = rest
    elif fault == "shape":
        federation.unsent[0] = ClientModel({}, {name: value[:1] for name, value in rest.head.items()})
    else:
        federation.unsent[0] = federation.models[0]
    state = federation.state()
    federation.close()
    again = made(lab, "flexlora", "wire=topk")
    with pytest.raises(BadData, match="has not sent is of another model"):
        again.load(state)
    again.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q.B": np.float32([np.nan])}, "not finite"),
        ({"q.B": np.float64([1])}, "fp32"),
        ({"q.B": np.float32([1, 2])}, "fp32"),
        ({"q.B.at": np.int64([1])}, "fp32"),
        ({"q.B.at": np.int32([-1])}, "outside"),
        ({"q.B.at": np.int32([18])}, "outside"),
        ({"q.B": np.float32([1, 2]), "q.B.at": np.int32([3, 3])}, "ascending"),
        ({"q.B": np.float32([]), "q.B.at": np.int32([])}, "outside"),
        ({"q.C": np.float32([1])}, "other tensors"),
    ],
)
def test_a_message_that_is_none_is_refused(changes: dict[str, np.ndarray[Any, Any]], words: str) -> None:
    sent = safetensors.numpy.load(sparse(model(1), model(0), None, 0.01, "all", keeps=True).data)
    with pytest.raises(BadData, match=words):
        received(safetensors.numpy.save({**sent, **changes}), model(0), "all")
    with pytest.raises(BadData, match="sparse update"):
        received(b"", model(0), "all")


def test_when_every_entry_is_sent_a_federation_is_the_dense_one(lab: Lab) -> None:
    whole, dense = results(lab, "fedavg-lora", "wire=topk", "top=1"), results(lab, "fedavg-lora")
    for one, other in zip(whole, dense, strict=True):
        assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], abs=1e-4)


@pytest.mark.parametrize("setting", ["exchange=folder", "split_after=1"])
def test_what_has_no_memory_for_the_rest_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="wire=topk"):
        build(Atlas, [*SMALL, "methods=flexlora", "wire=topk", setting])
