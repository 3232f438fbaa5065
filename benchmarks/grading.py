"""Speed and memory of `hybrid grade` on many outputs, compared with inspect_ai's scorer on a sample of them.

    python benchmarks/grading.py [--rows 1000000] [--sample 5000] [--grader exact|arc]

`hybrid grade` is timed as a whole process: start-up, reading and checking the file, grading, writing the grades. Of
inspect_ai only `score()` is timed, over a log in memory, which favours it; its time is scaled from the sample to all
rows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybrid.outputs import open_outputs, write_outputs
from hybrid.records import Failure, Output
from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.text import FORMATS

GOAL = 20.0  # inspect_ai's seconds / ours
GOAL_CPU = {"exact": 100.0, "arc": 20.0}  # the same for processor time, by grader
GOAL_MB = 60
SAMPLES = 4  # outputs per question
QUESTIONS = 10  # per task
CAPITALS = [
    "Paris",
    "Rome",
    "Berlin",
    "Madrid",
    "Lisbon",
    "Vienna",
    "Warsaw",
    "Athens",
    "Dublin",
    "Oslo",
    "Prague",
    "Budapest",
]
FILLER = "Let us think step by step. The question names a country and asks for the city where its government sits. "


def outputs(rows: int) -> Iterator[Output]:
    """`rows` deterministic outputs: half correct, some long, 1 % failed, 10 % with a list of references."""
    rng = random.Random(0)
    for row in range(rows):
        number, sample = divmod(row, SAMPLES)
        task, index = divmod(number, QUESTIONS)
        if sample == 0:
            truth = rng.choice(CAPITALS)
        said = truth if rng.random() < 0.5 else rng.choice(CAPITALS)
        text = said if rng.random() < 0.7 else FILLER * rng.randint(1, 5) + said
        failed = rng.random() < 0.01
        yield Output(
            key=f"{rng.getrandbits(256):064x}",
            task=f"t{task:07d}",
            question=f"t{task:07d}/{index}",
            view={},
            sample=sample,
            text=None if failed else text,
            error=Failure("too-long", "the prompt is longer than the context") if failed else None,
            reference=[truth, f"{truth} city"] if number % 10 == 0 else truth,
            finish="" if failed else "stop",
            tokens=(57, len(text) // 4),
        )


def arc_outputs(rows: int) -> Iterator[Output]:
    """`rows` outputs of ARC questions with 14 views each, grids of 3x3 to 12x12, half of the answers correct."""
    rng = random.Random(0)
    write = FORMATS["compact"].write
    for row in range(rows):
        question, view = divmod(row, 14)
        if view == 0:
            height, width = rng.randint(3, 12), rng.randint(3, 12)
            truth = grid(rng, height, width)
        yield Output(
            key=f"{rng.getrandbits(256):064x}",
            task=f"{question:08x}",
            question=f"{question:08x}/0",
            view={"transform": "identity", "train": [view], "format": "compact"},
            sample=view,
            text=write(truth if rng.random() < 0.5 else grid(rng, height, width)),
            error=None,
            reference=[list(cells) for cells in truth],
            finish="stop",
            tokens=(400, height * width),
        )


def grid(rng: random.Random, height: int, width: int) -> Grid:
    """Random cells."""
    return tuple(tuple(rng.choices(range(10), k=width)) for _ in range(height))


def ours(path: Path, grader: str) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak resident megabytes of the real command."""
    command = [sys.executable, "-m", "hybrid", "grade", str(path), "--grader", grader, "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(done.stdout.strip())
    peak = used.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
    return seconds, used.ru_utime + used.ru_stime, peak


def theirs(path: Path, sample: int) -> tuple[float, float, int]:
    """Wall and processor seconds of inspect_ai's score() over `sample` outputs, and the number of outputs."""
    # Imported late, so that this process stays small: a child process inherits its peak memory until exec.
    from inspect_ai import score  # noqa: PLC0415
    from inspect_ai.log import EvalLog  # noqa: PLC0415
    from inspect_ai.scorer import match  # noqa: PLC0415

    log = EvalLog.model_validate({"eval": _about(sample), "samples": list(_samples(path, sample))})
    start, processor = time.perf_counter(), time.process_time()
    scored = score(log, match(location="exact"), display="none", copy=False)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    assert scored.results is not None
    assert scored.samples is not None
    accuracy = scored.results.scores[0].metrics["accuracy"].value
    print(f"inspect_ai: accuracy {accuracy:.4f} on {len(scored.samples):,} outputs")
    return seconds, processor, len(scored.samples)


def _about(sample: int) -> dict[str, Any]:
    return {
        "created": "2026-01-01T00:00:00+00:00",
        "task": "capitals",
        "dataset": {"name": "capitals", "samples": sample},
        "model": "mockllm/model",
        "config": {},
    }


def _samples(path: Path, sample: int) -> Iterator[dict[str, Any]]:
    good = (output for output in open_outputs(path).records() if output.text is not None)
    for number, output in enumerate(itertools.islice(good, sample)):
        message = {"role": "assistant", "content": output.text}
        yield {
            "id": number,
            "epoch": 1,
            "input": "What is the capital?",
            "target": _written(output) if output.view else output.reference,
            "messages": [{"role": "user", "content": "What is the capital?"}, message],
            "output": {"model": "mockllm/model", "choices": [{"message": message, "stop_reason": "stop"}]},
        }


def _written(output: Output) -> str:
    """A grid as text, which the peer can compare."""
    cells: Any = output.reference
    return FORMATS["compact"].write(cells)


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=5_000)
    parser.add_argument("--grader", default="exact", choices=["exact", "arc"])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outputs.json"
        made = arc_outputs if chosen.grader == "arc" else outputs
        write_outputs(path, {"id": "benchmark"}, [], {}, made(chosen.rows))
        print(f"{chosen.rows:,} outputs, {path.stat().st_size / 1e6:,.0f} MB")
        seconds, processor, rss = ours(path, chosen.grader)
        peer_seconds, peer_processor, peer_rows = theirs(path, min(chosen.sample, chosen.rows))
    peer_all = peer_seconds / peer_rows * chosen.rows
    ratio = peer_all / seconds
    ratio_cpu = peer_processor / peer_rows * chosen.rows / processor  # less affected by other work on the machine
    version = importlib.metadata.version("inspect_ai")
    result = {
        "name": "grading",
        "peer": f"inspect_ai {version} score(), match(location='exact'), {peer_rows:,} of the same outputs, scaled",
        "ratio": round(ratio, 1),
        "ratio_cpu": round(ratio_cpu, 1),
        "goal": GOAL,
        "goal_cpu": GOAL_CPU[chosen.grader],
        "met": ratio >= GOAL and ratio_cpu >= GOAL_CPU[chosen.grader] and rss <= GOAL_MB,
        "rss_mb": round(rss, 1),
        "rss_goal_mb": GOAL_MB,
        "grader": chosen.grader,
        "rows": chosen.rows,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(processor, 2),
        "rows_per_second": round(chosen.rows / seconds),
        "rows_per_cpu_second": round(chosen.rows / processor),
        "peer_seconds_scaled": round(peer_all, 1),
        "peer_rows": peer_rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
