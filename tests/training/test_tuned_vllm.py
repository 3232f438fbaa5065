"""What vLLM answers with adapters trained here is what transformers answers; each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def said(backend: str, model: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "tests" / "training" / "tuned_vllm.py"), backend, str(model), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_vllm_answers_with_trained_adapters_as_transformers_does(smollm2_folder: Path, tmp_path: Path) -> None:
    if find_spec("vllm") is None:
        pytest.skip("needs vllm, which is not installed")
    there, here = (said(backend, smollm2_folder, tmp_path) for backend in ("vllm", "transformers"))
    assert here.keys() == there.keys()
    assert len(here) == 9
    for key, (text, logprob, trained) in here.items():
        assert there[key][0] == text
        assert there[key][1] == pytest.approx(logprob, abs=0.02)
        assert there[key][2] == trained  # what vLLM's process trained was kept, and the other took it
        assert bool(trained) == (not key.endswith("base"))
    assert here["sheep red"][0] != here["sheep base"][0] != here["sheep blue"][0]
    assert not list(Path("/dev/shm").glob("hybrid-adapters-*"))  # noqa: S108
