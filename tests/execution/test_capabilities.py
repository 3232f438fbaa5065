"""Where the models of runs are on a machine, by what its user said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybrid.errors import CannotRun
from hybrid.execution.capabilities import Machine
from hybrid.folder.in_memory import InMemoryFolder
from hybrid.folder.runs import Run, submit
from hybrid.folder.spec import ModelSpec
from hybrid.plugins.installed import load
from hybrid.protocols import Inputs
from hybrid.settings import build, freeze


def run_of(model: str) -> Run:
    frozen = freeze(build(load("pipelines", "seal-eval"), ["limit=1"]))
    models = {"": ModelSpec("scripted", model, "")}
    return submit(InMemoryFolder(), "seal-eval", frozen, Inputs({"t": {}}, {"t/0": 1}, {}), models)


def script(path: Path, answer: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"answers": {}, "default": answer}))
    return path


def test_the_name_of_a_model_and_its_path_may_hold_an_equals_sign(tmp_path: Path) -> None:
    a, ab, odd = (script(tmp_path / name, name) for name in ("a.json", "ab.json", "date=1/odd.json"))
    here = Machine([f"a={a}", f"a=b={ab}", f"odd={odd}"], [], tmp_path)
    digests = [Machine([f"m={path}"], [], tmp_path).digest(run_of("m"), "") for path in (a, ab, odd)]
    assert len(set(digests)) == 3
    assert [here.digest(run_of(name), "") for name in ("a", "a=b", "odd")] == digests
    assert here.unused_models() == []
    assert Machine([f"a={a}", "x=y"], [], tmp_path).unused_models() == [f"a={a}", "x=y"], "no run has asked yet"
    with pytest.raises(CannotRun, match="names the model 'b', which this machine does not know"):
        here.digest(run_of("b"), "")
