"""A stage's list of items is made anew when the code that makes it changes, however that code is wrapped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hybrid.execution.item_keys import identity_of
from hybrid.plugins.faults import CheckedItems
from hybrid.protocols import Stage
from hybrid.records import Item
from hybrid.work import Ask

CODE = """
class Maker:
    def items(self, tasks):
        return []

    def __call__(self, tasks):
        return []

def items(tasks, limit=0):
    return []
"""
Wrap = Callable[[Any], Callable[..., Any]]


def around(make: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(make)
    def wrapped(*given: Any) -> Any:
        return make(*given)

    return wrapped


WAYS: dict[str, Wrap] = {
    "function": lambda module: module.items,
    "partial": lambda module: partial(module.items, limit=1),
    "partial of a partial": lambda module: partial(partial(module.items, limit=1), limit=2),
    "bound method": lambda module: module.Maker().items,
    "object": lambda module: module.Maker(),
    "partial of a method": lambda module: partial(module.Maker().items),
    "wrapped partial": lambda module: around(partial(module.items)),
    "a function that is handed over": lambda module: partial(map, module.items),
    "guarded": lambda module: CheckedItems(None, "answer", partial(module.items), (Item,)),  # type: ignore[arg-type]
}


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    path = tmp_path / "makes_items.py"
    path.write_text(CODE)
    made = ModuleType("makes_items")
    made.__file__ = str(path)
    sys.modules["makes_items"] = made
    exec(CODE, made.__dict__)  # noqa: S102 - our own text
    yield made
    del sys.modules["makes_items"]


@pytest.mark.parametrize("way", WAYS)
def test_a_change_of_the_code_makes_the_list_anew(module: ModuleType, way: str) -> None:
    stage = Stage("answer", "gpu", 1, Ask(WAYS[way](module)))
    before = identity_of(stage, "m", "")
    assert identity_of(Stage("answer", "gpu", 1, Ask(WAYS[way](module))), "m", "") == before
    Path(str(module.__file__)).write_text(CODE + "# changed\n")
    assert identity_of(stage, "m", "") != before


def test_what_wraps_itself_ends(module: ModuleType) -> None:
    module.items.__wrapped__ = module.items
    assert identity_of(Stage("answer", "gpu", 1, Ask(module.items)), "m", "")
