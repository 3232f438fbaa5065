"""Plans beside the commands that run: dry runs, the line of a submitted run, and workers that refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hybrid.errors import CannotRun
from hybrid.execution.local import opened_run
from hybrid.plan.prediction import predicted
from hybrid.plan.refusal import refuse_unfitting
from tests.conftest import Hybrid
from tests.support.nvidia import nvidia_smi

SMALL = ("--limit", "1", "--set", "questions=1")


def test_a_model_whose_weights_do_not_fit_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(CannotRun, match=r"70,553,706,496 parameters x 4 bytes = 262\.83 GiB") as raised:
        refuse_unfitting("transformers", "llama3.1-70b", {"device": "cpu"})
    assert "hybrid plan" in raised.value.hint
    refuse_unfitting("transformers", "smollm2-135m", {"device": "cpu"})
    refuse_unfitting("llamacpp", "llama3.1-70b", {})
    refuse_unfitting("transformers", "nobody/knows-1b", {"device": "cpu"})


def test_a_gpu_is_known_by_what_its_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = nvidia_smi(tmp_path / "smi", "Tesla T4, 0, 15360, 0, 580.82.07, 7.5, GPU-1")
    monkeypatch.setenv("PATH", f"{smi}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(CannotRun, match=r"does not fit Tesla T4: .* x 2 bytes = 14\.96 GiB, of 14\.50 GiB") as raised:
        refuse_unfitting("vllm", "llama3.1-8b", {})
    assert "gpus=2" in raised.value.hint
    refuse_unfitting("vllm", "llama3.1-8b", {"gpus": "2"})
    refuse_unfitting("vllm", "llama3.2-3b", {})


def test_a_worker_refuses_before_it_fetches_or_loads_anything(hybrid: Hybrid, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert hybrid("init", str(folder)).code == 0
    model = ("--backend", "transformers", "--model", "meta-llama/Llama-3.1-70B-Instruct")
    sent = hybrid("run", "remote", "qa-eval", *SMALL, *model, "--folder", str(folder))
    assert sent.code == 0
    assert "plan: 1 item, " in sent.stderr
    assert "it fits none of t4, l4, a100-40, a100-80, h100" in sent.stderr or "on h200" in sent.stderr
    option = ("--backend-option", "device=cpu")
    done = hybrid("worker", str(folder), "--once", "--side", "gpu", "--linger", "0s", *option)
    assert done.code == 7
    assert "does not fit cpu: 70,553,706,496 parameters x 4 bytes" in done.stderr


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_dry_run_shows_the_plan_and_starts_nothing(hybrid: Hybrid, tmp_path: Path, where: str) -> None:
    folder = tmp_path / "folder"
    done = hybrid("run", where, "qa-eval", *SMALL, "--dry-run", "--json", "--folder", str(folder))
    assert done.code == 0
    plan = json.loads(done.stdout)
    assert plan["items"] == 1
    assert {gpu["gpu"] for gpu in plan["gpus"]} == {"cpu"} if where == "local" else "t4" in done.stdout
    assert not folder.exists()


def test_what_was_expected_of_a_run_is_told_from_its_spec_alone(hybrid: Hybrid, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert hybrid("init", str(folder)).code == 0
    id = hybrid("run", "remote", "qa-eval", *SMALL, "--folder", str(folder)).stdout.strip()
    run = opened_run(folder, id)
    found = predicted(run, "Tesla T4")
    assert found is not None
    assert (found.device, found.items, found.most_new_tokens) == ("t4", 1, 64)
    assert found.prompt_tokens > 50
    assert 0 < found.seconds.low < found.seconds.high
    assert found.usd(7200.0) == pytest.approx(2 * (found.usd_per_hour or 0))
    assert predicted(run, "Matrox G200") is None
