"""Runs of `seal-knowledge` with a real model: everything is trained and asked, and nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.folder.medium import Disk
from hybrid.folder.runs import open_run
from tests.support.in_process import Hybrid
from tests.support.knowledge_runs import judge, passages, settings, told

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of themselves
LONG = {"title": "Long", "context": "word " * 80, "questions": [{"question": "Which?", "answer": "word"}]}


def local(hybrid: Hybrid, place: Path, model: Path, data: Path, **other: Any) -> tuple[int, list[dict[str, Any]]]:
    calls = place / "calls"
    done = hybrid(
        "run", "local", "seal-knowledge", *settings(data, **other), "--backend=transformers", f"--model={model}",
        f"--model=judge={judge(place)}", "--backend=judge=scripted", f"--backend-option=judge=calls={calls}",
        "--folder", place / "folder", "-o", place / "o.json",
    )  # fmt: skip
    assert done.code in (0, 3), done.stderr
    return done.code, json.loads((place / "o.json").read_text())["records"]


@pytest.mark.slow
def test_a_run_writes_trains_judges_and_trains_its_writer(tiny_llama: Path, tmp_path: Path, hybrid: Hybrid) -> None:
    code, records = local(hybrid, tmp_path, tiny_llama, passages(tmp_path), trainings=2)
    assert code == 0
    arms = [(one["view"]["split"], one["view"]["arm"]) for one in records]
    assert sorted(set(arms)) == [
        ("eval", "base"), ("eval", "passage"), ("eval", "round-0"), ("eval", "round-1"),
        ("train", "base"), ("train", "round-0"),
    ]  # fmt: skip
    steps = [one["view"]["trained"]["steps"] for one in records if one["view"]["arm"] != "base"]
    assert all(steps), "each of these arms learned something"
    assert {one["view"].get("training", 0) for one in records if one["view"]["arm"] == "round-0"} == {0, 1}
    run = open_run(Disk(tmp_path / "folder"), "seal-knowledge")
    (policy,) = [one for _, shard in run.shards("policy-1", []) for one in shard.records]
    assert len(json.loads(policy["text"])["adapter"]) == 64
    judged = [one for name in stages(run, "judged-") for _, shard in run.shards(name, []) for one in shard.records]
    calls = (tmp_path / "calls").read_text().split()
    assert len(calls) == len(judged) == len({one["view"]["row"] for one in judged}), "a verdict for each row, once"
    graded = hybrid("grade", tmp_path / "o.json", "--json")
    assert graded.code == 0, graded.stderr
    again, same = local(hybrid, tmp_path, tiny_llama, passages(tmp_path), trainings=2)
    assert (again, told(same)) == (0, told(records))
    assert (tmp_path / "calls").read_text().split() == calls, "nothing is asked again"


@pytest.mark.slow
def test_what_does_not_fit_the_context_is_named_and_counted(tiny_llama: Path, tmp_path: Path, hybrid: Hybrid) -> None:
    data = passages(tmp_path, LONG, count=2)
    code, records = local(hybrid, tmp_path, tiny_llama, data, eval_passages=0, passages=3, groups=1)
    assert code == 3
    long = [one for one in records if one["task"].startswith("long-")]
    assert {one["error"]["kind"] for one in long if one["view"]["arm"] == "round-0"} == {"not-written"}
    assert {one["error"] for one in records if not one["task"].startswith("long-")} == {None}
    run = open_run(Disk(tmp_path / "folder"), "seal-knowledge")
    assert [one for _, shard in run.shards("policy-1", []) for one in shard.records], "the others are rewarded"


def stages(run: Any, begins: str) -> list[str]:
    return [one.name for one in run.folder.entries(run.place) if one.name.startswith(begins)]
