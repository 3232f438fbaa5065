from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid import settings
from hybrid.bounds import SHARE, Bounds, refuse_each_outside, refuse_outside
from hybrid.errors import BadData, HybridError, UsageError
from hybrid.plugins.installed import PluginKind, load, names
from pipelines.branch.settings import BranchSettings


@dataclass(frozen=True)
class Example:
    """An example."""

    name: str = field(default="a", metadata={"help": "what it is called"})
    count: int = 1
    share: float = 0.0
    fast: bool = False
    style: Literal["plain", "fancy"] = "plain"
    level: Literal[1, 2] = 1
    words: tuple[str, ...] = ()
    sizes: tuple[int, ...] | None = None
    limit: int | None = None

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"big": {"count": 100, "words": ("x", "y"), "share": 1}}

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count is not below 0")


@dataclass(frozen=True)
class Needy:
    """Needs a path."""

    path: str


def test_texts_become_the_declared_types() -> None:
    made = settings.build(
        Example,
        [
            "name=b=c",
            "count=7",
            "share=0.5",
            "fast=yes",
            "style=fancy",
            "level=2",
            "words=p, q",
            "sizes=1,2",
            "limit=3",
        ],
    )
    expected = Example("b=c", 7, 0.5, True, "fancy", 2, ("p", "q"), (1, 2), 3)
    assert expected == made


def test_none_and_nothing_are_told_apart() -> None:
    assert settings.build(Example, ["limit=none", "sizes=none"]) == Example()
    assert settings.build(Example, ["sizes=", "words="]) == Example(sizes=(), words=())
    assert settings.build(Example, ["name="]).name == ""


def test_what_is_typed_goes_on_top_of_a_preset() -> None:
    made = settings.build(Example, ["count=5"], preset="big")
    assert Example(count=5, words=("x", "y"), share=1.0) == made
    assert isinstance(made.share, float)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("count=many", "setting 'count': 'many' is not a whole number"),
        ("count=1.5", "setting 'count': '1.5' is not a whole number"),
        ("share=nan", "setting 'share': 'nan' is not a number"),
        ("share=inf", "setting 'share': 'inf' is not a number"),
        ("fast=perhaps", "setting 'fast': 'perhaps' is not true or false"),
        ("style=fanci", "setting 'style': 'fanci' is not one of plain, fancy"),
        ("sizes=1,b", "setting 'sizes': 'b' is not a whole number"),
        ("limit=few", "setting 'limit': 'few' is not a whole number or none"),
        ("coutn=1", "Example has no setting 'coutn'"),
        ("count", "a setting is written name=value, got 'count'"),
        ("count=-1", "Example: count is not below 0"),
    ],
)
def test_a_wrong_text_is_named_with_what_is_wanted(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings.build(Example, [text])
    assert said == caught.value.message
    assert caught.value.hint


def test_misspelt_names_get_the_nearest() -> None:
    for values, preset, hint in [(["coutn=1"], "", "'count'"), (["style=fanci"], "", "'fancy'"), ([], "bgi", "'big'")]:
        with pytest.raises(UsageError) as caught:
            settings.build(Example, values, preset)
        assert f"did you mean {hint}?" in caught.value.hint


def test_a_setting_without_a_default_is_asked_for() -> None:
    with pytest.raises(UsageError, match="Needy needs the setting 'path'"):
        settings.build(Needy)
    assert settings.build(Needy, ["path=/x"]) == Needy("/x")
    assert settings.describe(Needy)[0].required


def test_frozen_settings_come_back_the_same_through_json() -> None:
    made = settings.build(Example, ["words=a,b", "sizes=1", "limit=none"], preset="big")
    assert made == settings.restore(Example, json.loads(json.dumps(settings.freeze(made))))


def test_an_int_in_a_float_field_freezes_as_a_float() -> None:
    frozen = settings.freeze(Example(share=1))
    assert json.dumps(frozen["share"]) == "1.0"


@pytest.mark.parametrize(
    "change",
    [
        {"count": "1"},
        {"count": 1.5},
        {"count": True},
        {"fast": 1},
        {"name": None},
        {"style": "other"},
        {"words": "abc"},
        {"words": ["a", 1]},
        {"share": "0.5"},
        {"extra": 1},
        {"__class__": "x"},
        {"count": -1},
    ],
)
def test_changed_frozen_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadData):
        settings.restore(Example, {**settings.freeze(Example()), **change})


def test_frozen_settings_with_one_missing_are_refused() -> None:
    frozen = settings.freeze(Example())
    del frozen["count"]
    with pytest.raises(BadData) as caught:
        settings.restore(Example, frozen)
    assert "another version" in caught.value.hint


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(json_values | st.fixed_dictionaries(dict.fromkeys(settings.freeze(Example()), json_values)))
def test_no_stored_value_gets_past_restore_with_another_type(frozen: Any) -> None:
    try:
        made = settings.restore(Example, frozen)
    except BadData:
        return
    assert made == settings.restore(Example, settings.freeze(made))


@given(st.text(max_size=30))
def test_no_text_breaks_build(text: str) -> None:
    try:
        settings.freeze(settings.build(Example, [text]))
    except HybridError:
        return


def test_a_default_is_told_as_it_is_typed() -> None:
    assert [settings._typed(one) for one in ([8], ["8-0", "4-4"], 0.5, True, None, "a", "", [])] == [
        "8", "8-0,4-4", "0.5", "true", "none", "a", "empty", "empty",
    ]  # fmt: skip


