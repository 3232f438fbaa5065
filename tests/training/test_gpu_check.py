"""The command for what only a GPU can confirm: its lines without a GPU, its documentation, and checks that can fail."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend

from tests.support.processes import is_alive
from tests.support.sync_programs import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark; what it tells torch stays in the test."""
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    threads = torch.get_num_threads()
    yield importlib.import_module("gpu_check")
    torch.set_num_threads(threads)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_without_a_gpu_every_check_says_that_it_needs_one(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--skip", "paper", "-o", str(tmp_path / "lines")])
    assert gpu_check.main() == 0
    *checks, last = lines(capsys)
    assert [line["check"] for line in checks] == [name for name in gpu_check.CHECKS if name != "paper"]
    assert {line["status"] for line in checks} == {"needs a GPU"}
    assert (last["met"], last["ratio"], last["needs a GPU"]) == (None, None, len(checks))
    assert json.loads((tmp_path / "lines").read_text().splitlines()[-1]) == last


def test_what_fails_is_told_with_what_to_do_and_is_the_exit_code(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        "device": {"passed": True, "figures": {"a": 1}, "why": ""},
        "varlen": {"passed": None, "figures": {}, "why": "not here"},
        "products": {"passed": False, "figures": {"a": 2}, "why": ""},
        "copies": {"figures": {}, "why": "it broke"},
    }
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "in_own_process", lambda name, *_, **__: found[name])
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--only", *found])
    assert gpu_check.main() == 1
    *checks, last = lines(capsys)
    assert [line["status"] for line in checks] == ["passed", "not for this GPU", "failed", "error"]
    assert ["otherwise" in line for line in checks] == [False, False, True, True]
    assert (last["ratio"], last["met"], last["passed"]) == (0.333, False, 1)


def test_the_documentation_has_every_check_with_what_is_expected_and_what_to_do(gpu_check: Any) -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    for name, check in gpu_check.CHECKS.items():
        assert f"| `{name}` | {check.expected} | {check.otherwise} |\n" in text


@pytest.fixture
def program(gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What runs in the place of a check's process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    path = tmp_path / "check.py"
    monkeypatch.setattr(gpu_check, "__file__", str(path))
    return path


def test_a_check_that_breaks_is_an_error_with_its_last_words(gpu_check: Any, program: Path) -> None:
    program.write_text("import sys\nprint('much')\nprint('noise')\nsys.exit('RuntimeError: no such kernel')\n")
    line = gpu_check.line_of("device", forced=False)
    assert (line["status"], line["why"]) == ("error", "much noise RuntimeError: no such kernel")


def test_a_check_speaks_by_its_last_line_whatever_libraries_print(gpu_check: Any, program: Path) -> None:
    found = json.dumps({"passed": True, "figures": {"a": 1}, "why": ""})
    program.write_text(f"print('a library')\nprint({found!r})\nprint('another one')\n")
    line = gpu_check.line_of("device", forced=False)
    assert (line["status"], line["figures"]) == ("passed", {"a": 1})
    program.write_text("print('nothing of a check')\n")
    assert gpu_check.line_of("device", forced=False)["status"] == "error"


def test_a_check_that_takes_too_long_is_ended_with_all_that_it_started(
    gpu_check: Any, program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "process"
    program.write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(own)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(gpu_check, "waited", lambda process, _: written(own) and process.wait(0.01))
    line = gpu_check.line_of("device", forced=False)
    assert (line["status"], line["why"]) == ("error", "stopped after 10 minutes")
    wait_until(lambda: not is_alive(int(own.read_text())), 240, "its process is ended")


def test_what_a_check_that_broke_has_left_running_is_ended(gpu_check: Any, program: Path, tmp_path: Path) -> None:
    own = tmp_path / "process"
    program.write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(own)!r}, 'w').write(str(child.pid))\n"
        "sys.exit('RuntimeError: the engine is gone')\n"
    )
    assert gpu_check.line_of("device", forced=False)["why"] == "RuntimeError: the engine is gone"
    wait_until(lambda: not is_alive(int(own.read_text())), 240, "its process is ended")


def written(path: Path) -> bool:
    """Wait until a file has a text."""
    wait_until(lambda: path.is_file() and path.read_text() != "", 240, "the check has begun")
    return True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["rectangles", "planned", "copies", "out-of-memory"])
def test_the_checks_run_on_a_cpu_with_tiny_models(gpu_check: Any, name: str) -> None:
    torch.set_num_threads(1)
    found = gpu_check.CHECKS[name].run(gpu_check.Machine.here(forced=True))
    assert found.figures
    if name != "rectangles":  # that one is about time
        assert found.passed, found


@pytest.mark.filterwarnings("ignore")
def test_attention_by_plain_matrix_products_does_not_pass(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, machine = gpu_check.kernels, gpu_check.Machine.here(forced=True)
    monkeypatch.setattr(kernels, "WIDTHS", (64,))
    assert kernels.attention(machine).passed
    monkeypatch.setattr(kernels, "fused_kernels", lambda *_: [SDPBackend.MATH])
    assert kernels.attention(machine).passed is False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_training_that_never_runs_out_of_memory_does_not_pass(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.training, "limited", lambda *_: nullcontext())
    found = gpu_check.training.out_of_memory(gpu_check.Machine.here(forced=True))
    assert (found.passed, found.figures["adapters"]) == (False, 4)
