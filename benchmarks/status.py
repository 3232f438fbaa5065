"""How long `hybrid status` takes over many shards, and its memory, beside a reader that loads every file.

    python benchmarks/status.py [--items 1000000] [--shard 100] [--beside COMMIT]

Ours is the real command in its own process, start-up included: `cold` without an index, `warm` with the one that the
cold call left. It lists the pipeline's items, verifies every shard and counts each item once. The peer is a process
that unpacks every file with zstandard, decodes every line with json and counts different keys: it verifies nothing and
does not know which items there are. Memory is the peak of each process and of its children, at all items and at a tenth
of them. Files are in the page cache for both, and the best of two cold and of three warm calls counts: what is measured
is the program, not what else the machine does. The cold calls take turns with those of an earlier commit on the same
folder: `cold_ratio` and `cpu_ratio` are its seconds and its processor seconds over ours, `rss_ratio` is our memory over
its. They are null where the clone does not have that commit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from hybrid.folder.names import FILES_PER_FOLDER
from hybrid.folder.runs import join_folder, submit
from hybrid.folder.shards import FORMAT, pack
from hybrid.folder.spec import ModelSpec
from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Message, Request, Sampling
from hybrid.work import Ask

GOAL_COLD, GOAL_WARM, GOAL_MEMORY = 30.0, 2.0, 1.5
GOAL_RATIO, GOAL_RSS = 2.0, 1.05
BEFORE = "b75b75a"
"""The commit that is measured beside: the last one that read every record of a shard."""
ROOT = Path(__file__).resolve().parent.parent
ATTEMPTS, A_TASK = 4, 1000
HOW = Sampling(max_tokens=64)
MODEL = {"name": "made up", "digest": hashlib.sha256(b"made up").hexdigest(), "about": {}}
PEAK = """
import resource, sys
from hybrid.cli import main
try:
    main(sys.argv[1:])
