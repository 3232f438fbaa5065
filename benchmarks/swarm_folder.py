"""Eight workers that each train one node of a swarm and meet in one folder: files, bytes, seconds and looks a round.

    python benchmarks/swarm_folder.py [--workers 8] [--rounds 6] [--model smollm2] [--faults]

Every worker is the real command `hybrid worker` as a process, with a disk of its own. The model is a random one of two
layers that is made on the spot, or `--model`. `looks`: listings of the folder for what others publish, a round and
worker, as the workers' logs say. `bytes_ratio`: the same rollouts as indented JSON, a file a node and round, as the
fork of rl-swarm that this replaces writes them, over the bytes of the segments.

With `--faults` one worker is killed and comes back, one is stopped and goes on as a zombie, and somebody writes hostile
files under the names of nodes. It fails when a round has no record, or a node has trained on a rollout twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard

from hybrid.folder.segments import name_of, verify_segment
from hybrid.metrics import RoundMetrics, costs_of

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.small_hf_model import chatml, write_model  # noqa: E402

LOOKS, MOST_LIES = 2.0, 500
LOOKED = re.compile(r"looked into the folder (\d+) times")
PARTS = "wait", "generate", "train"
SETTINGS = {
    "exchange": "folder", "arms": "1-1", "group": 2, "tasks": "basic_arithmetic", "level": "easy", "max_tokens": 8,
    "rank": 2, "eval_every": 0, "foreign": "uniform", "max_age": 2, "deadline": 60,
}  # fmt: skip
"""Small rounds: what is measured is the folder. A random model earns nothing, so all rollouts are taken."""


class Place:
    """A folder, a laptop, and machines with disks of their own."""

    def __init__(self, root: Path, model: str) -> None:
        self.root, self.folder = root, root / "folder"
        self._model = f"tiny={write_model(root / 'tiny', chatml())}" if not model else f"tiny={model}"
        self.run = ""

    def start(self, home: str, *arguments: str) -> subprocess.Popen[str]:
        """The command `hybrid` on the machine whose own files are in `home`."""
        own = {"HYBRID_HOME": str(self.root / home), "HYBRID_FOLDER": str(self.folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "hybrid", *arguments]
        log = (self.root / f"{home}.log").open("a")
        return subprocess.Popen(
            command, cwd=self.root, env={**os.environ, **own}, text=True, stdout=subprocess.PIPE, stderr=log
        )

    def call(self, *arguments: str) -> str:
        """What a command on the laptop prints."""
        stdout, _ = (process := self.start("laptop", *arguments)).communicate()
        if process.returncode:
            sys.exit(f"{arguments}: {process.returncode}\n{(self.root / 'laptop.log').read_text()}")
        return stdout.strip()

    def submit(self, nodes: int, rounds: int) -> None:
        """Make the folder and the run."""
        self.call("init", str(self.folder))
        settings = [f"--set={name}={value}" for name, value in {**SETTINGS, "nodes": nodes, "rounds": rounds}.items()]
        self.run = self.call("run", "remote", "sapo", "--backend=transformers", "--model=tiny", *settings)

    def worker(self, home: str) -> subprocess.Popen[str]:
        """A worker that ends when the run is done."""
        how = ["--side=gpu", "--linger=0s", "--max-idle=120s", "--shard-seconds=5", "--beat=10"]
        return self.start(home, "-v", "worker", f"--run={self.run}", f"--model={self._model}", *how)

    def records(self) -> list[dict[str, Any]]:
        """Those of the outputs that the laptop assembles."""
        self.call("fetch", self.run, "--rollouts", "--json")
        path = self.folder / "results" / self.run / "outputs.json"
        found: list[dict[str, Any]] = json.loads(path.read_text())["records"]
        return found

    def files(self, kind: str) -> list[Path]:
        """The files of a kind in the run's folder."""
        return list(self.folder.glob(f"runs/{self.run}/**/{kind}-*"))


