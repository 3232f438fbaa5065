"""Swarms of small policies: rounds, controls, resuming, and the same swarm through a folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import BadData
from hybrid.execution.loop_run import LoopRun
from hybrid.execution.loop_state import LoopState
from hybrid.folder.medium import Disk
from hybrid.folder.tensors import RunTensors
from hybrid.loops import Loop, NotYet, RoundFailed, Series
from hybrid.metrics import RoundMetrics
from hybrid.plugins.faults import CheckedPublishingLoop, checked_loop
from hybrid.tuning import PolicyTuning
from pipelines.sapo.arrivals import unpack
from pipelines.sapo.folder_node import FolderNode
from pipelines.sapo.loop import loop
from pipelines.sapo.pipeline import Sapo
from pipelines.sapo.rollouts import Answer, Batch, Rollout, pack
from pipelines.sapo.swarm import Swarm
from pipelines.sapo.training import train
from pipelines.sapo.training_set import TrainingSet
from tests.support.published import Folder
from tests.support.table_policies import TableLab, TablePolicies

SMALL: dict[str, Any] = {
    "arms": ("2-2",), "tasks": ("basic_arithmetic",), "level": "easy", "nodes": 3, "rounds": 12, "group": 4,
    "max_tokens": 6, "learning_rate": 1e-3, "eval_every": 5, "eval_questions": 4, "publish_every": 5,
}  # fmt: skip


def series_of(settings: Sapo) -> list[Series]:
    return list(settings._series(dict(settings._named())))


def swarm(folder: Folder | None = None, lab: TableLab | None = None, **more: Any) -> Swarm:
    settings = Sapo(**(SMALL | more))
    (series,) = series_of(settings)
    made = loop(settings, series, lab or TableLab())  # type: ignore[arg-type]
    assert isinstance(made, Swarm)
    made.publish_to((folder or Folder()).reader())
    return made


def nodes(folder: Folder, context: int = 4000, **more: Any) -> list[FolderNode]:
    settings = Sapo(**({**SMALL, "publish_every": 10} | {"exchange": "folder"} | more))
    made = [loop(settings, one, TableLab(context=context)) for one in series_of(settings)]  # type: ignore[arg-type]
    for one in made:
        assert isinstance(one, FolderNode)
        one.publish_to(folder.reader())
    return made  # type: ignore[return-value]


def run(loops: list[FolderNode], end: int, start: int = 0) -> list[list[RoundMetrics]]:
    """Advance them in turns, until each has computed its rounds or all wait."""
    found: list[list[RoundMetrics]] = [[] for _ in loops]
    for _ in range(100 * (end - start)):
        for one, done in zip(loops, found, strict=True):
            with suppress(NotYet):
                if start + len(done) < end:
                    done.append(one.round(start + len(done)))
    return found


def test_every_node_trains_on_own_and_foreign_rollouts() -> None:
    made = swarm()
    for number in range(3):
        found = made.round(number)
        for name, of in found.groups.items():
            assert of["n_own"] == 2
            assert 0 <= of["n_ext"] <= of["ext_wanted"] == 2
            used = found.notes[name]["used"]  # type: ignore[index,call-overload]
            assert len({one[3] for one in used}) == len(used) == 2 + of["n_ext"]
            assert {one[0] for one in used[:2]} == {int(name[-1])}
            assert int(name[-1]) not in {one[0] for one in used[2:]}


def test_all_nodes_write_in_one_call_and_are_tested_in_it() -> None:
    lab = TableLab()
    made = swarm(lab=lab)
    for number in range(3):
        made.round(number)
    assert lab.opened[0].asked == [3 * 2 * 4 + 3 * 4, 24, 24]  # nodes, questions, samples; round 0 has a test


@pytest.mark.parametrize("arm", ["4-0", "2-2", "filter-only-2-2", "equal-compute-2-2"])
def test_a_resumed_swarm_goes_on_to_the_bit(arm: str) -> None:
    folder, again = Folder(), Folder()
    more: dict[str, Any] = {"arms": (arm,)}
    if arm in ("2-2", "filter-only-2-2"):
        more["max_age"] = 2
    if arm == "2-2":
        more["shortfall"] = "own"
    made = swarm(folder, **more)
    states, texts = [], []
    for number in range(12):
        states.append(made.state())
        texts.append(made.round(number).to_text())
    for start in (1, 7, 11):
        resumed = swarm(again, **more)
        resumed.load(states[start])
        assert [resumed.round(number).to_text() for number in range(start, 12)] == texts[start:]
    assert again.segments.keys() <= folder.segments.keys()


def test_the_nodes_of_a_folder_compute_what_a_swarm_in_memory_does() -> None:
    whole = swarm()
    together = [whole.round(number) for number in range(12)]
    apart = run(nodes(Folder()), 12)
    for number, found in enumerate(together):
        for node, name in enumerate(found.groups):
            assert apart[node][number].groups[name] == found.groups[name]
            assert apart[node][number].notes[name] == found.notes[name]


@pytest.mark.parametrize("arm", ["4-0", "filter-only-2-2", "equal-compute-2-2"])
def test_nodes_of_an_arm_that_does_not_share_wait_for_nobody_and_compute_the_same(arm: str) -> None:
    taken = {"max_age": 3} if arm.startswith("filter") else {}
    whole, (lone, *_) = swarm(arms=(arm,), **taken), nodes(Folder(), arms=(arm,), **taken)
    for number in range(8):
        found = whole.round(number)
        if number == 5:
            kept = lone.state()
            lone = nodes(Folder(), arms=(arm,), **taken)[0]
            lone.load(kept)
        assert lone.round(number).groups["node-0"] == found.groups["node-0"]


def test_a_node_that_was_killed_finds_what_it_has_published_and_trains_nothing_twice() -> None:
    folder, whole = Folder(), run(nodes(Folder()), 8)
    made = nodes(folder)
    first = run(made, 4)
    with pytest.raises(NotYet, match="round 4 of 2 of 2"):
        made[1].round(4)  # it has published, and is killed
    written = len(folder.segments)
    back = nodes(folder)[1]
    back.load(made[1].state())
    with pytest.raises(NotYet):
        back.round(4)
    assert len(folder.segments) == written
    assert back.policies.asked == []  # type: ignore[attr-defined]
    rest = run([made[0], back, made[2]], 8, 4)
    for place in range(3):
        assert [one.to_text() for one in first[place] + rest[place]] == [one.to_text() for one in whole[place]]


@pytest.mark.parametrize("barrier", ["quorum", "deadline"])
def test_a_node_that_is_gone_is_waited_for_once(monkeypatch: pytest.MonkeyPatch, barrier: str) -> None:
    now = [0.0]
    monkeypatch.setattr("pipelines.sapo.folder_node.time.monotonic", lambda: now[0])
    made = nodes(Folder(), barrier=barrier, deadline=60.0)[:2]  # the third never comes
    assert run(made, 3) == [[], []]
    now[0] += 61
    found = run(made, 3)
    assert [len(one) for one in found] == [3, 3]
    assert all(one[0].groups[f"node-{place}"]["n_ext"] <= 2 for place, one in enumerate(found))


def test_a_node_that_came_back_is_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pipelines.sapo.folder_node.time.monotonic", lambda: now[0])
    made = nodes(Folder(), deadline=60.0)
    run(made[:2], 1)
    now[0] += 61
    assert [len(one) for one in run(made[:2], 2)] == [2, 2]
    assert len(run(made[2:], 2)[0]) == 2  # it catches up, and writes in the round that the others are in
    with suppress(NotYet):
        made[2].round(2)
    assert [len(one) for one in run(made[:2], 4, 2)] == [1, 1]
    now[0] += 30
    assert [len(one) for one in run(made[:2], 4, 3)] == [0, 0]


def test_where_all_are_slow_nobody_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pipelines.sapo.folder_node.time.monotonic", lambda: now[0])
    made = nodes(Folder(), deadline=60.0)
    for number in range(3):
        for one in made[:2]:
            now[0] += 100  # a round takes longer than the deadline
            with pytest.raises(NotYet):
                one.round(number)
        assert made[2].round(number).groups["node-2"]["ext_pool"] == 4
        for one in made[:2]:
            one.round(number)


def test_an_asynchronous_node_waits_for_nothing_and_takes_what_is_not_too_old() -> None:
    folder = Folder()
    quick, slow, _ = nodes(folder, barrier="async", max_age=3)
    for number in range(8):
        assert quick.round(number).groups["node-0"]["n_ext"] == 0
    found = slow.round(0).groups["node-1"]
    assert found["ext_pool"] == 2
    assert found.get("ext_age_max", 0) == 0
    assert slow.round(3).groups["node-1"]["ext_pool"] == 8 - found["n_ext"]


def test_a_node_that_is_far_behind_takes_what_the_others_wrote_in_its_rounds() -> None:
    folder = Folder()
    quick, slow, _ = nodes(folder, barrier="async", rounds=80, max_tokens=1, foreign="uniform")
    for number in range(80):
        quick.round(number)
    for number in range(80):
        found = slow.round(number).groups["node-1"]
        assert (found["ext_pool"], found["refused"]) == (2, 0)
        assert len(slow.pools[0]._held) <= 2 * 32  # 30 rounds ahead, and this one


def test_too_few_foreign_rollouts_are_replaced_by_own_ones_when_that_is_asked_for() -> None:
    lone = nodes(Folder(), barrier="async", shortfall="own")[0]
    short = nodes(Folder(), barrier="async")[0]
    assert lone.round(0).groups["node-0"]["n_own"] == 4
    assert short.round(0).groups["node-0"]["n_own"] == 2


NO_ROOM: dict[str, Any] = {"tasks": ("basic_arithmetic", "calendar_arithmetic"), "context": 100}
"""The easy questions of the second of these tasks leave no room for an answer."""


@pytest.mark.parametrize("arm", ["2-2", "2-1", "2-0", "filter-only-2-2", "equal-compute-2-2", "equal-compute-4-1"])
def test_a_node_whose_questions_leave_no_room_writes_no_slot_that_others_or_its_own_state_refuse(arm: str) -> None:
    folder = Folder()
    more: dict[str, Any] = {"arms": tuple(dict.fromkeys((arm, "2-2"))), "shortfall": "own", "barrier": "async"}
    more |= {**NO_ROOM, "max_age": 1}
    lone, other = nodes(folder, **more)[:2]
    found = [lone.round(number).groups["node-0"] for number in range(8)]
    assert {one["no_room"] for one in found} >= {1, 2}
    read = [unpack(one.data, lone.expected()) for one in folder.segments.values()]
    assert [why for one in read for why in one.refused] == []
    asked = {rollout.slot for one in read for batch in one.batches for rollout in batch.rollouts}
    assert (max(asked) >= lone.arm.own) == bool(lone.arm.foreign)  # further ones are asked, of controls, too
    assert [other.round(number).groups["node-1"]["refused"] for number in range(8)] == [0] * 8
    nodes(folder, **more)[0].load(lone.state())


def test_hostile_segments_are_counted_and_training_goes_on() -> None:
    folder = Folder()
    made = nodes(folder, barrier="async", max_age=1)
    victim = made[0]
    name = "2-2-seed-0-node-1"
    lie = Rollout(victim.configuration, 1, 0, 0, "basic_arithmetic", 7, (Answer("<answer>1</answer>", ended=True),) * 4)
    other = Rollout("0" * 64, 1, 0, 0, "basic_arithmetic", 7, (Answer("x" * 100, ended=True),) * 4)
    for configuration, rollout in ((victim.configuration, lie), ("0" * 64, other)):
        folder.put(name, 0, pack([Batch(configuration, 1, 0, 0, "", (rollout,))]))
    folder.put(name, 0, b"\x28\xb5\x2f\xfd not a frame")
    folder.put("2-2-seed-0-node-99", 0, b"nobody")
    folder.put("2-2-seed-1-node-1", 0, b"of another swarm")
    found = victim.round(0)
    assert found.groups["node-0"]["refused"] == 3
    note = found.notes["node-0"]
    assert note["refused"] == {"another-configuration": 1, "another-question": 1, "schema": 1}  # type: ignore[index,call-overload]
    assert victim.round(1).groups["node-0"]["refused"] == 0


def test_what_is_published_in_memory_holds_every_rollout_of_its_rounds() -> None:
    folder = Folder()
    made = swarm(folder)
    used = [made.round(number).notes for number in range(12)]
    assert sorted((one.name, one.number) for one in folder.segments.values()) == [
        ("2-2-seed-0", 0), ("2-2-seed-0", 1), ("2-2-seed-0", 2),
    ]  # fmt: skip
    batches = [batch for one in folder.segments.values() for batch in unpack(one.data, made.expected()).batches]
    known = {rollout.id for batch in batches for rollout in batch.rollouts}
    assert {one[3] for notes in used for note in notes.values() for one in note["used"]} <= known  # type: ignore[index,call-overload]


def test_questions_that_leave_no_room_are_counted_and_end_the_series_when_all_do() -> None:
    made = swarm(lab=TableLab(context=8), rounds=30)
    for number in range(19):
        assert made.round(number).metrics["no_room"] == 6
    with pytest.raises(RoundFailed, match="left room"):
        made.round(19)


def test_a_round_of_dead_groups_is_a_step_and_one_without_groups_is_not() -> None:
    made = swarm()
    stepped: list[int] = []
    step = made.policies.step
    made.policies.step = lambda slot, rate: (stepped.append(slot), step(slot, rate))[1]  # type: ignore[method-assign]
    empty = train(made.policies, {0: TrainingSet(), 1: TrainingSet(tokens=5, dead=1)}, made.settings)
    assert stepped == [1]
    assert empty[0] == empty[1]


@pytest.mark.parametrize("garbage", [b"", b"{}\n", b"not json\n", b'{"format":"hybrid/swarm","version":1}\n'])
def test_the_state_of_something_else_is_refused(garbage: bytes) -> None:
    with pytest.raises(BadData):
        swarm().load(garbage)


def test_a_state_of_another_number_of_nodes_is_refused() -> None:
    made = swarm()
    made.round(0)
    with pytest.raises(BadData):
        swarm(nodes=2).load(made.state())


def test_a_state_whose_ledgers_are_of_different_rounds_is_refused() -> None:
    made = swarm()
    made.round(0)
    changed = made.state().replace(b'"round":0,', b'"round":4,', 1)
    assert changed != made.state()
    with pytest.raises(BadData, match="ledgers are of different rounds"):
        swarm().load(changed)


def test_a_swarm_goes_on_from_the_state_before_one_whose_ledgers_name_a_later_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors, name = RunTensors("run", "20260101t000000z-aaaaaaaa", Disk(tmp_path)), "0" * 64

    def make() -> Loop:
        made = checked_loop(Sapo(**SMALL), "rounds", lambda series, lab: swarm(), series_of(Sapo(**SMALL))[0], None)  # type: ignore[arg-type]
        assert isinstance(made, CheckedPublishingLoop)
        made.publish_to(Folder().reader())
        return made

    go_on = iter([True, True, False])
    first = [one.text for _, one in LoopRun(make, tensors, name, 4, 0).rounds(lambda: next(go_on))]
    good = LoopState.read(tensors.newest(name)[1], 4)  # type: ignore[index]
    later = good.data.replace(b'"round":1,', b'"round":9,')
    tensors.keep(name, 3, LoopState([*good.rounds, good.rounds[1]], later).pack())
    again = [one.text for _, one in LoopRun(make, tensors, name, 4, 0).rounds(lambda: True)]
    assert (len(again), again[:2]) == (4, first)
    assert "it holds 3 rounds, and the loop has done 10" in caplog.text


def test_several_updates_clip_and_weights_of_importance_change_what_is_learnt() -> None:
    plain = swarm()
    others = [swarm(updates=3), swarm(updates=3, clip_high=0.01), swarm(foreign_ids=True, importance_cap=2.0)]
    for one in (plain, *others):
        for number in range(4):
            one.round(number)
    weights = {one.policies.digest(0) for one in (plain, *others)}
    assert len(weights) == 4


class OtherSampler(TableLab):
    """Policies whose sampler tells log-probabilities that are not quite those of training."""

    def policies(self, slots: int, tuning: PolicyTuning) -> TablePolicies:
        made = super().policies(slots, tuning)
        made.sampler, exact = "other 1.0", made.sample
        made.sample = lambda prompts: [  # type: ignore[method-assign]
            one._replace(logprobs=tuple(logprob - 0.125 for logprob in one.logprobs)) for one in exact(prompts)
        ]
        return made


def test_a_round_notes_how_far_another_samplers_probabilities_are_from_those_of_training() -> None:
    more: dict[str, Any] = {"foreign_ids": True, "importance_cap": 2.0}
    made = swarm(lab=OtherSampler(), **more)
    for number in range(2):
        found = made.round(number)
        assert found.notes.keys() == found.groups.keys()
        for name, note in found.notes.items():
            told: Any = note["sampler"]  # type: ignore[index,call-overload]
            assert (told["name"], told["mean"], told["most"]) == ("other 1.0", 0.125, 0.125)
            assert told["tokens"] == found.groups[name]["tokens_generated"]
    for other in (swarm(**more), swarm(lab=OtherSampler()), swarm(lab=OtherSampler(), top_p=0.9, **more)):
        assert all("sampler" not in note for note in other.round(0).notes.values())  # type: ignore[operator]


def test_a_warm_up_teaches_the_format_before_the_first_round() -> None:
    made = swarm(warm_up=3)
    assert made.policies.digest(0) != swarm().policies.digest(0)
    assert made.policies.digest(0) == made.policies.digest(1)


def test_slots_that_train_one_by_one_learn_the_same() -> None:
    texts = []
    for together in (True, False):
        made = swarm(lab=TableLab(together=together))
        texts.append([made.round(number).to_text() for number in range(4)])
    assert texts[0] == texts[1]
