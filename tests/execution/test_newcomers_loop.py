"""A loop of about 100 lines that somebody new would write, on a real model: it learns, and goes on where it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.numpy

from hybrid.errors import BadData
from tests.support.classifier_loop import MODULE
from tests.support.in_process import Hybrid
from tests.support.plugin_run import install


def test_a_loop_in_one_file_trains_a_real_model_and_goes_on_from_its_state_to_the_bit() -> None:
    pytest.importorskip("torch")
    from hybrid.backends.classifier import ClassifierBackend

    module = ModuleType("kitchens")
    sys.modules["kitchens"] = module  # dataclasses look their module up
    exec(MODULE, module.__dict__)  # noqa: S102  # our own text, as an installed module would be run
    lab = ClassifierBackend("tiny", {"device": "cpu"})
    whole, again = module.Kitchens(lab, 0, 0.01), module.Kitchens(lab, 0, 0.01)
    found = [whole.round(number).metrics for number in range(2)]
    state = whole.state()
    found += [whole.round(number).metrics for number in (2, 3)]
    again.load(state)
    assert [again.round(number).metrics for number in (2, 3)] == found[2:]
    assert again.state() == whole.state()
    with pytest.raises(BadData):
        again.load(state[:-100])
    with pytest.raises(BadData, match="another shape"):
        again.load(safetensors.numpy.save({name: one[:1] for name, one in safetensors.numpy.load(state).items()}))
    for one in (whole, again):
        one.close()
    lab.close()
    del sys.modules["kitchens"]
    assert found[0]["loss"] > 2 * found[3]["loss"]
    assert found[3]["accuracy"] > 0.9
    assert len(MODULE.strip().splitlines()) <= 100


@pytest.mark.slow
def test_the_file_is_a_plugin_whose_runs_are_like_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hybrid: Hybrid
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path / "packages", "kitchens", "kitchens:TwoKitchens", MODULE))
    outputs = tmp_path / "o.json"
    done = hybrid(
        "run", "local", "kitchens", "--set=seeds=0,1", "--set=rounds=2", "-o", outputs, "--folder", tmp_path / "f"
    )
    assert done.code == 0, done.stderr
    found = {one["question"]: json.loads(one["text"])["metrics"] for one in json.loads(outputs.read_text())["records"]}
    assert list(found) == [f"mean/seed-{seed}/0000{number}" for seed in (0, 1) for number in (0, 1)]
    assert all(found[f"mean/seed-{seed}/00001"]["loss"] < found[f"mean/seed-{seed}/00000"]["loss"] for seed in (0, 1))
    assert hybrid("report", outputs).code == 0
    assert "A line is the mean of the series that differ only in their seed" in (tmp_path / "o.report.html").read_text()
    monkeypatch.delitem(sys.modules, "kitchens")
