"""What the engine of loops costs a round: the real command, beside the same loop without it.

    python benchmarks/loop.py [--rounds 20] [--seconds 1.0] [--megabytes 4]

A plugin's loop sleeps for a second a round and has a state of some megabytes, random bytes that do not compress.
`ours` is `hybrid run local` on it as a process, from the beginning of the first round, which the loop prints, to the
last record that is written; states and records are kept in a folder on this disk. `bare` is a plain `for` over the
same rounds, in a process of its own. `overhead` is ours / bare - 1, the best of three. `folder_bytes_per_round` is
what the folder has at the end, divided by the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

GOAL = 0.02
RUNS = 3
MODULE = '''
import os
import time
from dataclasses import dataclass

from hybrid import Inputs, Role, RoundMetrics, Rounds, Series, Stage


class Sleeps:
    def __init__(self, size, seconds):
        self.size, self.seconds, self.value = size, seconds, os.urandom(size)

    def round(self, number):
        if not number:
            print(f"BEGAN {time.time()}", flush=True)
        time.sleep(self.seconds)
        self.value = os.urandom(self.size)
        return RoundMetrics(number, {"loss": 1 / (1 + number)}, {f"client-{n}": {"loss": n / 7} for n in range(12)})

    def state(self):
        return self.value

    def load(self, state):
        self.value = state

    def close(self):
        pass


@dataclass(frozen=True)
class Sleeping:
    """Sleeps a second a round."""

    rounds: int = 20
    seconds: float = 1.0
    size: int = 4_000_000
    roles = {"": Role("", backend="none", model="none")}

    def inputs(self):
        return Inputs({"sleep": {}}, {}, {})

    def stages(self):
        return (Stage("rounds", "any", 1, Rounds(self.series, self.loop)),)

    def series(self, tasks):
        return [Series(name, self.rounds) for name in tasks]

    def loop(self, series, lab, tasks):
        return Sleeps(self.size, self.seconds)


def bare(rounds, seconds, size):
    loop = Sleeps(size, seconds)
    for number in range(rounds):
        loop.round(number)
    print(f"ENDED {time.time()}", flush=True)
'''


def installed(folder: Path) -> Path:
    """The plugin as pip installs it."""
    info = folder / "sleeping-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeping\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hybrid.pipelines]\nsleeping = sleeping:Sleeping\n")
    (folder / "sleeping.py").write_text(MODULE)
    return folder


def times(command: list[str], packages: Path, home: Path) -> dict[str, float]:
    """The times that a process says, by name."""
    environment = {**os.environ, "PYTHONPATH": str(packages), "HYBRID_HOME": str(home)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return {words[0]: float(words[1]) for line in done.stdout.splitlines() if len(words := line.split()) == 2}


def ours(arguments: argparse.Namespace, packages: Path, place: Path) -> tuple[float, int]:
    """Seconds of the rounds, and the bytes in the folder."""
    settings = {"rounds": arguments.rounds, "seconds": arguments.seconds, "size": arguments.megabytes * 1_000_000}
    command = [sys.executable, "-m", "hybrid", "run", "local", "sleeping", f"--folder={place}"]
    began = times([*command, *(f"--set={name}={value}" for name, value in settings.items())], packages, place)["BEGAN"]
    shards = list(place.glob("runs/*/rounds/*/*/shard-*"))
    size = sum(one.stat().st_size for one in place.rglob("*") if one.is_file())
    return max(one.stat().st_mtime for one in shards) - began, size


def bare(arguments: argparse.Namespace, packages: Path, place: Path) -> float:
    """Seconds of the same rounds in a plain loop."""
    settings = f"{arguments.rounds}, {arguments.seconds}, {arguments.megabytes * 1_000_000}"
    found = times([sys.executable, "-c", f"import sleeping; sleeping.bare({settings})"], packages, place)
    return found["ENDED"] - found["BEGAN"]


def main() -> None:
    """Measure both in turns, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--megabytes", type=int, default=4)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as place:
        packages = installed(Path(place) / "packages")
        for number in range(RUNS):
            found["bare"].append(bare(arguments, packages, Path(place)))
            seconds, size = ours(arguments, packages, Path(place) / str(number))
            found["ours"].append(seconds)
    best = {name: min(values) for name, values in found.items()}
    overhead = best["ours"] / best["bare"] - 1
    told = {
        "benchmark": "loop",
        "rounds": arguments.rounds,
        "bare_seconds": round(best["bare"], 3),
        "ours_seconds": round(best["ours"], 3),
        "overhead": round(overhead, 4),
        "goal": GOAL,
        "met": overhead <= GOAL,
        "folder_bytes_per_round": size // arguments.rounds,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