def lies(path: Path, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Names and contents of hostile files that look like the segment at `path`; none while it is being written."""
    found, good = name_of(str(path)), path.read_bytes()
    try:
        head, _, body = zstandard.ZstdDecompressor().decompress(good, 1 << 26).partition(b"\n")
    except zstandard.ZstdError:
        return
    if found is None or not body:
        return
    changed = bytearray(body)
    changed[chance.randrange(len(changed))] ^= 1
    other = chance.choice((bytes(changed), bytes(30_000_000), b"\xff" * 1000, b"[" * 1000, b""))
    packed = zstandard.ZstdCompressor().compress(head + b"\n" + other)
    for data in (packed, good[: len(good) // 2], b"garbage"):
        sha16 = hashlib.sha256(packed).hexdigest()[:16] if data is packed else f"{chance.getrandbits(64):016x}"
        yield f"segment-{found.number:06d}-{found.name}-{sha16}.zst", data
    yield f"{path.stem} (1).zst", good


@contextmanager
def liar(place: Place) -> Iterator[None]:
    """Write hostile files beside the segments as they appear, under the names of nodes, until the block ends."""
    stop, chance = threading.Event(), random.Random(0)

    def lie() -> None:
        told = 0
        while not stop.wait(0.5) and told < MOST_LIES:
            for path in place.files("segment"):
                for name, data in lies(path, chance) if chance.random() < 0.3 else ():
                    (path.parent / name).write_bytes(data)
                    told += 1

    thread = threading.Thread(target=lie, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def harmed(place: Place, workers: dict[str, subprocess.Popen[str]]) -> None:
    """Kill one worker and bring it back; stop another one until the rest has gone on, and let it go on."""
    wait_for(place, len(workers) + 2)
    killed, zombie = list(workers)[:2]
    workers[killed].kill()
    workers[killed].wait()
    workers[zombie].send_signal(signal.SIGSTOP)
    time.sleep(20.0)
    workers[killed] = place.worker(killed)
    time.sleep(20.0)
    workers[zombie].send_signal(signal.SIGCONT)


def wait_for(place: Place, segments: int, limit: float = 900.0) -> None:
    """Wait until so many segments are in the folder."""
    until = time.monotonic() + limit
    while len(place.files("segment")) < segments:
        if time.monotonic() > until:
            sys.exit(f"after {limit:.0f} s there are {len(place.files('segment'))} segments")
        time.sleep(0.5)


def measured(place: Place, workers: int, rounds: int, *, faults: bool) -> dict[str, float]:
    """The figures of a run of `workers` workers that each take a node."""
    place.submit(workers, rounds)
    running = {f"machine-{number}": place.worker(f"machine-{number}") for number in range(workers)}
    if faults:
        with liar(place):
            harmed(place, running)
            codes = [process.wait() for process in running.values()]
    else:
        codes = [process.wait() for process in running.values()]
    if any(codes):
        sys.exit(f"workers ended with {codes}\n{(place.root / 'machine-0.log').read_text()[-3000:]}")
    return figures(place, workers * rounds)


def figures(place: Place, records: int) -> dict[str, float]:
    """Check the outcome; figures by round and node."""
    found = place.records()
    if len(found) != records or any(one["error"] for one in found):
        sys.exit(f"{len(found)} records of {records}, failures: {Counter(str(one['error']) for one in found)}")
    trained = 0
    for node in {one["task"] for one in found}:
        notes: list[Any] = [RoundMetrics.from_text(one["text"]).notes for one in found if one["task"] == node]
        used = [str(used[3]) for of in notes for note in of.values() for used in note["used"]]
        trained += len(used)
        if len(set(used)) < len(used):
            sys.exit(f"{node} has trained on a rollout twice")
    costs = [one for of in found for one in costs_of(of.get("trained", {})).values()]
    segments, good = place.files("segment"), list[bytes]()
    for path in segments:
        try:
            good.append(verify_segment(str(path.relative_to(place.folder)), path.read_bytes()).data)
        except Exception:  # noqa: BLE001, S112 - what the liar wrote
            continue
    looks = [int(count) for log in place.root.glob("machine-*.log") for count in LOOKED.findall(log.read_text())]
    files = [one for kind in ("segment", "shard", "beat", "log", "part") for one in place.files(kind)]
    return {
        "files": len(files) / records,
        "segments": len(segments) / records,
        "bytes": sum(one.stat().st_size for one in segments) / records,
        "bytes_ratio": sum(map(as_the_fork, good)) / sum(one.stat().st_size for one in segments),
        "trained": trained / records,
        "looks": sum(looks) / records,
        "wait_seconds": sum(one.get("wait_seconds", 0.0) for one in costs) / records,
        "round_seconds": sum(sum(one.get(f"{what}_seconds", 0.0) for what in PARTS) for one in costs) / records,
    }  # fmt: skip


def as_the_fork(data: bytes) -> int:
    """Bytes of the same rollouts as indented JSON."""
    try:
        text = zstandard.ZstdDecompressor().decompress(data, 1 << 26)
        return len(json.dumps(json.loads(text), indent=2))
    except (ValueError, zstandard.ZstdError):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--model", default="", help="a model that the backend transformers opens, such as smollm2")
    parser.add_argument("--faults", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        found = measured(Place(Path(root), asked.model), asked.workers, asked.rounds, faults=asked.faults)
    rounded = {name: round(value, 3) for name, value in found.items()}
    print(
        json.dumps(
            {
                "name": "swarm_folder", "workers": asked.workers, "rounds": asked.rounds, "faults": asked.faults,
                "peer": "indented JSON, a file a node and round", "ratio": rounded["bytes_ratio"], **rounded,
                "goal": LOOKS, "met": found["looks"] <= LOOKS,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
