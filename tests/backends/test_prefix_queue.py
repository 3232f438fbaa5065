"""Requests with the same prefix go to one slot; none is lost, and the look-ahead is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from hybrid.backends.prefix_queue import PrefixQueue
from hybrid.records import Message, Request, Sampling


def request(prefix: int, number: int) -> Request:
    messages = (Message("system", f"prefix {prefix}"), Message("user", f"{number}"))
    return Request(Sampling(max_tokens=1), messages=messages, key=f"{prefix}/{number}")


def test_a_slot_keeps_its_prefix_and_the_other_slots_take_other_prefixes() -> None:
    waiting = PrefixQueue(iter([request(prefix, number) for prefix in range(2) for number in range(3)]), look_ahead=100)
    taken = [waiting.next_for(slot) for slot in (0, 1, 0, 1, 0, 1)]
    assert [one.key if one else "" for one in taken] == ["0/0", "1/0", "0/1", "1/1", "0/2", "1/2"]


def test_a_slot_without_requests_takes_those_of_the_largest_prefix() -> None:
    waiting = PrefixQueue(iter([request(0, number) for number in range(4)]), look_ahead=100)
    taken = [waiting.next_for(slot) for slot in (0, 1, 2, 3)]
    assert [one.key if one else "" for one in taken] == ["0/0", "0/1", "0/2", "0/3"]
    assert waiting.next_for(0) is None


@given(st.lists(st.integers(0, 4), max_size=40), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_every_request_is_returned_once_whichever_slots_ask(kinds: list[int], slots: list[int]) -> None:
    requests = [request(kind, number) for number, kind in enumerate(kinds)]
    waiting = PrefixQueue(iter(requests), look_ahead=8)
    taken = [one.key for slot in slots if (one := waiting.next_for(slot)) is not None]
    assert sorted(taken) == sorted(one.key for one in requests)


def test_no_more_requests_are_read_than_the_look_ahead() -> None:
    seen = 0

    def endless() -> Iterator[Request]:
        nonlocal seen
        for seen in count(1):
            yield request(seen % 3, seen)

    waiting = PrefixQueue(endless(), look_ahead=8)
    for asked in range(1, 50):
        waiting.next_for(asked % 4)
        assert seen <= asked + 8
