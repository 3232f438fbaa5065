"""The training tasks of a task, beside SEAL's way with numpy, and the examples made of them."""

from __future__ import annotations

import functools
import itertools
import json
import statistics
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.errors import BadData
from hybrid.records import Example
from hybrid.tasks.arc.data import bundled, demonstrations
from hybrid.tasks.arc.grid import Grid, grid_of
from hybrid.tasks.arc.random_state import RandomState
from hybrid.tasks.arc.subsets import SUBSETS
from hybrid.tasks.arc.text import FORMATS, parse
from hybrid.tasks.arc.views import Pair
from pipelines.seal.augmentation import GROUPS
from pipelines.seal.examples import AugmentationSettings, of_demonstrations, training_examples
from pipelines.seal.variants import ColourOrder, Variant, recolouring, variants
from tests.support import seal_reference
from tests.support.hash_seeds import printed_by_hash_seed

tasks_of = functools.cache(bundled)


def pairs_of(id: str, dataset: str = "arc1-training") -> list[Pair]:
    return demonstrations(tasks_of(dataset).tasks[id], id)


def plain(count: int) -> list[Pair]:
    """Pairs without any symmetry, so that no two variants look alike by accident."""
    return [(((i, 1, 2), (3, 4, 5)), ((5, i), (6, 7), (8, 9))) for i in range(count)]


def grids_in(variant: Variant) -> list[Grid]:
    return [grid for pair in (*variant.shown, variant.asked) for grid in pair]


def colours_in(variant: Variant) -> set[int]:
    return {cell for grid in grids_in(variant) for row in grid for cell in row}


def as_in_seal(pairs: list[Pair], groups: Any, most: int = 250) -> list[Variant]:
    examples = [(np.array(given), np.array(wanted)) for given, wanted in pairs]
    made = seal_reference.process(examples, groups, lambda task: 1, most=most)
    return [Variant(*seal_reference.plainly(task)) for task in made]  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", [GROUPS, ("basic",), ("size", "chain"), ("repeat",), ()], ids="-".join)
@pytest.mark.parametrize("id", ["44f52bb0", "6150a2bd", "67e8384a", "8e1813be"])
def test_with_the_published_translation_they_are_seals_to_the_last_cell_and_in_its_order(id: str, groups: Any) -> None:
    """The oracle draws with numpy's own generator, and cuts with its shuffle."""
    assert list(variants(pairs_of(id), groups, translation="seal")) == as_in_seal(pairs_of(id), groups)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_without_augmentation_there_are_n_and_n_times_n_minus_1_of_them_and_their_reorderings(count: int) -> None:
    pairs = plain(count)
    made = variants(pairs, (), most=10_000)
    initial = {
        Variant(tuple(pairs[i] for i in range(count) if i not in gone), pairs[asked])
        for n in (1, 2)
        for gone in itertools.permutations(range(count), n)
        for asked in gone[:1]
    }
    assert len(initial) == count + count * (count - 1)
    assert {variant for variant in made if variant in initial} == initial
    assert {Variant(tuple(sorted(v.shown)), v.asked) for v in made} == initial
    assert len(made) <= 2 * len(initial)


def test_all_augmentations_of_four_demonstrations_make_every_candidate() -> None:
    """16 ways to leave out, 23 augmenters and the original, twice; what looks alike is there once."""
    made = variants(plain(4), GROUPS, most=10_000)
    assert 700 < len(made) <= 16 * 24 * 2
    assert len(set(made)) == len(made)
    assert len(variants(plain(4), GROUPS)) == 250


@pytest.mark.slow
def test_the_numbers_of_examples_on_seals_training_tasks_are_those_counted_with_its_code() -> None:
    """Means over the 12 tasks, counted with SEAL's own code: 240 with all groups, 204 with basic, 20 with none."""
    for groups, mean in ((GROUPS, 240), (("basic",), 204), ((), 20)):
        sizes = [len(variants(pairs_of(id), groups, translation="seal")) for id in SUBSETS["seal-train"]]
        assert round(statistics.mean(sizes)) == mean, groups
    assert statistics.median(sizes) == 10
    sizes = [len(variants(pairs_of(id, "arc1-evaluation"), GROUPS)) for id in SUBSETS["seal-eval"]]
    assert round(statistics.mean(sizes)) == 238


