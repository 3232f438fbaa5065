"""The arms of a comparison, and settings that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid.errors import UsageError
from hybrid.settings import build
from pipelines.sapo.arms import Arm, arm_of
from pipelines.sapo.settings import SapoSettings


@pytest.mark.parametrize("name", ["8-0", "1-7", "4-4", "filter-only-6-2", "equal-compute-2-6"])
def test_a_name_is_that_of_its_arm(name: str) -> None:
    assert arm_of(name).name == name


@pytest.mark.parametrize(
    "name", ["0-0", "0-4", "4", "4-4-4", "-1-4", "04-4", "99-1", "filter-only-8-0", "best-4-4", "4-4\n"]
)
def test_what_is_no_arm_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="arm"):
        arm_of(name)


def test_controls_take_nothing_of_others() -> None:
    assert (Arm(4, 4).shared, Arm(4, 4).repeated) == (4, 0)
    assert (Arm(4, 4, "filter-only").shared, Arm(4, 4, "filter-only").repeated) == (0, 4)
    assert (Arm(4, 4, "equal-compute").shared, Arm(4, 4, "equal-compute").repeated) == (0, 0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"arms": ()}, "arms is empty"),
        ({"arms": ("4-4", "4-4")}, "twice"),
        ({"arms": ("0-0",)}, "nothing to train on"),
        ({"nodes": 1}, "nodes=1"),
        ({"arms": ("filter-only-4-4",)}, "max_age"),
        ({"arms": ("8-0",), "exchange": "folder", "deadline": 60.0}, "none waits"),
        ({"clip_low": 0.1}, "updates=1"),
        ({"barrier": "async"}, "exchange=folder"),
        ({"arms": ("4-4",), "exchange": "folder", "barrier": "async", "quorum": 0.5}, "barrier is async"),
        ({"arms": ("8-0",), "foreign_ids": True}, "foreign_ids"),
        ({"importance_cap": 2.0}, "foreign_ids"),
        ({"deadline": 60.0}, "deadline is for exchange=folder"),
        (
            {"arms": ("4-4",), "exchange": "folder", "barrier": "async", "deadline": 60.0},
            "barrier=async waits for none",
        ),
        ({"arms": ("4-4",), "exchange": "folder", "publish_every": 5}, "publish_every is for exchange=memory"),
        ({"arms": ("8-0",), "shortfall": "own"}, "shortfall is for arms that share"),
        ({"arms": ("8-0",), "max_age": 3}, "max_age is for arms that take"),
        ({"arms": ("equal-compute-4-4",), "foreign": "first"}, "foreign is for arms that take"),
        ({"rank": 0, "targets": ("q_proj",)}, "targets is of adapters"),
        ({"group": 1}, "group=1"),
        ({"temperature": 0.0}, "temperature"),
        ({"seeds": (-1,)}, "seeds=-1"),
    ],
)
def test_settings_that_cannot_be_or_would_do_nothing_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SapoSettings(**wrong)


@pytest.mark.parametrize("wrong", [["arms=5"], ["arms=0-8"], ["nodes=1"], ["clip_low=0.1"], ["barrier=async"]])
def test_a_refused_setting_is_explained_not_all_of_them(wrong: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        build(SapoSettings, wrong, called="sapo")
    assert caught.value.hint.partition(":")[0] in ("arms", "clip_low", "barrier")
    assert "; the default is" in caught.value.hint
