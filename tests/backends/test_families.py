"""Requests that begin alike go to one slot; nothing is lost, and nothing is taken far ahead."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from hybrid.backends.families import Families
from hybrid.records import Message, Request, Sampling


def request(family: int, number: int) -> Request:
    messages = (Message("system", f"family {family}"), Message("user", f"{number}"))
    return Request(Sampling(max_tokens=1), messages=messages, key=f"{family}/{number}")


def test_a_slot_stays_with_its_family_and_the_others_take_other_families() -> None:
    families = Families(iter([request(family, number) for family in range(2) for number in range(3)]), most=100)
    taken = [families.next_for(slot) for slot in (0, 1, 0, 1, 0, 1)]
    assert [one.key if one else "" for one in taken] == ["0/0", "1/0", "0/1", "1/1", "0/2", "1/2"]


def test_a_slot_without_work_helps_with_the_largest_family() -> None:
    families = Families(iter([request(0, number) for number in range(4)]), most=100)
    taken = [families.next_for(slot) for slot in (0, 1, 2, 3)]
    assert [one.key if one else "" for one in taken] == ["0/0", "0/1", "0/2", "0/3"]
    assert families.next_for(0) is None


@given(st.lists(st.integers(0, 4), max_size=40), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_every_request_is_given_once_whichever_slots_ask(kinds: list[int], slots: list[int]) -> None:
    requests = [request(kind, number) for number, kind in enumerate(kinds)]
    families = Families(iter(requests), most=8)
    taken = [one.key for slot in slots if (one := families.next_for(slot)) is not None]
    assert sorted(taken) == sorted(one.key for one in requests)


def test_no_more_is_taken_from_the_stream_than_the_look_ahead() -> None:
    seen = 0

    def endless() -> Iterator[Request]:
        nonlocal seen
        for seen in count(1):
            yield request(seen % 3, seen)

    families = Families(endless(), most=8)
    for asked in range(1, 50):
        families.next_for(asked % 4)
        assert seen <= asked + 8
