"""What a node that lies can do to the others: it has a share of their training sets at most, or is not read at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pipelines.sapo.arrivals import unpack
from pipelines.sapo.configuration import configuration_of, expected_of
from pipelines.sapo.folder_node import FolderNode
from pipelines.sapo.node import asked_in, the_question
from pipelines.sapo.pipeline import Sapo
from pipelines.sapo.pool import AHEAD, Candidate, choose
from pipelines.sapo.quarantine import LONGEST, MOST_FAULTS, MOST_SEGMENTS, ROUNDS, Quarantine
from pipelines.sapo.rollouts import Answer, Batch, Rollout, pack
from tests.pipelines.sapo.test_swarm import nodes
from tests.support.published import Folder


def liar_of(victim: FolderNode, number: int, slots: int) -> bytes:
    """A segment of node 1 that passes every check, half of whose answers are right: all groups have an advantage."""
    how = victim.settings
    rollouts = []
    for slot in range(slots):
        task, index = asked_in(how, victim.seed, 1, number, slot)
        right = the_question(task, index, how.level).answer
        answers = tuple(Answer(f"nonsense {place} <answer>{right if place % 2 else place}</answer>", ended=True)
                        for place in range(how.group))  # fmt: skip
        rollouts.append(Rollout(victim.configuration, 1, number, slot, task, index, answers))
    return pack([Batch(victim.configuration, 1, number, number, "", tuple(rollouts))])


def candidates(*counts: int) -> list[Candidate]:
    """So many rollouts of node 1, 2 and so on."""
    return [
        Candidate(Rollout("c" * 64, node, 0, slot, "bf", 1, (Answer("a", True), Answer("b", True))), (0, 10_000), 0)
        for node, count in enumerate(counts, start=1)
        for slot in range(count)
    ]


@pytest.mark.parametrize("choice", ["uniform-nonzero", "uniform", "best-total", "first", "fixed-positions"])
def test_of_one_node_there_are_so_many_at_most_and_the_others_move_up(choice: Any) -> None:
    pool = candidates(20, 1, 1)
    for round in range(20):
        found = Counter(one.rollout.node for one in choose(pool, 4, choice, 0, round=round, most=2))
        assert found == {1: 2, 2: 1, 3: 1}
    assert len(choose(candidates(9), 4, choice, 0, most=2)) == 2


def test_a_bound_that_does_not_bind_changes_no_choice() -> None:
    pool = candidates(4, 4, 4)
    for round in range(20):
        assert choose(pool, 4, "uniform", 0, round=round, most=4) == choose(pool, 4, "uniform", 0, round=round)


def test_a_liar_has_its_share_of_a_training_set_and_the_record_tells_it() -> None:
    shares = []
    for most in (0, 1):
        folder = Folder()
        victim = nodes(folder, arms=("2-2",), barrier="async", max_age=3, most_of_one=most)[0]
        for number in range(4):
            folder.put("2-2-seed-0-node-1", number, liar_of(victim, number, 2))
        found = [victim.round(number).groups["node-0"] for number in range(4)]
        assert all(one["refused"] == 0 for one in found)
        shares.append([one["ext_of_one"] for one in found if "ext_of_one" in one])
    assert max(shares[0]) == 2  # all that it takes of others
    assert max(shares[1]) == 1


def test_of_two_nodes_the_other_one_gives_all() -> None:
    folder = Folder()
    victim = nodes(folder, nodes=2, barrier="async", most_of_one=1)[0]
    folder.put("2-2-seed-0-node-1", 0, liar_of(victim, 0, 2))
    assert victim.round(0).groups["node-0"]["ext_of_one"] == 2


def test_slots_that_no_node_writes_are_refused_unless_shortfalls_are_written_for() -> None:
    folder = Folder()
    victim = nodes(folder, barrier="async")[0]
    folder.put("2-2-seed-0-node-1", 0, liar_of(victim, 0, 4))
    note: Any = victim.round(0).notes["node-0"]
    assert note["refused"] == {"too-many": 1}
    assert expected_of(Sapo(arms=("2-2",), shortfall="own"), victim.arm, 0).slots == 4


def test_what_a_node_takes_of_one_other_is_its_own_affair() -> None:
    names = {configuration_of(Sapo(arms=("2-2",), most_of_one=most), "2-2", 0) for most in (0, 1, 2)}
    assert len(names) == 1


def test_who_publishes_nothing_but_faults_is_not_read_nor_waited_for_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = Folder()
    made = nodes(folder, barrier="quorum", nodes=2, rounds=40)
    victim, name = made[0], "2-2-seed-0-node-1"
    for number in range(MOST_FAULTS + 1):
        folder.put(name, number % 3, b"nothing %d" % number)
    found: list[Any] = []
    for number in range(3):  # node 1 is not there: it would be waited for, were it not in quarantine
        folder.put(name, number, b"nothing more %d" % number)
        found.append(victim.round(number).notes["node-0"])
    assert found[0]["refused"]["schema"] == MOST_FAULTS + 1
    assert found[0]["refused"]["quarantine"] == 1
    assert found[1]["refused"] == found[2]["refused"] == {"quarantine": 1}
    assert sum("node-1 is in quarantine for 10 rounds" in one for one in caplog.messages) == 1
    for number in range(3, ROUNDS):
        victim.round(number)
    folder.put(name, ROUNDS, liar_of(victim, ROUNDS, 2))
    assert victim.round(ROUNDS).groups["node-0"]["n_ext"] == 2


def test_of_a_flood_of_segments_of_a_round_a_few_are_opened() -> None:
    folder = Folder()
    victim = nodes(folder, barrier="async")[0]
    good = liar_of(victim, 0, 2)
    for number in range(MOST_SEGMENTS + 5):
        folder.put("2-2-seed-0-node-1", 0, good if not number else good[:-1] + bytes([number]))
    note: Any = victim.round(0).notes["node-0"]
    assert note["refused"]["too-many"] == 5
    assert victim.round(1).groups["node-0"]["refused"] == 0


def test_what_is_sent_again_pays_off_no_faults() -> None:
    folder = Folder()
    victim, name = nodes(folder, barrier="async")[0], "2-2-seed-0-node-1"
    found: list[Any] = []
    for number in range(8):  # two rollouts in eight segments, and eight faults
        good = unpack(liar_of(victim, number, 2), victim.expected()).batches[0]
        for copy in range(8):
            folder.put(name, number, pack([replace(good, step=copy)]))
            folder.put(name, number, b"nothing %d of %d" % (copy, number))
        found.append(victim.round(number).notes["node-0"])
    assert found[3]["refused"] == {"schema": 8}
    assert found[7]["refused"] == {"quarantine": 16}


def test_a_quarantine_grows_and_a_node_that_is_late_or_mostly_right_has_none() -> None:
    held = Quarantine()
    lengths = [held.judge(1, ["schema"] * (MOST_FAULTS + 1), 0, 0) for _ in range(8)]
    assert lengths == [10, 20, 40, 80, 160, 320, LONGEST, LONGEST]
    assert held.holds(1, LONGEST - 1)
    assert not held.holds(1, LONGEST)
    assert not held.holds(2, 0)
    assert not any(held.judge(2, ["too-old"] * 100, 0, 0) for _ in range(10))
    assert not any(held.judge(3, ["schema"] * 4, 4, 0) for _ in range(100))


def test_ten_thousand_rounds_of_somebody_else_are_opened_when_they_are_near_and_training_goes_on() -> None:
    folder = Folder()
    victim = nodes(folder, barrier="async")[0]
    for number in range(10_000):
        folder.put("2-2-seed-0-node-1", number, b"of somebody else %d" % number)
        folder.put("4-4-seed-7-node-1", number, b"of another run %d" % number)
    found = [victim.round(number) for number in range(4)]
    notes: Any = [one.notes["node-0"] for one in found]
    assert [one.get("refused", {}) for one in notes] == [
        {"schema": AHEAD + 1}, {"schema": 1}, {"schema": 1}, {"quarantine": 1},
    ]  # fmt: skip
    assert all(one.groups["node-0"]["n_own"] == 2 for one in found)
    assert len(victim._later) < 10_000
