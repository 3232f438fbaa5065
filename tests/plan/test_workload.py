"""What stages will ask for, of any number of items."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hybrid.plan.counting import Estimate, TokenCounter, counter_of
from hybrid.plan.gpus import chosen
from hybrid.plan.memory import needs_of
from hybrid.plan.shapes import shape_of
from hybrid.plan.workload import RoleLoad, loads_of
from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Message, Request, Sampling
from hybrid.work import Ask


class Questions:
    """Asks `count` questions; the `long` one of them is a long text."""

    def __init__(self, count: int, long: int = -1) -> None:
        self.count, self.long = count, long

    def inputs(self) -> Inputs:
        return Inputs({}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("answer", "gpu", 1, Ask(self.items)),)

    def items(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        for number in range(self.count):
            text = f"Question {number}: " + "how far is it to the sea? " * (600 if number == self.long else 10)
            yield Item(f"{number}", f"{number}/0", Request(Sampling(8), (Message("user", text),)), {})


def load_of(asked: Questions, counter: TokenCounter) -> RoleLoad:
    (load,) = loads_of(asked, asked.stages(), {}, lambda _: counter)
    assert load.items == asked.count
    (role,) = load.roles
    return role


def peak_of(count: int, counter: TokenCounter) -> int:
    """Bytes that counting the tokens of so many questions takes beside what was there before."""
    tracemalloc.start()
    try:
        load_of(Questions(count), counter)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_as_many_items_take_no_more_memory(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.plan.counting.COUNTED", 8000)
    for counter in (counter_of(str(smollm2_gguf)), Estimate("")):
        load_of(Questions(100), counter)  # what is made once
        few, many = (peak_of(count, counter) for count in (200, 2000))
        assert many < few + 100_000, counter.how


def test_the_context_of_ollama_is_that_of_the_request_that_needs_the_largest() -> None:
    shape, (t4,) = shape_of("llama3.2-1b"), chosen(["t4"])
    plans = [needs_of("ollama", shape, {}, t4, load_of(Questions(20, long), Estimate(""))) for long in (-1, 7)]
    contexts = [next(line.how for line in plan.lines if line.name == "keys and values") for plan in plans]
    assert ["4,096 tokens" in contexts[0], "8,192 tokens" in contexts[1]] == [True, True], contexts