def test_describe_tells_type_default_and_help() -> None:
    described = {setting.name: setting for setting in settings.describe(Example)}
    assert list(described) == [*settings.freeze(Example())]
    assert described["name"] == settings.Setting("name", "a text", "a", "what it is called")
    assert described["sizes"].type == "a list with commas between, each a whole number or none"
    assert described["words"].default == []


def test_errors_say_the_name_that_people_know() -> None:
    for values, preset in ((["coutn=1"], ""), (["count=-1"], ""), (["count"], ""), ([], "fastt")):
        with pytest.raises(UsageError) as caught:
            settings.build(Example, values, preset, "an-example")
        assert "Example" not in caught.value.message + caught.value.hint
    stored = settings.freeze(Example())
    for wrong, words in (
        ({name: stored[name] for name in stored if name != "count"}, "without count"),
        ({**stored, "depth": 1}, "with the unknown depth"),
        ([], "a list instead of an object"),
    ):
        with pytest.raises(BadData, match=f"do not fit an-example: {words}$"):
            settings.restore(Example, wrong, "an-example")


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "words"),
    [
        (Bounds(0), [0, 1e300], [-1, math.nan, math.inf], "0 or more"),
        (Bounds(0, over=True), [1e-9], [0, -0.0], "over 0"),
        (Bounds(1, 10_000), [1, 10_000], [0, 10_001], "1 to 10,000"),
        (SHARE, [0.001, 1], [0, 1.001, math.nan], "over 0 and at most 1"),
        (Bounds(0, 1, under=True), [0, 0.999], [1], "0 to under 1"),
    ],
)
def test_bounds_hold_and_are_told(bounds: Bounds, inside: list[float], outside: list[float], words: str) -> None:
    assert all(map(bounds.hold, inside))
    assert not any(map(bounds.hold, outside))
    assert str(bounds) == words


@pytest.mark.parametrize(
    ("pipeline", "setting"),
    [("seal-eval", "limit=-1"), ("qa-eval", "top_p=2.0"), ("qa-eval", "shuffle=-1"), ("seal-restem", "rounds=0")],
)
def test_the_one_setting_that_is_out_of_its_bounds_is_named(pipeline: str, setting: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings.build(load("pipelines", pipeline), [setting], called=pipeline)
    assert caught.value.message.startswith(f"{pipeline}: {setting} is not ")


def test_a_value_out_of_range_is_explained_by_its_own_setting_alone() -> None:
    with pytest.raises(UsageError) as wrong:
        settings.build(BranchSettings, ["balance=3"], called="branch")
    assert wrong.value.message == "branch: balance=3.0 is not 0 to 1"
    assert wrong.value.hint.startswith("balance: of quality against difference, 0 to 1")
    assert "novelty" not in wrong.value.hint


@dataclass(frozen=True)
class Bounded:
    """Has bounds, a required setting, and a check that no value of a required setting passes."""

    path: str
    share: float = 0.5
    sizes: tuple[int, ...] = (1,)
    name: str = ""

    def __post_init__(self) -> None:
        refuse_outside(self, share=SHARE)
        refuse_each_outside(self, sizes=Bounds(1, 9))
        raise ValueError("no path is right")


def test_the_ranges_of_settings_are_those_that_their_check_names() -> None:
    assert settings.ranges(Bounded) == {"share": SHARE, "sizes": Bounds(1, 9)}
    assert settings.ranges(Needy) == {}


@dataclass(frozen=True)
class Nested:
    """Makes another object in its check, which has bounds of its own."""

    seed: int = 0
    share: float = 3.0

    def __post_init__(self) -> None:
        refuse_outside(self, seed=Bounds(0))
        Bounded("a", share=0.1)


def test_the_bounds_of_what_a_check_makes_are_no_ranges_of_its_settings() -> None:
    assert settings.ranges(Nested) == {"seed": Bounds(0)}


def near(bounds: Bounds) -> list[float]:
    """The ends of an interval, and what is outside of it."""
    return [bounds.low - 1, bounds.low, bounds.high, bounds.high + 1]


def refusal(cls: type[Any], setting: str, value: float) -> str:
    """Why a class does not take this value of one setting, the others as they are by default; "" if it does."""
    listed = isinstance(getattr(cls(), setting), tuple)
    try:
        cls(**{setting: (value,) if listed else value})
    except (ValueError, HybridError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["pipelines", "graders"])
def test_every_range_that_is_shown_is_the_one_that_is_held(kind: PluginKind) -> None:
    for loaded in map(partial(load, kind), names(kind)):
        shown = settings.ranges(loaded)
        held = {
            (name, value): refusal(loaded, name, value) == f"{name}={value} is not {bounds}"
            for name, bounds in shown.items()
            for value in near(bounds)
        }
        assert held == {(name, value): not shown[name].hold(value) for name, value in held}


@pytest.mark.parametrize("setting", ["policy_rank=0", "policy_epochs=1001", "policy_alpha=0.0", "policy_batch=0"])
def test_a_setting_that_becomes_one_of_a_tuning_is_named_as_it_is_set(setting: str) -> None:
    for pipeline in ("seal-restem", "seal-knowledge"):
        with pytest.raises(UsageError, match=f"^{pipeline}: {setting} is not "):
            settings.build(load("pipelines", pipeline), [setting], called=pipeline)


def test_every_number_of_seal_has_a_range() -> None:
    for pipeline in (name for name in names("pipelines") if name.startswith("seal-")):
        loaded = load("pipelines", pipeline)
        numbers = {one.name for one in settings.describe(loaded) if "number" in one.type}
        assert numbers == settings.ranges(loaded).keys()
