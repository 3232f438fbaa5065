"""The rollouts that a report of `sapo` shows, made again from what a run has published."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from hybrid.errors import BadData
from hybrid.metrics import RoundMetrics
from hybrid.protocols import Replayed
from hybrid.records import Output
from pipelines.sapo import rollout_texts
from pipelines.sapo.rollout_texts import ANSWERS, LONGEST, MOST_SERIES, QUESTIONS, Looked
from pipelines.sapo.rollout_texts import rollout_texts as drawn
from tests.pipelines.sapo.test_replay import Ran, ran
from tests.support.hostile_texts import PAYLOADS
from tests.support.sapo_rounds import record


def outputs_of(rounds: Sequence[RoundMetrics], series: str) -> list[Output]:
    return [record(series, one.round, one) for one in rounds]


def looked_at(records: Sequence[Output], rounds: int) -> Looked:
    looked = Looked(run_of(rounds))
    assert list(looked.passing(records)) == list(records)
    return looked


def run_of(rounds: int) -> Any:
    return SimpleNamespace(outputs=SimpleNamespace(run={"id": "sapo-1", "settings": {"rounds": rounds}}), folder=None)


def page_of(monkeypatch: pytest.MonkeyPatch, looked: Looked, again: Any) -> str:
    monkeypatch.setattr(rollout_texts, "rounds_of", lambda run: again)
    return str(drawn(run_of(4), looked))


@pytest.fixture(scope="module")
def memory() -> Ran:
    return ran(foreign="uniform")


def test_the_first_the_middle_and_the_newest_round_are_shown_with_questions_rewards_and_texts(
    memory: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    (series,) = memory.rounds
    looked = looked_at(outputs_of(memory.rounds[series], series), 4)

    def again(name: str, metrics: RoundMetrics, group: str) -> Replayed:
        return memory.replay(name, metrics.round, group)

    page = page_of(monkeypatch, looked, again)
    assert [f"Round {number}, node-" in page for number in range(4)] == [True, False, True, True]
    made = memory.replay(series, 0, "node-0").value["groups"]
    assert isinstance(made, list)
    assert "own · basic_arithmetic" in page
    assert "foreign, of node-" in page
    assert page.count("<h4>") == 3
    assert page.count('class="facts">reward ') == 4 * page.count("<ol>")  # a group has four answers


def test_records_of_a_run_that_is_not_over_are_its_newest_ones(memory: Ran) -> None:
    (series,) = memory.rounds
    records = outputs_of(memory.rounds[series][:2], series)
    texts = looked_at(records[::-1], 4000).rounds()[series]
    assert [RoundMetrics.from_text(one).round for one in texts] == [0, 1]


def test_of_many_series_some_are_shown_and_the_page_says_so(memory: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    (series,) = memory.rounds
    names = [f"2-2/seed-{seed}" for seed in range(MOST_SERIES + 3)]
    looked = looked_at([one for name in names for one in outputs_of(memory.rounds[series][:1], name)], 4)
    page = page_of(monkeypatch, looked, lambda name, metrics, group: memory.replay(series, metrics.round, group))
    assert page.count("<summary>") == MOST_SERIES
    assert "Further series are not shown." in page


def test_where_the_texts_are_not_here_it_is_said_how_they_come(memory: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    (series,) = memory.rounds
    looked = looked_at(outputs_of(memory.rounds[series], series), 4)
    page = page_of(monkeypatch, looked, lambda *_: Replayed({"groups": []}, [], ["all"], []))
    assert "hybrid fetch --rollouts" in page

    def broken(*_: Any) -> Replayed:
        raise BadData("not an entry of a ledger")

    assert "hybrid fetch --rollouts" in page_of(monkeypatch, looked, broken)


def test_without_the_run_nothing_is_drawn(memory: Ran) -> None:
    (series,) = memory.rounds
    assert str(drawn(run_of(4), looked_at(outputs_of(memory.rounds[series], series), 4))) == ""


def test_texts_of_others_are_text_and_bounded(monkeypatch: pytest.MonkeyPatch, memory: Ran) -> None:
    (series,) = memory.rounds
    answers = [{"text": one, "ended": True} for one in (*PAYLOADS, "x" * 100_000, *["y"] * 200)]
    group = {
        "own": False, "node": 3, "round": 0, "task": "bf", "question": PAYLOADS[0] + "q" * 100_000,
        "rewards": [0] * len(answers), "advantages": None, "answers": answers,
    }  # fmt: skip
    looked = looked_at(outputs_of(memory.rounds[series][:1], series), 4)
    page = page_of(monkeypatch, looked, lambda *_: Replayed({"groups": [group] * 50}, [], [], []))
    assert "<script" not in page
    assert len(page) < 30 * QUESTIONS * (ANSWERS + 1) * LONGEST
    assert "more answer" in page
    assert "48 more rollouts not shown" in page
