"""The metrics of a round as the text of a record."""

from __future__ import annotations

import pytest

from hybrid.metrics import RoundMetrics


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
