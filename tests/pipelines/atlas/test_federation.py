"""Federations on a real small model: limits in which methods agree, resuming, traffic, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid import testing
from hybrid.errors import BadData, CannotRun, UsageError
from hybrid.loops import Lab
from hybrid.metrics import RoundMetrics
from hybrid.settings import build
from pipelines.atlas.client_models import ClientModel, packed, unpacked
from pipelines.atlas.methods import ALL, METHODS, same_as
from pipelines.atlas.pipeline import Atlas
from pipelines.atlas.trained_slots import Slots
from tests.support.small_federation import SMALL, made, results


def figures(records: list[RoundMetrics]) -> list[Mapping[str, float]]:
    """What the models of a federation are worth, without bytes and what only some methods tell."""
    names = "accuracy", "loss", "train_loss", "dev_loss", "dev_accuracy"
    return [{name: one.metrics[name] for name in names if name in one.metrics} for one in records]


def test_the_pipeline_is_sound() -> None:
    testing.check_pipeline(build(Atlas, SMALL))


@pytest.mark.parametrize(
    ("one", "other", "settings"),
    [
        ("hetlora", "fedavg-lora", ()),  # equal ranks
        ("mira", "local", ("smoothing=0",)),
        ("atlas", "local", ("smoothing=0",)),
        ("oracle-clusters", "flexlora", ("tasks=polarity",)),
        ("random-clusters", "flexlora", ("tasks=polarity",)),
        ("flexlora", "local", ("clients=1", "tasks=polarity")),
        ("fedavg-lora", "local", ("clients=1", "tasks=polarity")),
        ("centralised", "local", ("clients=1", "tasks=polarity")),
    ],
)
def test_methods_that_are_the_same_in_a_limit_give_the_same(
    lab: Lab, one: str, other: str, settings: tuple[str, ...]
) -> None:
    assert figures(results(lab, one, *settings)) == figures(results(lab, other, *settings))


def test_the_guards_know_which_methods_are_the_same_at_the_settings() -> None:
    assert same_as("atlas", [4, 4], 2, 0.0) == same_as("mira", [4, 4], 2, 0.0) == "local"
    assert same_as("atlas", [4, 4], 2, 0.0, changed=["atlas"]) == same_as("atlas", [4, 4], 2, 0.5) == ""
    assert same_as("hetlora", [4, 4], 2, 0.5) == "fedavg-lora"
    assert same_as("hetlora", [4, 4], 2, 0.5, changed=["hetlora"]) == ""
    assert same_as("hetlora", [4], 1, 0.5, changed=["hetlora"]) == "local"
    assert same_as("hetlora", [4, 8], 2, 0.5) == same_as("ffa", [4], 1, 0.5) == same_as("local", [4], 1, 0.5) == ""
    assert {same_as(name, [4], 1, 0.5) for name in ("fedavg-lora", "flexlora", "atlas", "centralised")} == {"local"}


def test_the_updates_of_hetlora_count_by_their_norms_when_asked(lab: Lab) -> None:
    skewed = "partition=quantity", "rounds=1"
    by_rows, by_norms = (results(lab, "hetlora", *skewed, f"hetlora_weights={by}") for by in ("rows", "norms"))
    assert figures(by_rows)[-1]["train_loss"] == figures(by_norms)[-1]["train_loss"], "clients train as before"
    assert figures(by_rows)[-1]["loss"] != figures(by_norms)[-1]["loss"]


def test_methods_that_differ_give_other_figures(lab: Lab) -> None:
    names = [name for name in ALL if name != "random-clusters"]
    found = {name: str(figures(results(lab, name, "rank=2,4"))) for name in names}
    assert len(set(found.values())) >= len(found) - 1, "only cluster may be oracle-clusters or flexlora"


@pytest.mark.parametrize("method", ["fedavg", "fedavg-lora", "flora", "ffa", "atlas", "centralised"])
def test_a_federation_that_is_killed_after_any_round_goes_on_to_the_bit(lab: Lab, method: str) -> None:
    settings = "rounds=3", "participants=3", "rank=2,4"
    whole = results(lab, method, *settings)
    state: bytes | None = None
    for number, expected in enumerate(whole):
        federation = made(lab, method, *settings)
        if state is not None:
            federation.load(state)
        assert federation.round(number).to_text() == expected.to_text()
        state = federation.state()
        federation.close()


@pytest.mark.parametrize("method", ["fedavg", "atlas"])
def test_a_state_of_something_else_is_refused(lab: Lab, method: str) -> None:
    federation = made(lab, method)
    federation.round(0)
    state = federation.state()
    other = made(lab, method, "clients=4") if method == "atlas" else made(lab, "fedavg", "tasks=agreement")
    for bad in (b"", b"{}", state[:-8], state[8:]):
        with pytest.raises(BadData, match="seed-0"):
            federation.load(bad)
    with pytest.raises(BadData, match="does not fit"):
        other.load(state)
    federation.close()


def changed(state: bytes, change: Callable[[dict[str, ClientModel], dict[str, Any]], object]) -> bytes:
    """A state whose first member has another model, or that says something else of its members."""
    named, about = unpacked(state, "a state")
    models, told = dict(named), dict(about)
    change(models, told)
    return packed(models, told)


def with_first(
    make: Callable[[ClientModel], ClientModel],
) -> Callable[[dict[str, ClientModel], dict[str, Any]], object]:
    """Another model under the name of the first member's."""
    return lambda models, about: models.update({about["models"][0]: make(models[about["models"][0]])})


