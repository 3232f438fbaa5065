"""A model of Ollama in the shared folder: from the laptop to a GPU machine that lacks it, and back to a judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.ollama_server import OllamaServer
from tests.support.ports import free_port

pytestmark = pytest.mark.slow

HYBRID = [sys.executable, "-m", "hybrid"]


def done(environment: dict[str, str], place: Path, *arguments: str) -> str:
    """The output of a command that must succeed."""
    ran = subprocess.run(
        [*HYBRID, *arguments], env=environment, cwd=place, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, f"{arguments}: {ran.stdout}{ran.stderr}"
    return ran.stdout.strip()


def test_pack_restore_work_fetch_and_judge(ollama_server: OllamaServer, tmp_path: Path) -> None:
    folder, gpu_store = tmp_path / "drive", tmp_path / "gpu-models"
    programs = f"{ollama_server.binary.parent}{os.pathsep}{os.environ['PATH']}"
    laptop = {**ollama_server.env, "PATH": programs, "HYBRID_HOME": str(tmp_path / "laptop"),
              "OLLAMA_MODELS": str(ollama_server.store)}  # fmt: skip
    gpu = {**laptop, "HYBRID_HOME": str(tmp_path / "gpu"), "OLLAMA_MODELS": str(gpu_store),
           "OLLAMA_HOST": f"127.0.0.1:{free_port()}"}  # fmt: skip

    done(laptop, tmp_path, "init", str(folder))
    asked = ["qa-eval", "--preset", "demo", "--limit", "1", "--set", "questions=2", "--set", "max_tokens=24"]
    run = done(laptop, tmp_path, "run", "remote", *asked, "--backend", "ollama", "--model", ollama_server.model)
    done(laptop, tmp_path, "models", "pack", ollama_server.model)

    assert done(gpu, tmp_path, "models", "restore", ollama_server.model, "--folder", str(folder)) == "smollm2:latest"
    worker = [*HYBRID, "worker", str(folder), "--run", run, "--side", "gpu", "--linger", "0s"]
    done(gpu, tmp_path, "ollama", "up", "--", *worker)

    outputs = Path(done(laptop, tmp_path, "fetch", run))
    models: list[dict[str, Any]] = json.loads(outputs.read_text())["models"]
    assert [model["digest"] for model in models] == [ollama_server.models()["smollm2:latest"]]
    judged = done(
        laptop, tmp_path, "grade", run, "--grader", "judge", "--model", ollama_server.model,
        "--set", "explain=false", "--json",
    )  # fmt: skip
    summary = json.loads(judged)["summary"]
    assert summary["outputs"] == 2
    assert summary["failed_outputs"] == {}
    assert summary["n"] + summary["ungraded"]["count"] == 2
