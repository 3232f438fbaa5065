"""Time of the demo's items with hybrid's OpenMP settings and with llama.cpp's defaults, on an idle and a busy machine.

    python benchmarks/busy.py [--rounds 3] [--items 2] [--max-tokens 24] [--per-core 4] [--set GOMP_SPINCOUNT=300]

Every measurement runs in its own process, since OpenMP reads its settings once. For the peer, the library is loaded
before hybrid has set anything; backend, model, threads and requests are the same. The time is from the first request to
the last answer, after a warm-up. A round measures both sides twice on the idle machine, then once beside `--per-core`
busy processes per core. The peer is stopped when it has taken `MAX_RATIO` times as long as our side just before, which
then is its ratio. `busy_ratio` and `quiet_ratio` are medians over the pairs, the peer's seconds / ours. A meaningful
`quiet_ratio` needs a machine that does nothing else.

`--set` gives our side other OpenMP settings, to compare them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from statistics import median
from typing import Any

from hybrid import settings
from hybrid.backends.registry import open_backend
from hybrid.machine.threads import SPIN_SETTINGS, available_cores
from hybrid.records import Request
from hybrid.testing import ask
from pipelines.seal.eval import SealEval

GOALS = {"busy_ratio": 6.0, "quiet_ratio": 0.97}
MAX_RATIO = 8.0
"""The peer is stopped after this multiple of our time."""

MAX_SECONDS = 600.0
"""Time-out of one of our measurements, in seconds."""

OPENMP = ("OMP_", "GOMP_", "KMP_")


def requests(count: int, max_tokens: int) -> list[Request]:
    """The first requests of the demo, all with answers of the same length."""
    pipeline = settings.build(SealEval, ["limit=1"], "demo")
    (stage,) = pipeline.stages()
    items = islice(stage.items(pipeline.inputs().tasks), count)
    return [
        replace(item.request, key=str(n), sampling=replace(item.request.sampling, max_tokens=max_tokens, stop=()))
        for n, item in enumerate(items)
    ]


def child(side: str, most: float, how: argparse.Namespace) -> None:
    """Run one measurement and print it as JSON; stop after `most` seconds."""
    if side == "peer":
        import xllamacpp  # noqa: F401, PLC0415 - loaded before anything is set
    asked = requests(how.items, how.max_tokens)
    backend = open_backend("llamacpp", "smollm2", {})
    list(backend.generate(iter([ask("Hello", max_tokens=1)])))
    start = time.perf_counter()
    threading.Thread(target=_end, args=(start, most), daemon=True).start()
    done = list(backend.generate(iter(asked)))
    seconds = time.perf_counter() - start
    if failed := [one.error for one in done if one.error]:
        raise SystemExit(f"{len(failed)} of {len(done)} failed: {failed[0]}")
    tokens = sum(one.completion_tokens for one in done)
    print(json.dumps({"seconds": seconds, "ended": False, "tokens_s": round(tokens / seconds, 1)}), flush=True)
    backend.close()


def _end(start: float, most: float) -> None:
    time.sleep(most)
    print(json.dumps({"seconds": time.perf_counter() - start, "ended": True, "tokens_s": 0.0}), flush=True)
    os._exit(0)


def measured(side: str, most: float, own: Mapping[str, str]) -> dict[str, Any]:
    """Measure one side in a new process, with no OpenMP settings except `own`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OPENMP)} | dict(own)
    command = [sys.executable, __file__, "--side", side, "--most", str(most), *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return figures


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` busy processes during the block."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def pair(own: Mapping[str, str], before: float = 0.0) -> dict[str, Any]:
    """Measure both sides, the peer first when our seconds are known from `before`."""
    peer = measured("peer", min(MAX_SECONDS, MAX_RATIO * before), {}) if before else {}
    ours = measured("ours", MAX_SECONDS, own)
    if ours["ended"]:
        raise SystemExit(f"ours took more than {MAX_SECONDS:.0f} s")
    peer = peer or measured("peer", min(MAX_SECONDS, MAX_RATIO * ours["seconds"]), {})
    ratio = min(MAX_RATIO, peer["seconds"] / ours["seconds"])
    return {"ours_s": round(ours["seconds"], 2), "peer_s": round(peer["seconds"], 2), "ratio": round(ratio, 3)} | {
        "at_least": peer["ended"],
        "tokens_s": ours["tokens_s"],
    }


def compare(how: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds. Returns the result."""
    own = dict(text.split("=", 1) for text in how.set)
    idle, beside = list[dict[str, Any]](), list[dict[str, Any]]()
    for turn in range(how.rounds):
        idle.append(pair(own))
        idle.append(pair(own, before=idle[-1]["ours_s"]))
        with busy(how.per_core * available_cores()):
            beside.append(pair(own))
        print(f"round {turn + 1}: quiet {idle[-2:]}, busy {beside[-1]}", flush=True)
    found = {"busy_ratio": _median(beside), "quiet_ratio": _median(idle)}
    return {
        "name": "busy",
        "peer": "llama.cpp with its own default, the same threads and requests",
        "ratio": found["busy_ratio"],
        "goal": GOALS["busy_ratio"],
        "met": all(found[name] >= goal for name, goal in GOALS.items()),
        **found,
        "quiet_goal": GOALS["quiet_ratio"],
        "ours": own or SPIN_SETTINGS,
        "cores": available_cores(),
        "busy_processes": how.per_core * available_cores(),
        "quiet": idle,
        "busy": beside,
    }


def _median(rounds: Sequence[Mapping[str, Any]]) -> float:
    return round(median(float(one["ratio"]) for one in rounds), 3)


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--per-core", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--most", type=float, default=MAX_SECONDS, help=argparse.SUPPRESS)
    how = parser.parse_args()
    if how.side:
        child(how.side, how.most, how)
    else:
        print(json.dumps(compare(how)))


if __name__ == "__main__":
    main()