def cut(model: ClientModel) -> ClientModel:
    return ClientModel({name: one.first(1) for name, one in model.update.items()}, model.head)


def beheaded(model: ClientModel) -> ClientModel:
    return ClientModel(model.update, {name: one[:1] for name, one in model.head.items()})


def deeper(model: ClientModel) -> ClientModel:
    return ClientModel({name: one.padded(40) for name, one in model.update.items()}, model.head)


@pytest.mark.parametrize(
    ("method", "change", "why"),
    [
        ("flexlora", lambda _, about: [one.update(dict.fromkeys(one, 10**7)) for one in about["ranks"]], "1 and 4"),
        ("flora", lambda _, about: [one.update(dict.fromkeys(one, 10**7)) for one in about["ranks"]], "1 and 4"),
        ("flexlora", lambda _, about: about["ranks"][0].update(dict.fromkeys(about["ranks"][0], 1e999)), "1 and 4"),
        ("atlas", lambda _, about: about["ranks"][0].update(dict.fromkeys(about["ranks"][0], 8)), "1 and 4"),
        ("hetlora", lambda _, about: about["ranks"][0].update(dict.fromkeys(about["ranks"][0], 3)), "have its ranks"),
        ("flora", lambda _, about: about["ranks"].__setitem__(0, {"q": 4}), "of other layers"),
        ("flexlora", lambda _, about: about["fetched"].pop(), "it is of"),
        ("flexlora", lambda _, about: about["grouping"].update(labels=[1e999, 0]), "infinity"),
        ("flexlora", with_first(cut), "does not have its ranks"),
        ("flora", with_first(deeper), "more ranks than the server keeps"),
        ("flexlora", with_first(beheaded), "the head of member 0"),
    ],
)
def test_a_state_of_other_ranks_or_heads_is_refused_before_memory_is_taken(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, method: str, change: Any, why: str
) -> None:
    federation = made(lab, method, "clients=2")
    federation.round(0)
    state = federation.state()
    federation.close()
    again, real = made(lab, method, "clients=2"), lab.classifiers
    opened: list[int] = []

    def classifiers(count: int, most: int, *rest: Any) -> Any:
        opened.append(most)
        return real(count, most, *rest)

    monkeypatch.setattr(lab, "classifiers", classifiers)
    with pytest.raises(BadData, match=f"does not fit.*{why}"):
        again.load(changed(state, change))
    again.close()
    assert max(opened, default=0) <= 4 + 32, "the start and what the server keeps of flora"


@pytest.mark.parametrize("method", ["fedavg", "local"])
def test_a_round_says_what_it_cost_beside_its_record(lab: Lab, method: str) -> None:
    (found,) = results(lab, method, "rounds=1")
    assert found.costs[""]["round_seconds"] > 0
    assert found.costs[""]["peak_bytes"] > 1e8, "torch alone takes more"
    assert "round_seconds" not in found.to_text()


