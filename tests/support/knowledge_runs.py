"""Small runs of `seal-knowledge` on a random model of two layers, with a judge that is a script or a real server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

VERDICT = {"reason": "r", "correct": True}
SMALL = {
    "rounds": 1,
    "passages": 2,
    "eval_passages": 1,
    "shuffle": 0,
    "groups": 2,
    "completions": 2,
    "controls": "base,passage",
    "format": "plain",
    "prompt": "{passage}\n",
    "instruction": "Q.",
    "write_tokens": 12,
    "max_tokens": 6,
    "epochs": 1,
    "rank": 2,
    "alpha": 8.0,
    "learning_rate": 0.05,
    "policy_rank": 2,
    "policy_alpha": 8.0,
    "select": "published",
}


def passages(place: Path, *more: Mapping[str, Any], count: int = 3) -> Path:
    """A file of passages of a few words, and `more`."""
    made = [
        {"title": f"T{n}", "context": f"Text {n}.", "questions": [{"question": f"Which {n}?", "answer": f"number {n}"}]}
        for n in range(count)
    ]
    file = place / "passages.json"
    file.write_text(json.dumps([*made, *more]))
    return file


def settings(data: Path, **other: Any) -> list[str]:
    """The options of a command that set them."""
    given = {**SMALL, "data": str(data), **other}
    return [f"--set={name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]


def judge(place: Path, answers: Mapping[str, str] | None = None) -> Path:
    """A script of a judge that calls right what it has no `answers` for."""
    script = {"answers": dict(answers or {}), "default": json.dumps(VERDICT)}
    file = place / "judge.json"
    file.write_text(json.dumps(script))
    return file


def told(records: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """What has to be equal of two runs: answers and verdicts, or why there are none."""
    return sorted(
        (one["question"], one["text"] or "", json.dumps(one["view"], sort_keys=True), json.dumps(one["error"]))
        for one in records
    )