finally:
    own = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(own[0], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


@dataclass(frozen=True)
class Questions:
    """The pipeline: sums, each asked once."""

    count: int = 1000

    def inputs(self) -> Inputs:
        """A task holds many questions, so that it is the items that are many."""
        tasks = {f"t{n:06d}": [n, min(A_TASK, self.count - n)] for n in range(0, self.count, A_TASK)}
        return Inputs(tasks, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        """One step."""
        return (Stage("answer", "gpu", 1, Ask(self.items)),)

    def items(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        """`count` items."""
        for task, (first, size) in sorted(tasks.items()):
            for n in range(first, first + size):
                yield Item(task, f"{task}/{n}", Request(HOW, (Message("user", f"What is {n} + {7 * n}?"),)))


def install(site: Path, code: str) -> None:
    """Lay the pipeline down as the plugin of a distribution, as pip does. `code` is this file, or what it was once."""
    site.mkdir()
    (site / "many_questions.py").write_text(code)
    info = site / "many_questions-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: many-questions\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hybrid.pipelines]\nmany-questions = many_questions:Questions\n")


def earlier(commit: str, place: Path) -> bool:
    """Lay an earlier commit down at `place`; False where the clone does not have it."""
    packed = subprocess.run(["git", "archive", commit], capture_output=True, cwd=ROOT, check=False)
    if packed.returncode:
        return False
    place.mkdir()
    subprocess.run(["tar", "-x"], input=packed.stdout, cwd=place, check=True)
    install(place / "site", (place / "benchmarks" / "status.py").read_text())
    return True


def make(place: Path, items: int, size: int) -> None:
    """A folder with a finished run of so many items, `size` in a shard, by four attempts."""
    pipeline = Questions(items)
    (stage,) = pipeline.stages()
    digest = str(MODEL["digest"])
    about = {"models": {"": ModelSpec("vllm", "made-up", digest)}}
    run = submit(join_folder(place, make=True), "many-questions", {"count": items}, pipeline.inputs(), **about)
    lines: list[bytes] = []
    shards = 0
    for item in stage.items(run.tasks()):
        lines.append(record(item, item.key(stage.identity, digest)))
        if len(lines) == size:
            seq, attempt = divmod(shards, ATTEMPTS)
            name = f"20260101t00000{attempt}z-{attempt:08x}"
            header = {"format": FORMAT, "version": 1, "run": run.id, "stage": "answer", "attempt": name, "seq": seq}
            shard, data = pack({**header, "model": MODEL}, lines, seq)
            batch = place / run.place / "answer" / name / f"{seq // FILES_PER_FOLDER:03d}"
            batch.mkdir(parents=True, exist_ok=True)
            (batch / str(shard)).write_bytes(data)
            lines, shards = [], shards + 1


def record(item: Item, key: str) -> bytes:
    """The line of a shard."""
    text = f"Let me see. The sum of the two numbers is {len(key)}, which is what was asked for."
    return (
        f'{{"cached":0,"error":null,"finish":"stop","key":"{key}","logprob":-1.25,"question":"{item.question}",'
        f'"sample":{item.sample},"seconds":0.5,"task":"{item.task}","text":"{text}","tokens":[40,20],"view":{{}}}}'
    ).encode()


def ours(place: Path, code: Path, site: Path, home: Path, items: int) -> tuple[float, float, float]:
    """Seconds by the clock, peak megabytes, and processor seconds of `hybrid status` and its children.

    `code` is the tree that the command is taken from.
    """
    path = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH"), str(site)]))
    environment = {**os.environ, "PYTHONPATH": path, "HYBRID_HOME": str(home)}
    command = [sys.executable, "-P", "-c", PEAK, "status", "--folder", str(place), "--json"]
    start, processor = time.perf_counter(), used()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds, processor = time.perf_counter() - start, used() - processor
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["done"] == said["total"] == items, said
    return seconds, max(map(int, done.stderr.split()[-2:])) / 1024, processor


def compared(
    now: list[tuple[float, float, float]], before: list[tuple[float, float, float]]
) -> dict[str, float] | None:
    """The best of what `ours` measured of the two commits, beside each other; None without an earlier one."""
    if not before:
        return None
    seconds, memory, processor = ((min(one[at] for one in before), min(one[at] for one in now)) for at in range(3))
    return {
        "cold_ratio": round(seconds[0] / seconds[1], 2),
        "cpu_ratio": round(processor[0] / processor[1], 2),
        "rss_ratio": round(memory[1] / memory[0], 2),
    }


def used() -> float:
    """Processor seconds of all children so far."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def peer(place: Path) -> int:
    """How many different keys there are."""
    seen = set()
    for path in place.glob("runs/*/answer/*/*/shard-*"):
        with zstandard.ZstdDecompressor().stream_reader(path.read_bytes()) as stream:
            lines = stream.read().splitlines()
        for line in lines[1:-1]:
            seen.add(json.loads(line)["key"])
    return len(seen)


def theirs(place: Path, items: int) -> float:
    """Seconds of the peer, as a process of its own."""
    start = time.perf_counter()
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; import status"
    command = [sys.executable, "-P", "-c", f"{code}; print(status.peer(Path({str(place)!r})))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == items
    return time.perf_counter() - start


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--shard", type=int, default=100, help="items in a shard")
    parser.add_argument("--beside", default=BEFORE, help="the commit to measure beside")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        site, place, small, past = (Path(root) / name for name in ("site", "folder", "small", "past"))
        install(site, Path(__file__).read_text())
        if not (there := earlier(chosen.beside, past)):
            print(f"the commit {chosen.beside} is not in this clone: nothing to measure beside", flush=True)
        for folder, items in ((small, chosen.items // 10), (place, chosen.items)):
            make(folder, items, chosen.shard)
            print(f"{items:,} items in {items // chosen.shard:,} shards", flush=True)
        few = [ours(small, ROOT, site, Path(root) / "home", chosen.items // 10) for _ in range(2)]
        first, before = [], []
        for n in range(2):
            if there:
                before.append(ours(place, past, past / "site", Path(root) / f"past-{n}", chosen.items))
            first.append(ours(place, ROOT, site, Path(root) / f"home-{n}", chosen.items))
        again = [ours(place, ROOT, site, Path(root) / "home-0", chosen.items) for _ in range(3)]
        peer_seconds = theirs(place, chosen.items)
    (cold, cold_mb, _), (warm, warm_mb, _) = min(first), min(again)
    processor = min(one[2] for one in first)
    beside = compared(first, before)
    better = beside is None or (beside["cold_ratio"] >= GOAL_RATIO and beside["rss_ratio"] <= GOAL_RSS)
    growth = max(cold_mb / few[0][1], warm_mb / few[1][1])
    result = {
        "name": "status",
        "peer": "a reader that unpacks every file with zstandard and decodes every line with json, verifying nothing",
        "ratio": round(peer_seconds / warm, 1),
        "ratio_cold": round(peer_seconds / cold, 2),
        **(beside or dict.fromkeys(("cold_ratio", "cpu_ratio", "rss_ratio"))),
        "beside": chosen.beside,
        "goal": f"cold_s < {GOAL_COLD:.0f}, warm_s < {GOAL_WARM:.0f}, rss_growth < {GOAL_MEMORY},"
        f" cold_ratio >= {GOAL_RATIO:.0f}, rss_ratio <= {GOAL_RSS}",
        "met": cold < GOAL_COLD and warm < GOAL_WARM and growth < GOAL_MEMORY and better,
        "cold_s": round(cold, 2),
        "cold_cpu_s": round(processor, 2),
        "warm_s": round(warm, 2),
        "peer_s": round(peer_seconds, 2),
        "rss_mb": round(max(cold_mb, warm_mb), 1),
        "rss_mb_warm": round(warm_mb, 1),
        "rss_mb_at_a_tenth": round(few[0][1], 1),
        "rss_growth": round(growth, 2),
        "items": chosen.items,
        "shards": chosen.items // chosen.shard,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