def test_what_is_sent_is_counted_in_bytes_of_files(lab: Lab) -> None:
    whole, part = results(lab, "fedavg-lora"), results(lab, "ffa")
    clients = [one for name, one in whole[0].groups.items() if name.startswith("client-")]
    assert whole[0].metrics["upload_bytes"] == sum(one["upload_bytes"] for one in clients)
    assert whole[0].metrics["download_bytes"] == 0, "everyone makes the start from the seed"
    assert whole[1].metrics["download_bytes"] == 2 * whole[0].metrics["upload_bytes"], (
        "before the round, and at the end"
    )
    assert part[0].metrics["upload_bytes"] < 0.7 * whole[0].metrics["upload_bytes"], "A is not sent"
    assert results(lab, "fedavg-lora", "wire=int8")[0].metrics["upload_bytes"] < 0.55 * whole[0].metrics["upload_bytes"]
    fingerprints = results(lab, "atlas")[0].metrics["upload_bytes"] - whole[0].metrics["upload_bytes"]
    assert fingerprints > 0, "they are sent, too"
    for one in results(lab, "local", "wire=int8"):
        assert one.metrics["upload_bytes"] == one.metrics["download_bytes"] == 0, "who trains alone sends nothing"


@pytest.mark.parametrize(("wire", "most"), [("fp32", 1e-7), ("fp16", 1e-3), ("int8", 1e-2)])
def test_the_wire_formats_keep_what_they_can(lab: Lab, wire: str, most: float) -> None:
    federation = made(lab, "local")
    federation.round(0)
    model = federation.models[0]
    back = model.from_wire(model.to_wire(wire))
    for name, part in model.update.items():
        assert np.abs(back.update[name].b - part.b).max() <= most * max(np.abs(part.b).max(), 1e-9)
    federation.close()


@pytest.mark.parametrize("method", ["fedavg-lora", "flora", "ffa"])
def test_numbers_beyond_fp16_are_sent_in_fp32_and_end_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    read, sizes = Slots.read, []

    def scaled(self: Slots, member: int, ranks: Mapping[str, int]) -> ClientModel:
        model = read(self, member, ranks)
        if member == 2:
            next(iter(model.update.values())).b[0, 0] = 1e5
        sizes.append(len(model.to_wire("fp16")))
        return model

    monkeypatch.setattr(Slots, "read", scaled)
    federation = made(lab, method, "wire=fp16", "epochs=1")
    found = [federation.round(number).metrics for number in range(2)]
    assert [one["left_out"] for one in found] == [0, 0]
    assert max(sizes) > min(sizes), "the tensor is wider, and counted so"
    again = made(lab, method, "wire=fp16", "epochs=1")
    again.load(federation.state())
    federation.close()
    again.close()