def test_an_n_that_cannot_be_left_out_is_passed_over() -> None:
    (only,) = plain(1)
    assert set(variants([only], ())) == {Variant((), only)}
    assert set(variants([only], (), leave_n=[2])) == {Variant((), only)}
    assert {len(v.shown) for v in variants(plain(3), (), leave_n=[2])} == {1}


def test_what_has_a_side_over_30_is_left_out_and_its_original_stays() -> None:
    """16 rows become 32: all that doubles the height is dropped, what doubles the width stays."""
    tall = tuple((i % 10, (i * 3) % 10) for i in range(16))
    made = variants([(tall, tall), (tall[::-1], tall)], GROUPS, colours=False, most=10_000)
    assert max(len(grid) for v in made for grid in grids_in(v)) == 16
    assert {len(grid[0]) for v in made for grid in grids_in(v)} == {2, 4, 16}
    assert Variant(((tall[::-1], tall),), (tall, tall)) in made


def test_nothing_is_there_twice_even_when_turns_look_alike() -> None:
    square: Grid = ((1, 0, 1), (0, 1, 0), (1, 0, 1))
    made = Counter(variants([(square, square)] * 3, ("basic",), leave_n=[1], colours=False, most=10_000))
    assert set(made.values()) == {1}
    assert len(made) == 4  # as it is, reflected up or down, reflected left or right, shifted


@pytest.mark.parametrize("count", [3, 4])
def test_other_grids_of_the_same_cells_are_other_tasks(count: int) -> None:
    """Trap: SEAL's hash of an example ignores its shape."""
    row, column = ((1, 2, 3, 4),), ((1,), (2,), (3,), (4,))
    made = variants([(row, column), (column, row), *plain(count - 2)], (), most=10_000)
    assert Variant(((row, column), *plain(count - 2)), (column, row)) in made
    assert Variant(((column, row), *plain(count - 2)), (row, column)) in made


WALKS = st.sampled_from([list, sorted])


@given(st.lists(st.integers(0, 9)), st.integers(0, 2**32 - 1), WALKS)
def test_new_colours_keep_black_and_join_none_and_take_unused_ones_first(
    cells: list[int], seed: int, in_order: ColourOrder
) -> None:
    """Trap: the permutation goes to unused colours first, and 0 is no colour like the others."""
    used = set(cells)
    table = recolouring(cells, RandomState(seed), in_order)
    new = {colour: table[colour] for colour in used | {0}}
    assert new[0] == 0
    assert len(set(new.values())) == len(new)
    assert all(1 <= value <= 9 for colour, value in new.items() if colour)
    unused = set(range(1, 10)) - used
    if len(unused) >= len(used - {0}):
        assert set(new.values()) - {0} <= unused
    assert table[10:] == bytes(range(256))[10:]


@pytest.mark.parametrize(
    ("cells", "seed", "new"),
    [
        ([8, 1, 2], 0, {8: 7, 1: 3, 2: 6}),
        ([9, 1, 8, 2], 3, {8: 5, 9: 3, 2: 4, 1: 7}),
        ([8, 9, 0, 1], 1, {8: 7, 9: 5, 1: 2}),
        ([1, 2, 3, 4, 5, 6, 7], 5, {1: 5, 2: 8, 7: 3, 3: 7, 6: 4, 4: 6, 5: 1}),
    ],
)
def test_new_colours_are_those_of_the_original(cells: list[int], seed: int, new: dict[int, int]) -> None:
    """Written down from runs of SEAL's own code, whose small sets put 8 and 9 in the places of 0 and 1."""
    table = recolouring(cells, RandomState(seed))
    assert {colour: table[colour] for colour in new} == new


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_new_colours_are_those_of_the_oracle(cells: list[int], seed: int) -> None:
    example = np.array([cells]), np.array([[0]])
    _, (painted, _) = seal_reference.recoloured(((example,), example), np.random.RandomState(seed))
    table = recolouring([*cells, 0, *cells, 0], RandomState(seed))
    assert painted.tolist() == [[table[cell] for cell in cells]]


