"""`make ollama`: an unchanged server is not built again, and missing build requirements are named."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements" / "ollama.py"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the right to shell scripts")


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def build(folder: Path, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env={"PATH": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.parametrize(
    ("programs", "environment", "told"),
    [
        ({}, {}, ["Go is missing", "apt install golang-go"]),
        ({"go": "echo go1.19.8"}, {}, ["too old: go1.19.8", "1.21"]),
        ({"go": "echo go1.24.1"}, {"GOTOOLCHAIN": "local"}, ["GOTOOLCHAIN=local", "unset GOTOOLCHAIN"]),
        ({"go": "[ $2 = CXX ] && echo no-cc || echo go1.26.8"}, {}, ["a C++ compiler is missing", "apt install g++"]),
        (
            {"go": "[ $2 = CXX ] && echo cc -O2 || echo go1.24.1", "cc": "exit 1"},
            {},
            ["header nlohmann/json.hpp is missing", "apt install nlohmann-json3-dev libstb-dev"],
        ),
        ({"go": "echo no network >&2; exit 1"}, {}, ["`go env GOVERSION` failed", "no network"]),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, programs: dict[str, str], environment: dict[str, str], told: list[str]
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in programs.items():
        program(tools, name, text)
    done = build(tmp_path / "built", tools, **environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert [words for words in told if words not in done.stderr] == []
    assert not (tmp_path / "built").exists()


def test_a_server_that_fits_costs_nothing_and_a_changed_pin_does(tmp_path: Path) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    pins = [SCRIPT.read_text(), script["MINIAUDIO"].read_text(), script["compiler_flags"]()]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ollama").touch()
    (tmp_path / "built.stamp").write_text(script["stamp"](*pins))
    nothing = tmp_path / "nothing"
    done = build(tmp_path, nothing)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "built.stamp").write_text(script["stamp"](*pins[:2], "-O0"))
    assert "Go is missing" in build(tmp_path, nothing).stderr


def test_a_processor_that_lacks_an_instruction_is_not_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: Any = runpy.run_path(str(SCRIPT))["compiler_flags"]
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        assert "x86" not in flags()
        return
    words = "flags: fpu avx avx2 bmi1 bmi2 f16c fma abm movbe"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: words)
    assert flags() == "-O3 -march=x86-64-v3"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: words.replace(" avx2", ""))
    assert flags() == "-O3 -march=native"
