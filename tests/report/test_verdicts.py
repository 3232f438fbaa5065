"""What judges said, as lines below an answer, whatever a grades file holds there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.report.verdicts import MOST, judged

NAMES = ["by", "criteria", "pairs", "verdicts", "said", "problem", "reason", "arms", "winner", "better", "name"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["criteria", "pairs", "verdicts"]), JSON))
def test_no_detail_of_a_file_breaks_the_page(detail: dict[str, Any]) -> None:
    assert judged({**detail, "by": "somebody"}, 100)
    assert judged(detail, 100) == ()


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        ({"said": True, "reason": "so"}, "polite: yes (so)"),
        ({"said": False}, "polite: no"),
        ({"said": 1}, "polite: 1"),
        ({"problem": "cut"}, "polite: no verdict (cut)"),
    ],
)
def test_a_mark_of_one_is_not_a_yes(verdict: dict[str, Any], line: str) -> None:
    detail = {"by": "criteria", "criteria": [{"name": "polite", "verdicts": [verdict]}]}
    assert f"<dd>{line}</dd>" in "".join(judged(detail, 100))


def test_many_verdicts_are_bounded() -> None:
    assert len(judged({"by": "verdict", "verdicts": [{"correct": True}] * 1000}, 100)) == MOST + 1