def test_shifts_put_right_keep_the_examples_and_the_keys_that_they_had() -> None:
    """Only what is asked for as published is walked as published; its recipe says so, since its examples are others."""
    task = tasks_of("arc1-training").tasks["44f52bb0"]
    alike, published = AugmentationSettings(), AugmentationSettings(translation="seal")
    assert "version" not in alike.of("a", task)
    assert "version" not in AugmentationSettings(translation="seal", augmentations=()).of("a", task)
    assert "version" not in AugmentationSettings(translation="seal", colours=False).of("a", task)
    recipe = published.of("a", task)
    assert recipe["version"] == 2
    assert len(training_examples({"a": task}, recipe)) == 250
    with pytest.raises(BadData, match="their rule has changed"):
        training_examples({"a": task}, {name: value for name, value in recipe.items() if name != "version"})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_recoloured_task_is_the_task_in_other_colours_inputs_and_outputs_alike(seed: int) -> None:
    (pair,) = plain(1)
    flat = [cell for grid in pair for row in grid for cell in row]
    for variant in variants([pair], ("basic",), seed, most=10_000):
        cells = [cell for grid in grids_in(variant) for row in grid for cell in row]
        if len(cells) == len(flat) and [len(grid) for grid in grids_in(variant)] == [2, 3]:
            counts = sorted(Counter(cells).values())
            assert counts == sorted(Counter(flat).values())
            assert cells.count(0) == flat.count(0)


def test_colours_stay_without_augmentation_and_when_they_are_switched_off() -> None:
    pair: Pair = (((1, 2), (0, 1)), ((2, 1), (1, 0)))
    other: Pair = (((1, 1), (0, 2)), ((2, 2), (2, 0)))
    for made in (variants([pair, other], ()), variants([pair, other], GROUPS, colours=False)):
        assert {frozenset(colours_in(v)) for v in made} == {frozenset({0, 1, 2})}
    assert len({frozenset(colours_in(v)) for v in variants([pair, other], GROUPS)}) > 5


def test_another_seed_gives_others() -> None:
    first, other = (variants(plain(4), GROUPS, seed) for seed in (0, 1))
    assert first != other
    assert len(first) == len(other) == 250


def test_examples_are_the_same_in_every_process() -> None:
    """Trap: SEAL's items pass through salted hash sets, so its "seed 0" is another list every time."""
    code = (
        "import hashlib\nfrom pipelines.seal.augmentation import GROUPS\nfrom pipelines.seal.examples import *\n"
        "pairs = [(((i, 1, 2), (3, 4, 5)), ((5, i), (6, 7), (8, 9))) for i in range(5)]\n"
        "made = of_demonstrations(pairs, AugmentationSettings(seed=7))\n"
        "print(hashlib.sha256(repr(made).encode()).hexdigest(), len(made))"
    )
    printed = printed_by_hash_seed(code, "0", "1", "4242")
    assert printed == {"9dd12ce96c30cc9da736c6c0054b28af023b8d59a41b021de23d066be9aabeb7 250\n"}


def read_back(example: Example, format: str) -> Variant:
    """What an example shows and asks, read from its texts alone."""
    if format == "compact":
        grids = [parse(message.content, "compact")[0] for message in example.messages[1:]]
    else:
        shown = example.messages[0].content.partition("arrays:\n")[2]
        texts = [text for text in shown.replace(" -> ", "#\n").split("#\n") if text]
        texts += [example.messages[1].content.removesuffix(" -> "), example.messages[2].content]
        grids = [parse(text, "seal")[0] for text in texts]
    assert None not in grids
    pairs = list(zip(grids[::2], grids[1::2], strict=True))
    return Variant(tuple(pairs[:-1]), pairs[-1])  # type: ignore[arg-type]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_an_example_says_its_variant_and_ends_with_the_models_grid(format: str) -> None:
    pairs = pairs_of("44f52bb0")
    examples = of_demonstrations(pairs, AugmentationSettings(format=format))
    assert [read_back(example, format) for example in examples] == list(variants(pairs))
    for example in examples:
        assert example.messages[-1].role == "assistant"
        assert example.messages[-1].content.endswith("#" if format == "seal" else tuple("0123456789"))
        assert [message.role for message in example.messages].count("system") == 1


