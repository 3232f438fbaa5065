"""Answers from a file: what is no script is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.backends.scripted import ScriptedBackend
from hybrid.errors import BadData
from hybrid.records import Request, Sampling


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([], "not a script"),
        ({"answers": []}, "not a script"),
        ({"answers": {"a": 5}}, "the answer to 'a' is not a text"),
        ({"answers": {"a": None}}, "the answer to 'a' is not a text"),
        ({"answers": {}, "default": 5}, "'default' is not a text"),
        ({"answers": {}, "context": "abc"}, "'context' is not a whole number"),
        ({"answers": {}, "context": True}, "'context' is not a whole number"),
        ({"answers": {}, "context": None}, "'context' is not a whole number"),
        ({"answers": {}, "context": 1e300}, "'context' is not a whole number"),
        ({"answers": {}, "context": -1}, "'context' is not a whole number"),
    ],
)
def test_what_is_no_script_is_refused_by_its_name(tmp_path: Path, script: Any, words: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps(script), encoding="utf-8")
    with pytest.raises(BadData, match=words) as caught:
        ScriptedBackend(str(path), {})
    assert str(path) in caught.value.message


def test_a_script_answers(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"answers": {"a": "b"}, "default": None}), encoding="utf-8")
    backend = ScriptedBackend(str(path), {})
    asked = [Request(Sampling(9), prompt=prompt) for prompt in ("a", "c")]
    assert [done.text for done in backend.generate(asked)] == ["b", None]
    assert backend.model.context == 8192
