"""The whole selection step of `branch` beside `step` of chatroutes-autobranch 1.3.1 on the same vectors.

    python benchmarks/branch_select.py [--n 200]

Of n candidates of 384 dimensions k = 50 are kept. A step is: features and scores, MMR over all candidates, diversity.
The peer's MMR sees what its beam lets through, so its beam has k = n here; with a beam of 50, as it is mostly used, it
compares only those (`ratio_beam`), and no longer chooses 50 of 200 by their difference. It gets lists of floats, as its
protocol says; `ratio_arrays` is with numpy arrays in their place. Ours also clusters what is kept and estimates the
chance of something new. Steps of 1,000 and 10,000 candidates run in a process of their own, whose peak memory includes
Python and numpy. All compute with one thread. On a busy machine `ratio_cpu` and `cpu_seconds_10000` tell more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # two that wait for each other measure the machine

import numpy as np
from numpy.typing import NDArray
from peers import autobranch

from hybrid.statistics.diversity import effective_number, good_turing
from pipelines.branch.clusters import clustered
from pipelines.branch.features import mixed
from pipelines.branch.rows import cosines, unit_rows
from pipelines.branch.selection import Candidates, select

GOAL = 1_000.0  # the peer's seconds / ours
GOAL_SECONDS = 1.0  # of 10,000 candidates
GOAL_MB = 200
GOAL_GROWTH = 15.0  # seconds of 10,000 candidates / of 1,000
K = 50
DIMENSIONS = 384
REPEATS = 7
PEER = {
    "k": K,
    "weights": {"confidence": 0.15, "relevance": 0.25, "novelty_parent": 0.40, "intent_alignment": 0.20},
    "novelty": "mmr",
    "balance": 0.6,
    "threshold": 0.8,
    "min_entropy": 0.7,
    "k_max": 5,
}
"""Settings of the guide's first scenario, but for k."""


def made(n: int) -> NDArray[np.float32]:
    """The vectors of a prompt and of n texts about it, in 40 groups; made one by one, to need no memory of its own."""
    draws = np.random.default_rng(0)
    subject, groups = draws.normal(size=DIMENSIONS), 0.6 * draws.normal(size=(40, DIMENSIONS))
    rows = np.empty((n + 1, DIMENSIONS), dtype=np.float32)
    for place in range(n + 1):
        row = subject + groups[draws.integers(0, 40)] + draws.normal(size=DIMENSIONS)
        rows[place] = row / np.linalg.norm(row)
    return rows


def step(vectors: NDArray[np.float32], k: int) -> tuple[float, float, float]:
    """One step from vectors to the Vendi scores of what is kept and of all, and the chance of something new."""
    rows = unit_rows(vectors)
    prompt, texts = rows[:1], rows[1:]
    n = len(texts)
    relevance = cosines(texts, prompt)[:, 0].tolist()
    features = {"relevance": relevance, "logprob": [-0.5] * n, "constraints": [1.0] * n}
    scores = mixed(features, {"relevance": 0.5, "logprob": 0.3, "constraints": 0.2})
    ids = [f"creative-{place:05}" for place in range(n)]
    chosen = list(select("mmr", Candidates(texts, scores, ids), k, unrelated=0.1).kept)
    kept = clustered(texts[chosen], [ids[place] for place in chosen], 0.6)
    return effective_number(texts[chosen]), effective_number(texts), good_turing(kept.sizes).value


def seconds_of(n: int) -> tuple[float, float]:
    """Median wall and processor seconds of our step."""
    vectors = made(n)
    walls, processors = [], []
    step(vectors, K)
    for _ in range(REPEATS):
        start, processor = time.perf_counter(), time.process_time()
        step(vectors, K)
        walls.append(time.perf_counter() - start)
        processors.append(time.process_time() - processor)
    return statistics.median(walls), statistics.median(processors)


def alone(n: int) -> dict[str, float]:
    """The same in a process of its own, and its peak memory in megabytes."""
    done = subprocess.run([sys.executable, __file__, "--alone", str(n)], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def theirs(n: int) -> dict[str, dict[str, Any]]:
    """The peer's step: with a beam of n, the same with arrays, and with a beam of k."""
    vectors = [row.tolist() for row in made(n).astype(np.float64)]
    job = {"prompt": "a prompt", "texts": [f"text {place}" for place in range(n)], "vectors": vectors, **PEER}
    jobs = {"all": {**job, "k": n}, "arrays": {**job, "k": n, "arrays": True}, "beam": {**job, "k": K}}
    with autobranch.installed() as python:
        found = dict(zip(jobs, autobranch.steps(python, list(jobs.values())), strict=True))
    for name, one in found.items():
        print(f"peer, {name}: {one['seconds']:.2f} s, {len(one['kept'])} kept, entropy {one['entropy']:.4f}")
    return found


def report(n: int) -> dict[str, Any]:
    """Both sides, and whether the goals are met."""
    small, large = alone(1_000), alone(10_000)
    wall, processor = seconds_of(n)
    peer = theirs(n)
    ratio, growth = peer["all"]["seconds"] / wall, large["seconds"] / small["seconds"]
    quick, lean = large["seconds"] < GOAL_SECONDS, large["rss_mb"] < GOAL_MB
    return {
        "name": "branch_select",
        "peer": f"chatroutes-autobranch {autobranch.VERSION} BranchSelector.step, {n} of the same vectors",
        "ratio": round(ratio, 1),
        "ratio_cpu": round(peer["all"]["cpu_seconds"] / processor, 1),
        "ratio_arrays": round(peer["arrays"]["seconds"] / wall, 1),
        "ratio_beam": round(peer["beam"]["seconds"] / wall, 1),
        "goal": GOAL,
        "met": ratio >= GOAL and quick and lean and growth <= GOAL_GROWTH,
        "seconds": round(wall, 5),
        "cpu_seconds": round(processor, 5),
        "peer_seconds": round(peer["all"]["seconds"], 2),
        "seconds_1000": round(small["seconds"], 4),
        "seconds_10000": round(large["seconds"], 4),
        "cpu_seconds_10000": round(large["cpu_seconds"], 4),
        "seconds_goal": GOAL_SECONDS,
        "growth": round(growth, 1),
        "growth_goal": GOAL_GROWTH,
        "rss_mb": round(large["rss_mb"], 1),
        "rss_goal_mb": GOAL_MB,
    }


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--alone", type=int, default=0, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        wall, processor = seconds_of(chosen.alone)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": wall, "cpu_seconds": processor, "rss_mb": peak}))
        return
    print(json.dumps(report(chosen.n)))


if __name__ == "__main__":
    main()