def test_the_largest_grid_is_written_whole() -> None:
    """Trap: numpy breaks lines of over 75 characters and elides what has over 1,000 cells."""
    grid = tuple(tuple((row + cell) % 10 for cell in range(30)) for row in range(30))
    for format in FORMATS:
        (example,) = of_demonstrations([(grid, grid)], AugmentationSettings((), format=format))
        assert example.messages[-1].content.count("\n") == 29
        assert "..." not in example.messages[-1].content
        assert read_back(example, format) == Variant((), (grid, grid))


def test_an_example_asks_as_a_question_of_the_same_format_does() -> None:
    """What is trained is what is asked afterwards: same instruction, same date."""
    example = of_demonstrations(
        plain(2), AugmentationSettings(format="compact", instruction="Do it.", date="1 Jan 2025")
    )[0]
    assert example.messages[0].content == "Do it."
    assert example.template == {"date_string": "1 Jan 2025"}
    assert of_demonstrations(plain(2), AugmentationSettings())[0].template == {}


def task(truth: Any) -> dict[str, Any]:
    train = [{"input": [[1, 2]], "output": [[2, 1]]}, {"input": [[3, 4]], "output": [[4, 3]]}]
    return {"train": train, "test": [{"input": [[5, 6]], **({"output": truth} if truth else {})}]}


def test_examples_come_from_the_demonstrations_alone() -> None:
    """Trap: a test output must not reach the trainer, nor may a test input change what is trained."""
    tasks = {"t": task(None)}
    named = AugmentationSettings().of("t", tasks["t"])
    examples = training_examples(tasks, named)
    assert examples == of_demonstrations([(((1, 2),), ((2, 1),)), (((3, 4),), ((4, 3),))], AugmentationSettings())
    assert training_examples({"t": task([[9] * 30] * 30)}, named) == examples
    assert training_examples({"t": {"train": tasks["t"]["train"]}}, named) == examples  # not even looked at
    assert AugmentationSettings().of("t", task([[9]])) == named


def test_the_name_of_examples_is_json_and_holds_all_that_shapes_them() -> None:
    tasks = {"t": task(None)}
    augmentation = AugmentationSettings(
        ("chain", "basic"), (2,), 7, colours=False, translation="seal", seed=3, format="compact"
    )
    named = json.loads(json.dumps(augmentation.of("t", tasks["t"])))
    assert named["augmentations"] == ["basic", "chain"]
    expected = of_demonstrations(demonstrations(tasks["t"], "t"), augmentation)
    assert training_examples(tasks, named) == expected
    assert len(expected) == 7
    assert AugmentationSettings(("basic", "chain")).of("t", tasks["t"]) == AugmentationSettings(("chain", "basic")).of(
        "t", tasks["t"]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"task": "u"},
        {"task": None},
        {"task": ["t"]},
        {"demonstrations": ""},
        {"colour": True},
        {"most": "many"},
        {"format": "xml"},
    ],
    ids=str,
)
def test_examples_that_cannot_be_made_are_bad_data(change: dict[str, Any]) -> None:
    tasks = {"t": task(None)}
    with pytest.raises(BadData, match="examples of task"):
        training_examples(tasks, {**AugmentationSettings().of("t", tasks["t"]), **change})


def test_a_task_that_was_changed_by_hand_is_refused() -> None:
    tasks = {"t": task(None)}
    named = AugmentationSettings().of("t", tasks["t"])
    tasks["t"]["train"][0]["input"] = [[7, 7]]
    with pytest.raises(BadData, match="other demonstrations"):
        training_examples(tasks, named)
    tasks["t"]["train"][0]["input"] = "x"
    with pytest.raises(BadData, match="not a grid"):
        training_examples(tasks, AugmentationSettings().of("t", tasks["t"]))
    assert grid_of("x") is None
