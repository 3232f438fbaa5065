"""Scenarios: those that come with hybrid, and what is refused in one's own, each with the key and what to do."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import BadData, HybridError, UsageError
from hybrid.settings import build
from pipelines.branch.pipeline import Branch
from pipelines.branch.scenario import FOLDER, SHIPPED, from_task, load

OWN = """
title = "Mine"
brief = "A story about a bakery."
candidates = 3
keep = 2

[weights]
relevance = 1

[facets]
tone = ["dry"]

[[level]]
name = "opening"
ask = "Write the first sentence."
"""


def test_the_scenarios_of_the_guide_come_with_hybrid_and_grow_from_a_premise_to_an_ending() -> None:
    assert SHIPPED == ("demo", "mars", "memory", "romcom", "styles")
    for name in SHIPPED:
        scenario = load(name)
        twist = [] if name == "demo" else ["twist"]
        assert [level.name for level in scenario.levels] == ["premise", "opening", *twist, "ending"]
        assert from_task(scenario.to_json(), name) == scenario


def test_a_file_of_ones_own_is_a_scenario(tmp_path: Path) -> None:
    file = tmp_path / "My bakery.toml"
    file.write_text(OWN)
    (task,) = Branch(scenario=(str(file),), temperature=0.7).inputs().tasks.values()
    scenario = from_task(task, "my-bakery")
    assert (scenario.name, scenario.temperature, scenario.candidates) == ("my-bakery", 0.7, 3)


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("title", "titel", "no key is called 'titel'", "did you mean 'title'?"),
        ("ask =", "aks =", "level 1: no key is called 'aks'", "did you mean 'ask'?"),
        ('ask = "Write the first sentence."', "", "level 1: the key 'ask' is missing", "docs/branch.md"),
        ("relevance = 1", "relevence = 1", "weights has no 'relevence'", "did you mean 'relevance'?"),
        ("relevance = 1", "novelty = 1", "weights has no 'novelty'", "known: constraints"),
        ("relevance = 1", "relevance = -1", "the weight of 'relevance' is -1, not 0 or more", ""),
        ("relevance = 1", "relevance = nan", "the weight of 'relevance' is nan", ""),
        ("relevance = 1", "relevance = 0", "no weight is over 0", "[weights]"),
        ("relevance = 1", "judge = 1", "no weight is over 0", "[weights]"),
        ("tone", "tune", "facets has no 'tune'", "did you mean 'tone'?"),
        ('["dry"]', '"dry"', "facets.tone is not a list of texts", ""),
        ('"A story about a bakery."', '" "', "the brief is empty", ""),
        ('"Write the first sentence."', '""', "the ask of 'opening' is empty", ""),
        ("keep = 2", "keep = 4", "keep=4 of candidates=3: more than there are", "raise candidates"),
        ("keep = 2", "keep = 0", "keep=0 is not 1 to 1,000", ""),
        ("keep = 2", 'keep = "2"', "keep is '2', not a whole number", ""),
        ("keep = 2", "keep = true", "keep is True, not a whole number", ""),
        ("keep = 2", "keep = 2\ntop_p = 1.5", "top_p=1.5 is not over 0 and at most 1", ""),
        ("keep = 2", "keep = 2\nboilerplate = ['(a+)+$']", "boilerplate", "begin it with ^"),
        ("keep = 2", "keep = 2\nboilerplate = ['(']", "not a regular expression", "for a bracket itself"),
        ("keep = 2", 'keep = 2\nname = "A B"', "it is made of a-z, 0-9 and -", ""),
        ("[[level]]", "[[lvel]]", "it has no levels", "[[level]]"),
        ("keep = 2", "keep = ", "not TOML", ""),
    ],
)
def test_what_is_wrong_in_a_scenario_is_named(tmp_path: Path, old: str, new: str, message: str, hint: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(OWN.replace(old, new, 1))
    with pytest.raises(UsageError) as wrong:
        Branch(scenario=(str(file),)).inputs()
    assert message in wrong.value.message
    assert "mine" in wrong.value.message
    assert hint in wrong.value.hint


@pytest.mark.parametrize(
    ("settings", "message", "hint", "kind"),
    [
        ({"scenario": ("marz",)}, "there is no scenario 'marz'", "did you mean 'mars'?", UsageError),
        ({"scenario": ("nowhere.toml",)}, "nowhere.toml: No such file", "name a file", UsageError),
        ({"candidates": 2, "keep": 3}, "keep=3 of candidates=2", "--set candidates=3", UsageError),
        ({"keep": 9}, "keep=9 of candidates=3", "", UsageError),
        ({"temperature": 0.0}, "all answers are the same at temperature 0", "strategy=facets", UsageError),
        ({"temperature": 0.0, "strategy": ("facets",)}, "plain samples of the control", "control=false", UsageError),
    ],
)
def test_impossible_settings_are_named(
    settings: dict[str, Any], message: str, hint: str, kind: type[HybridError]
) -> None:
    with pytest.raises(kind) as wrong:
        Branch(**settings).inputs()
    assert message in wrong.value.message
    assert hint in wrong.value.hint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("scenario=mars,mars", "scenario names 'mars' twice"),
        ("strategy=iid,facets,iid", "strategy names 'iid' twice"),
        ("scenario=", "scenario is empty"),
    ],
)
def test_what_is_named_twice_or_not_at_all_is_told_with_what_that_setting_means(given: str, message: str) -> None:
    with pytest.raises(UsageError) as wrong:
        build(Branch, [given], called="branch")
    assert message in wrong.value.message
    assert wrong.value.hint.startswith(f"{given.partition('=')[0]}: ")


def test_without_a_control_facets_may_be_asked_at_temperature_0() -> None:
    assert Branch(temperature=0.0, strategy=("facets",), control=False).inputs().tasks


def test_a_task_of_a_run_that_is_no_scenario_is_refused() -> None:
    for task in (None, 3, {}, {"name": "x", "levels": [{"name": 1}]}, {"name": "x", "levels": 3, "brief": ""}):
        with pytest.raises(BadData, match="not a scenario"):
            from_task(task, "x")


def test_no_shipped_scenario_tells_the_user_to_write_a_list() -> None:
    for file in FOLDER.glob("*.toml"):
        assert set(tomllib.loads(file.read_text())) >= {"title", "brief", "system", "weights", "facets", "level"}
