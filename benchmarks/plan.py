"""The plan of a run: its seconds, and its memory and tokens beside what a run takes.

    python benchmarks/plan.py [--only seconds memory tokens] [--shapes smollm2 ...] [--runs 7]

`seconds`: the least of several calls of `hybrid plan qa-eval`, each a process of its own in an empty home, with the
tokens of all prompts counted (`processor_seconds` of it, for a busy machine); `estimated_seconds`: of a model whose
files are not here, so that they are estimated. Modules are compiled before, as `pip install` compiles them. No heavy
library may be imported. `memory`: training is planned from a model's shape alone, by the formulas of
`hybrid.plan.training_memory`, for the five models of `train_memory.py`, and trained on the CPU; measured is the peak of
the allocator's own records (torch's profiler). `ratio` is the planned / measured that is farthest from 1. `tokens`: of
a greedy run of SmolLM2-135M whose answers all reach `max_tokens`, planned and recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from train_memory import SHAPES, Shape, of_shape

from hybrid.plan.shapes import shape_of_config
from hybrid.plan.training_memory import pass_costs
from hybrid.training.memory import PassCosts
from hybrid.training.packed_model import PackedModel

GOAL, TOLERANCE = 0.5, 0.1
HEAVY = ("torch", "transformers", "vllm", "xllamacpp", "numpy")
PLAN = ("plan", "qa-eval", "--gpu", "t4")
FIXED = ("--limit", "4", "--set", "max_tokens=2")
CODE = (
    "import sys\nfrom hybrid.cli import hybrid\nhybrid.main(sys.argv[1:], standalone_mode=False)\n"
    f"print([one for one in {HEAVY!r} if one in sys.modules], file=sys.stderr)"
)


def analytic(model: PackedModel, shape: Shape) -> PassCosts:
    """The costs of a pass from the shape alone."""
    known = shape_of_config(model.model.config.to_dict(), shape.family, "the model's configuration")
    return pass_costs(known, shape.rank, shape.targets, 4, expanded=False, checkpointed=shape.checkpointed)


def called(home: Path, *arguments: str, **variables: str) -> tuple[float, str, str]:
    """The seconds of a command in a process of its own, its output, and the heavy libraries that it imported."""
    environment = {**os.environ, "HYBRID_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **variables}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - began, done.stdout, done.stderr.strip().splitlines()[-1]


def processor_seconds() -> float:
    """Of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_seconds(runs: int) -> dict[str, Any]:
    """The least seconds of a plan with counted tokens, and of one with estimated ones."""
    found: dict[str, list[float]] = {"seconds": [], "processor_seconds": [], "estimated_seconds": []}
    imported = set[str]()
    with tempfile.TemporaryDirectory() as compiled:
        variables = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
        for number in range(runs + 1):
            for name, model in (("seconds", "smollm2"), ("estimated_seconds", "llama3.2-1b")):
                before = processor_seconds()
                with tempfile.TemporaryDirectory() as home:
                    seconds, _, heavy = called(Path(home), *PLAN, "--model", model, **variables)
                imported.add(heavy)
                if number:  # the first one compiles
                    found[name].append(seconds)
                    if name == "seconds":
                        found["processor_seconds"].append(processor_seconds() - before)
    return {name: round(min(times), 3) for name, times in found.items()} | {"imported": sorted(imported)}


def of_tokens() -> dict[str, Any]:
    """Planned and recorded tokens of a run whose answers all reach their bound."""
    with tempfile.TemporaryDirectory() as home:
        plan = json.loads(called(Path(home), *PLAN, *FIXED, "--json")[1])
        out = Path(home) / "outputs.json"
        called(Path(home), "run", "local", "qa-eval", *FIXED, "--folder", f"{home}/folder", "-o", str(out))
        records = [one["tokens"] for one in json.loads(out.read_text())["records"]]
    planned = [plan["prompt_tokens"], plan["most_new_tokens"]]
    return {"planned_tokens": planned, "recorded_tokens": [sum(one[side] for one in records) for side in (0, 1)]}


def of_memory(names: Sequence[str]) -> dict[str, Any]:
    """Planned / measured of each shape."""
    found: dict[str, Any] = {}
    for name in names:
        found[name] = of_shape(SHAPES[name], analytic)
        print(f"{name:12} {found[name]}", flush=True)
    return found


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=("seconds", "memory", "tokens"))
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=tuple(SHAPES))
    parser.add_argument("--runs", type=int, default=7)
    how = parser.parse_args()
    parts = how.only or ("seconds", "memory", "tokens")
    torch.set_num_threads(1)
    found: dict[str, Any] = {"name": "plan", "peer": "torch's allocator; the records of a run"}
    if "seconds" in parts:
        found |= of_seconds(how.runs)
    if "tokens" in parts:
        found |= of_tokens()
    if "memory" in parts:
        found["shapes"] = of_memory(how.shapes)
        found["ratio"] = max((one["ratio"] for one in found["shapes"].values()), key=lambda one: abs(one - 1))
    met = found.get("seconds", 0.0) < GOAL and found.get("imported", ["[]"]) == ["[]"]
    met = met and abs(found.get("ratio", 1.0) - 1) <= TOLERANCE
    met = met and found.get("planned_tokens") == found.get("recorded_tokens")
    print(json.dumps({**found, "goal": f"under {GOAL} s; memory 0.9 to 1.1; tokens exact", "met": met}))


if __name__ == "__main__":
    main()