def test_a_client_whose_numbers_are_not_finite_is_left_out_and_counted(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = Slots.read

    def spoiled(self: Slots, member: int, ranks: Mapping[str, int]) -> ClientModel:
        model = read(self, member, ranks)
        if member == 2:
            next(iter(model.update.values())).b[0, 0] = math.nan
        return model

    monkeypatch.setattr(Slots, "read", spoiled)
    found = results(lab, "flexlora")
    assert [one.metrics["left_out"] for one in found] == [1, 1]
    assert "client 2" in caplog.text
    assert "moved" not in found[0].groups["client-02"]
    assert found[0].groups["client-01"]["moved"] > 0


def test_every_client_moves_and_holds_what_was_sent(lab: Lab) -> None:
    for method in ("flexlora", "flora", "ffa", "atlas"):
        found = results(lab, method)
        clients = [one for record in found for name, one in record.groups.items() if name.startswith("client-")]
        assert all(one["moved"] > 0 and one["steps"] == 2 for one in clients)


def test_ranks_fit_the_budgets_and_one_that_is_too_small_is_told(lab: Lab) -> None:
    federation = made(lab, "atlas", "budget_kb=120,400", "rank=8")
    federation.round(0)
    small, large = (federation.server.members[one].ranks for one in (0, 1))
    assert sum(small.values()) < sum(large.values())
    bytes_of = [
        16
        * sum(
            (federation.slots.layers[name][0] + federation.slots.layers[name][1]) * rank for name, rank in one.items()
        )
        for one in (small, large)
    ]
    assert bytes_of[0] <= 120_000
    assert bytes_of[1] <= 400_000
    state = federation.state()
    again = made(lab, "atlas", "budget_kb=120,400", "rank=8")
    again.load(state)
    assert [one.ranks for one in again.server.members] == [one.ranks for one in federation.server.members]
    federation.close()
    again.close()
    with pytest.raises(CannotRun, match=r"client 0: the smallest adapter needs [\d,]+ bytes"):
        results(lab, "atlas", "budget_kb=1")


@pytest.mark.parametrize("wrong", ["budget_kb=1", "targets=q_proj", "rank=65", "budget_kb=120,1"])
def test_what_the_model_does_not_allow_is_told_before_the_first_round_of_any_method(lab: Lab, wrong: str) -> None:
    with pytest.raises(CannotRun, match=r"smallest adapter|q_proj|rank=65"):
        made(lab, "fedavg,atlas", wrong)
    made(lab, "fedavg", "rank=65").close()  # it has no adapters


def test_targets_that_match_nothing_are_refused(lab: Lab) -> None:
    with pytest.raises(CannotRun, match="q_proj"):
        results(lab, "fedavg-lora", "targets=q_proj")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("participants=9", "more than there are"),
        ("clients=1", "fewer than the 2 tasks"),
        ("methods=local,local", "methods names 'local' twice"),
        ("seeds=0,0", "seeds names '0' twice"),
        ("seeds=", "empty"),
        ("rank=0", "rank=0"),
        ("smoothing=1.5", "smoothing"),
        ("hetlora_weights=norms", "hetlora"),
        ("exchange=folder", "centralised"),
        ("quorum=0.5", "exchange=folder"),
        ("budget_kb=100", "not among the methods"),
        ("tasks=polarity,polarty", "polarity"),
    ],
)
def test_impossible_settings_are_refused(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(Atlas, [*SMALL, "methods=local,centralised", setting]).inputs()
    assert message in f"{caught.value.message} {caught.value.hint}"


def colours(folder: Path) -> str:
    """The path of a task with three labels."""
    names = "red", "green", "blue"
    rows = [f"a {names[one % 3]} thing and {one} more,{names[one % 3]}" for one in range(90)]
    path = folder / "colours.csv"
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("method", ["fedavg", "flexlora", "atlas"])
def test_a_head_has_as_many_labels_as_the_task_of_its_client(lab: Lab, tmp_path: Path, method: str) -> None:
    settings = f"tasks={colours(tmp_path)},polarity", "clients=4"
    whole = results(lab, method, *settings)
    alone = results(lab, method, "tasks=polarity", "clients=2")
    first, second = (whole[0].groups[f"client-0{one}"]["upload_bytes"] for one in (0, 1))
    assert first > second, "a third label is a row more of the head"
    if method != "atlas":  # its fingerprints have a part for each label of the federation
        assert second == alone[0].groups["client-00"]["upload_bytes"]
    assert whole[0].groups["client-01"]["train_loss"] < 1.0, "two labels: the logarithm of 2, not of 3"
    federation = made(lab, method, *settings)
    federation.round(0)
    again = made(lab, method, *settings)
    again.load(federation.state())
    assert again.round(1).to_text() == whole[1].to_text()
    federation.close()
    again.close()


def test_all_methods_have_a_row() -> None:
    assert set(METHODS) == set(ALL)


def test_rows_that_are_cut_are_counted(lab: Lab) -> None:
    (cut,) = results(lab, "local", "tasks=paraphrase", "clients=2", "rounds=1", "longest=6")
    assert cut.metrics["truncated"] == 2 * 20, "every list has three things or more"
    assert cut.groups["client-00"]["truncated"] == 20
    (whole,) = results(lab, "local", "tasks=paraphrase", "clients=2", "rounds=1")
    assert "truncated" not in {**whole.metrics, **whole.groups["client-00"]}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ffa", ("participants=2",)),
        ("flexlora", ("participants=2",)),
        ("hetlora", ("participants=2", "hetlora_decay=0.75")),
        ("hetlora", ("arrivals=buffered", "buffer=1", "devices=gpu-16gb,cpu-2gb")),
    ],
)
def test_a_round_of_clients_with_low_ranks_takes_no_rank_from_the_others(
    lab: Lab, method: str, settings: tuple[str, ...]
) -> None:
    federation = made(lab, method, "rank=2,8", "rounds=6", *settings)
    for number in range(6):
        federation.round(number)
        for model, member in zip(federation.models, federation.server.members, strict=True):
            assert {name: one.rank for name, one in model.update.items()} == member.ranks
    if "hetlora_decay=0.75" not in settings:
        assert [max(one.ranks.values()) for one in federation.server.members] == [2, 8, 2, 8, 2]
    federation.close()
