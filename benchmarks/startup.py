"""Seconds of `hybrid --help`, compared with a Python process that does nothing.

    python benchmarks/startup.py [--runs 15]

Both are timed as whole processes, alternately. The best of all runs counts, which excludes other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

GOAL = 0.3  # seconds


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="runs of each")
    runs = parser.parse_args().runs
    help_command = [str(Path(sys.executable).with_name("hybrid")), "--help"]
    peer_command = [sys.executable, "-c", "pass"]
    times = [(seconds(help_command), seconds(peer_command)) for _ in range(runs)]
    ours, peer = (min(column) for column in zip(*times, strict=True))
    result = {
        "name": "startup",
        "peer": "python -c pass",
        "seconds": round(ours, 4),
        "peer_seconds": round(peer, 4),
        "ratio": round(ours / peer, 2),
        "goal": GOAL,
        "met": ours < GOAL,
        "runs": runs,
    }
    print(json.dumps(result))


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of one run of `command`. Raises CalledProcessError when it fails."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
