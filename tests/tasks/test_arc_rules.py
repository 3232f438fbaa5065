"""The drawn suite: its rules are what they say, and it is the same everywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.errors import UsageError
from hybrid.tasks.arc.data import RULES, bundled, rules
from hybrid.tasks.arc.grid import Grid, grid_of
from hybrid.tasks.arc.random_state import RandomState
from hybrid.tasks.arc.rules import DEMONSTRATIONS, FAMILIES, SIZES, TESTS, suite
from hybrid.tasks.arc.views import TRANSFORMS
from tests.support.hash_seeds import printed_by_hash_seed

SIDES = st.integers(1, 5)
SEEDS = st.integers(0, 2**32 - 1)
DIGEST = "438aca04736979570f2b5679a0d14003804c5a7e2f4fc00d9244435b20f011cc"


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    height, width = draw(SIDES), draw(SIDES)
    row = st.lists(st.integers(1, 9), min_size=width, max_size=width).map(tuple)
    return tuple(draw(st.lists(row, min_size=height, max_size=height)))


def applied(family: str, grid: Grid, seed: int = 0) -> Grid:
    return FAMILIES[family](RandomState(seed))(grid)


@given(grids(), SEEDS)
def test_every_rule_gives_a_grid_of_a_size_that_follows_from_the_inputs(grid: Grid, seed: int) -> None:
    height, width = len(grid), len(grid[0])
    grown = {"stack": (2 * height, width), "reflect": (2 * height, width), "double": (height, 2 * width)}
    for name in FAMILIES:
        output = applied(name, grid, seed)
        assert grid_of(output) == output
        assert (len(output), len(output[0])) == grown.get(name, (height, width))


@given(grids())
def test_rules_of_places_move_cells_as_they_say(grid: Grid) -> None:
    height, width = len(grid), len(grid[0])
    places: dict[str, Callable[[int, int], tuple[int, int]]] = {
        "flip": lambda y, _x: (height - 1 - y, _x),
        "top": lambda _y, x: (0, x),
        "bottom": lambda _y, x: (height - 1, x),
        "stack": lambda y, x: (y % height, x),
        "reflect": lambda y, x: (y if y < height else 2 * height - 1 - y, x),
        "spread": lambda y, _x: (y, 0),
        "double": lambda y, x: (y, x % width),
    }
    assert set(places) | {"floor", "wall", "recolour"} == set(FAMILIES)
    for name, place in places.items():
        for y, row in enumerate(applied(name, grid)):
            for x, cell in enumerate(row):
                source = place(y, x)
                assert cell == grid[source[0]][source[1]], name


@given(grids(), grids(), SEEDS)
def test_the_floor_and_the_wall_have_one_colour_in_a_task_and_the_rest_stays(a: Grid, b: Grid, seed: int) -> None:
    floors = [applied("floor", grid, seed) for grid in (a, b)]
    assert len({cell for floor in floors for cell in floor[-1]}) == 1
    assert [floor[:-1] for floor in floors] == [a[:-1], b[:-1]]
    walls = [applied("wall", grid, seed) for grid in (a, b)]
    assert len({row[0] for wall in walls for row in wall}) == 1
    assert [tuple(row[1:] for row in wall) for wall in walls] == [tuple(row[1:] for row in grid) for grid in (a, b)]


@given(SEEDS)
def test_recolouring_changes_one_colour_into_one_other(seed: int) -> None:
    after = applied("recolour", (tuple(range(10)),), seed)[0]
    changed = [(old, new) for old, new in enumerate(after) if old != new]
    assert len(changed) == 1
    assert 0 not in changed[0]


def test_flip_is_the_view_of_that_kind() -> None:
    assert applied("flip", ((1, 2), (3, 4), (5, 6))) == TRANSFORMS["flip0"](((1, 2), (3, 4), (5, 6)))


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_all_grids_of_a_task_differ_and_its_rule_changes_each_of_them(seed: int) -> None:
    for id, task in suite(seed, 3).items():
        pairs = [*task["train"], *task["test"]]
        assert (len(task["train"]), len(task["test"])) == (DEMONSTRATIONS, TESTS)
        assert len({str(pair["input"]) for pair in pairs}) == len(pairs), id
        assert all(pair["input"] != pair["output"] for pair in pairs), id
        assert {(len(pair["input"]), len(pair["input"][0])) for pair in pairs} == {SIZES[int(id[-1]) % len(SIZES)]}
        assert not any(0 in row for pair in pairs for row in pair["input"])


def test_the_outputs_of_a_task_are_those_of_one_rule() -> None:
    drawn = {name: [draw(RandomState(seed)) for seed in range(400)] for name, draw in FAMILIES.items()}
    for id, task in suite(5, 2).items():
        pairs = [
            (tuple(map(tuple, pair["input"])), tuple(map(tuple, pair["output"])))
            for pair in [*task["train"], *task["test"]]
        ]
        assert any(all(rule(given) == wanted for given, wanted in pairs) for rule in drawn[id.split("-")[0]]), id


def test_a_task_does_not_depend_on_how_many_there_are_and_does_on_the_seed() -> None:
    few, many, other = suite(3, 1), suite(3, 4), suite(4, 4)
    assert all(many[id] == task for id, task in few.items())
    assert all(many[id] != other[id] for id in many)
    assert list(many) == sorted(many)


def test_every_process_draws_the_same_suite() -> None:
    code = "import json; from hybrid.tasks.arc.rules import suite; print(json.dumps(suite(9, 2)))"
    printed = printed_by_hash_seed(code, "0", "1")
    assert printed == {json.dumps(suite(9, 2)) + "\n"}


def test_the_suite_of_this_version_stays_as_it_is() -> None:
    """Records name tasks by id: other grids under the same id need another VERSION."""
    assert hashlib.sha256(json.dumps(suite(), sort_keys=True).encode()).hexdigest() == DIGEST


def test_a_suite_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        suite(0, 0)


def test_as_a_data_set_it_holds_no_test_output_and_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    data = bundled(RULES)
    whole: dict[str, Any] = suite()
    assert data == rules(0, 2)
    assert list(data.tasks) == list(whole)
    assert all(set(test) == {"input"} for task in data.tasks.values() for test in task["test"])
    assert data.truths == {
        f"{id}/{i}": pair["output"] for id, task in whole.items() for i, pair in enumerate(task["test"])
    }
    assert all(len(data.tasks[id]["train"]) == DEMONSTRATIONS for id in whole)


def test_a_near_name_is_told() -> None:
    with pytest.raises(UsageError) as error:
        bundled("rule")
    assert "did you mean 'rules'?" in error.value.hint
