"""The metrics of a round as the text of a record."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from hybrid.commands.grade import _measures
from hybrid.metrics import Measured, RoundMetrics


def test_metrics_of_any_unit_come_back_from_their_text() -> None:
    found = RoundMetrics(3, {"loss": -2.5e-7, "steps": 10**12, "nothing": 0}, {"node-3": {"loss": 1e9}})
    assert RoundMetrics.from_text(found.to_text()) == found
    assert RoundMetrics.from_text('{"round":0,"metrics":{},"state":"of a later version"}') == RoundMetrics(0)


@pytest.mark.parametrize(
    "text",
    [
        "", "[1]", "3", '{"round":1}', '{"metrics":{}}', '{"round":-1,"metrics":{}}', '{"round":1.0,"metrics":{}}',
        '{"round":true,"metrics":{}}', '{"round":1,"metrics":[]}', '{"round":1,"metrics":{"a":"1"}}',
        '{"round":1,"metrics":{"a":true}}', '{"round":1,"metrics":{"a":null}}', '{"round":1,"metrics":{"a":1e101}}',
        '{"round":1,"metrics":{"a":NaN}}', '{"round":1,"metrics":{"a":1e999}}', '{"round":1,"metrics":{"":1}}',
        '{"round":1,"metrics":{},"groups":{"x":1}}', '{"round":1,"metrics":{},"groups":[]}',
        '{"round":1,"metrics":{"%s":1}}' % ("n" * 101),
        '{"round":1,"metrics":' + "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_metrics_is_refused_whoever_wrote_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        RoundMetrics.from_text(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e200, True])
def test_a_metric_that_is_no_finite_number_is_refused_when_it_is_made(value: float) -> None:
    with pytest.raises(ValueError, match="loss"):
        RoundMetrics(0, {"loss": value})


@pytest.mark.parametrize(
    ("value", "interval", "control", "better", "said"),
    [
        (3.0, (2.8, 3.2), (2.0, (1.8, 2.2)), "higher", "better"),
        (2.0, (1.8, 2.2), (3.0, (2.8, 3.2)), "higher", "worse"),
        (3.0, (2.8, 3.2), (2.0, (1.8, 2.2)), "lower", "worse"),
        (2.0, (1.8, 2.2), (3.0, (2.8, 3.2)), "lower", "better"),
        (3.0, (2.8, 3.2), (2.0, (1.8, 2.2)), "", "above"),
        (3.0, (2.2, 3.8), (2.0, (1.2, 2.8)), "higher", "not told apart"),  # 1.0 apart, 1.13 to be told
        (3.0, (2.4, 3.8), (2.0, (1.2, 2.7)), "higher", "better"),  # intervals overlap, and 1.0 is over 0.92
        (3.0, None, (2.0, (1.8, 2.2)), "higher", "not tested"),  # one seed
        (3.0, (2.8, 3.2), (2.0, None), "higher", "not tested"),
        (3.0, (3.0, 3.0), (2.0, (2.0, 2.0)), "lower", "worse"),  # bytes: nothing is left to chance
        (3.0, (3.0, 3.0), (3.0, (3.0, 3.0)), "lower", "equal"),
        (0.7, (0.6, 0.8), (0.5, (0.5, 0.5)), "higher", "better"),
        (0.7, (0.6, 0.8), (None, None), "higher", ""),
    ],
)
def test_a_figure_is_told_apart_from_its_control_by_the_interval_of_the_difference(
    value: float, interval: Any, control: Any, better: str, said: str
) -> None:
    assert Measured("a", "figure", value, 9, interval, *control, "chance", better).standing == said


def test_a_direction_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="neither higher nor lower"):
        Measured("a", "figure", 1.0, 9, better="up")


@pytest.mark.parametrize(("controls", "named"), [(("plain", "plain"), False), (("local", "majority"), True)])
def test_the_table_of_a_grade_names_the_controls_where_they_differ(controls: tuple[str, str], named: bool) -> None:
    rows = [Measured("a", f"figure {one}", 0.5, 3, control=0.25, against=one) for one in controls]
    screen = io.StringIO()
    Console(file=screen, width=200).print(_measures([one.to_json() for one in rows], framed=False))
    assert ("control is" in screen.getvalue()) == named
    assert all((one in screen.getvalue().replace(f"figure {one}", "")) == named for one in controls)


def test_notes_of_a_round_are_in_its_text_and_costs_are_not() -> None:
    made = RoundMetrics(3, {"loss": 1.0}, notes={"node-0": ["a", "b"]}, costs={"": {"seconds": 2.5}})
    read = RoundMetrics.from_text(made.to_text())
    assert read == made
    assert read.notes == {"node-0": ["a", "b"]}
    assert not read.costs
    assert "notes" not in RoundMetrics(3, {"loss": 1.0}).to_text()
