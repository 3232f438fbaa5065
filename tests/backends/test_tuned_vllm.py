"""With adapters trained here, vLLM answers as transformers does; each runs in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_vllm_answers_with_trained_adapters_as_transformers_does(
    vllm_says: dict[str, Any],
) -> None:
    where = (vllm_says["model"], vllm_says["kept"])
    command = [sys.executable, "-m", "tests.support.two_adapters", "transformers", *where]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    there, here = vllm_says["trained"]["value"], json.loads(done.stdout.splitlines()[-1])
    assert here.keys() == there.keys()
    assert len(here) == 9
    for key, (text, logprob, trained) in here.items():
        assert there[key][0] == text
        assert there[key][1] == pytest.approx(logprob, abs=0.02)
        assert there[key][2] == trained  # what vLLM's process trained was kept, and the other took it
        assert bool(trained) == (not key.endswith("base"))
    assert here["sheep red"][0] != here["sheep base"][0] != here["sheep blue"][0]
    again, went_on = vllm_says["next_stage"]["value"]
    assert went_on, "vLLM is not started again for a stage that trains nothing new"
    assert again.keys() == there.keys()
    for key, (text, logprob, trained) in there.items():
        assert (again[key][0], again[key][2]) == (text, trained)
        assert again[key][1] == pytest.approx(logprob, abs=0.02)
    assert vllm_says["files"]["value"] == {"places": 1, "left": []}
