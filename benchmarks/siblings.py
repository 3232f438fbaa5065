"""Two workers on one machine that share a run of short items, beside one worker that does it alone.

    python benchmarks/siblings.py [--items 154] [--item-ms 200]

The items sleep, so that two workers can be twice as fast on any machine. Every worker is the real command
`hybrid worker` as a process; the seconds are those from the start of the processes to the end of the last. `records` is
how many records the two wrote for each item: more than 1 is work that was done twice. `hosts_*` is the same with two
workers that share nothing but the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hybrid.folder.medium import Disk
from hybrid.folder.runs import open_run

RATIO, RECORDS = 1.8, 1.05
VIEWS = 6
"""Items that `seal-eval` makes of a task."""


def submit(root: Path, items: int) -> None:
    """A run of so many items in a folder below `root`, and the script that answers them."""
    pairs = [{"input": [[1, 2], [3, 4]], "output": [[5]]}]
    tasks = {
        f"{n:08x}": {"train": pairs, "test": [{"input": [[int(digit) for digit in f"{n:05}"]]}]}
        for n in range(-(-items // VIEWS))
    }
    (root / "challenges.json").write_text(json.dumps(tasks))
    (root / "solutions.json").write_text(json.dumps({name: [[[1]]] for name in tasks}))
    (root / "script.json").write_text(json.dumps({"answers": {}, "default": "1"}))
    data = [f"--set={kind}={root / kind}.json" for kind in ("challenges", "solutions")]
    call(root, "init", str(root / "folder"))
    call(root, "run", "remote", "seal-eval", "--backend=scripted", "--model=script", *data)


def started(root: Path, home: str, *arguments: str) -> subprocess.Popen[str]:
    """The command `hybrid` on the machine whose own files are in `home`."""
    environment = {**os.environ, "HYBRID_HOME": str(root / home), "HYBRID_FOLDER": str(root / "folder")}
    command = [sys.executable, "-m", "hybrid", *arguments]
    return subprocess.Popen(
        command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def call(root: Path, *arguments: str) -> str:
    """What a command on the laptop prints."""
    stdout, stderr = (process := started(root, "laptop", *arguments)).communicate()
    if process.returncode:
        sys.exit(f"{arguments}: {process.returncode}\n{stderr}")
    return stdout


def measured(items: int, item_ms: int, homes: list[str]) -> tuple[float, float]:
    """Seconds until a worker on each of these machines has ended, and how many records they wrote an item."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        submit(root, items)
        how = ["--run=seal-eval", "--side=gpu", "--linger=0s", f"--model=script={root / 'script.json'}"]
        began = time.monotonic()
        workers = [started(root, home, "worker", *how, f"--backend-option=delay_ms={item_ms}") for home in homes]
        for process in workers:
            _, stderr = process.communicate()
            if process.returncode:
                sys.exit(f"a worker ended with {process.returncode}\n{stderr}")
        seconds = time.monotonic() - began
        shards = open_run(Disk(root / "folder"), "seal-eval").shards("answer", [])
        keys = [record["key"] for _, shard in shards for record in shard.records]
        return seconds, len(keys) / len(set(keys))


def main() -> None:
    """One worker, two on one machine, two on two."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--items", type=int, default=154, help="rounded up to a multiple of 6")
    options.add_argument("--item-ms", type=int, default=200)
    chosen = options.parse_args()
    found: dict[str, tuple[float, float]] = {}
    for name, homes in {"one": ["a"], "two": ["a", "a"], "hosts": ["a", "b"]}.items():
        found[name] = measured(chosen.items, chosen.item_ms, homes)
        print(f"{name}: {found[name][0]:.1f} s, {found[name][1]:.3f} records an item", flush=True)
    alone, two, hosts = found["one"][0], *(found[name] for name in ("two", "hosts"))
    result = {
        "name": "siblings",
        "peer": "one worker",
        "ratio": round(alone / two[0], 2),
        "goal": RATIO,
        "records": round(two[1], 3),
        "records_goal": RECORDS,
        "hosts_ratio": round(alone / hosts[0], 2),
        "hosts_records": round(hosts[1], 3),
        "met": alone / two[0] >= RATIO and two[1] <= RECORDS,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
