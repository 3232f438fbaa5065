"""Trajectories: of the records of rounds, those that follow from each other are found, never a mixture."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybrid.execution.trajectories import beginning, continued, longest

START = beginning("rounds/1", "model", "a")
TEXTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=8)


def records(*trajectories: list[str]) -> list[dict[str, str]]:
    """The records of several trajectories, round by round."""
    rounds: list[dict[str, str]] = [{} for _ in range(max(map(len, trajectories)))]
    for texts in trajectories:
        history = START
        for found, text in zip(rounds, texts, strict=False):
            history = continued(history, text)
            found[history] = text
    return rounds


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_the_longest_trajectory_is_found_whole_and_in_any_order(trajectories: list[list[str]]) -> None:
    rounds = records(*trajectories)
    found = longest(START, rounds)
    texts = [records_of[history] for records_of, history in zip(rounds, found, strict=False)]
    assert texts in trajectories
    assert len(texts) == max(map(len, trajectories))
    assert longest(START, records(*reversed(trajectories))) == found


@given(st.lists(TEXTS, min_size=1, max_size=4), st.data())
def test_what_follows_a_missing_record_does_not_count(trajectories: list[list[str]], data: st.DataObject) -> None:
    rounds = records(*trajectories)
    lost = data.draw(st.integers(0, len(rounds) - 1))
    rounds[lost] = {}
    assert len(longest(START, rounds)) <= lost


def test_records_of_another_beginning_do_not_count() -> None:
    assert longest(beginning("rounds/2", "model", "a"), records(["x", "y"])) == []
    assert longest(START, [{"": "x"}, {"0" * 16: "y"}]) == []
