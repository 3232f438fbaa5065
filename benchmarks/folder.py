"""What the protocol costs: bytes, seconds and files, for records that were computed already.

A worker with a model that answers at once works off a run, through its spool and a child process into a folder on the
same disk. The peer is the least that anybody could do: each record appended to one open JSON-lines file, with one
fsync a minute, which a sync program never uploads while it is open and a crash cuts. A second figure is one file a
record, as research scripts often write. Files a second are counted by a worker whose model takes as long as the
settings say, in virtual time: they do not depend on this machine.

Then what a `hybrid fetch` with nothing new does to the folder: it should write nothing, since whatever carries the
folder would carry that. The command runs on a run of as many questions that was fetched before, and beside it
`rclone copy --checksum` between two equal copies of that folder. Bytes read are all that the process read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.canonical import encode
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.machine.clock import SystemClock
from hybrid.protocols import Inputs, Model, Pipeline, Stage
from hybrid.records import Completion, Item, Message, Record, Request, Sampling
from hybrid.work import Ask
from hybrid.worker.worker import Worker, WorkerOptions

GOAL = 0.1
"""Files a second and worker, at most."""
DIGEST = "1" * 64
WORDS = [
    f"{consonant}{vowel}{end}" for consonant in "bdfgklmnprst" for vowel in "aeiou" for end in ("", "n", "rk", "st")
]
TEXT = "The grid is turned by a quarter and its colours are exchanged, so the answer is [[3, 0], [0, 3]]. "


@dataclass(frozen=True)
class Questions:
    """A pipeline of one stage."""

    items: int

    def inputs(self) -> Inputs:
        return Inputs({"items": self.items}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("answer", "gpu", 1, Ask(questions)),)


def questions(tasks: Mapping[str, Any]) -> Iterator[Item]:
    for number in range(tasks["items"]):
        request = Request(Sampling(max_tokens=256, seed=number), (Message("user", f"question {number} " + TEXT),))
        yield Item(f"t{number:07d}", f"t{number:07d}/0", request)


class Instant:
    """A model that answers at once; its clock may go on by a fixed time with each answer."""

    def __init__(self, clock: VirtualClock | None, seconds: float) -> None:
        self.model = Model("instant", DIGEST, 4096, {"engine": "none"})
        self._clock, self._seconds = clock, seconds

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        for request in filter(None, requests):
            if self._clock:
                self._clock.seconds += self._seconds
            yield completion(request.key)

    def close(self) -> None:
        pass


def completion(key: str) -> Completion:
    text = " ".join(random.Random(key).choices(WORDS, k=60))  # no two alike, so that packing gets no present
    return Completion(key, text=text, finish="stop", prompt_tokens=900, completion_tokens=250, seconds=1.0)


class VirtualClock:
    """A clock that goes on when it is told to."""

    seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def stamp(self) -> str:
        return "2026-01-01T00:00:00Z"


@dataclass(frozen=True)
class Bench:
    """A capabilities with that model."""

    engine: Instant

    def pipeline(self, run: Run) -> Pipeline:
        return Questions(int(run.tasks()["items"]))

    def digest(self, run: Run, role: str) -> str:
        return DIGEST

    def options(self, run: Run, role: str) -> Mapping[str, str]:
        return {}

    def open(self, run: Run, role: str, *, trains: bool) -> Instant:
        return self.engine

    def gauges(self) -> Mapping[str, Any]:
        return {}


def submitted(folder: Path, items: int) -> None:
    place = join_folder(folder, make=True)
    submit(place, "bench", {}, Questions(items).inputs(), models={"": ModelSpec("none", "instant", DIGEST)})


def ours(items: int) -> tuple[float, int, int]:
    """Seconds, bytes in the folder, shards: a worker from its spool to the folder."""
    with tempfile.TemporaryDirectory() as place:
        folder, spool = Path(place, "folder"), Path(place, "spool")
        submitted(folder, items)
        before = size_of(folder)
        isolated = IsolatedFolder(folder)
        start = time.perf_counter()
        options = WorkerOptions(("gpu",), once=True, linger=0.0)
        worker = Worker(isolated, Disk(spool), SystemClock(), Bench(Instant(None, 0)), options, attempt="bench")
        for _ in worker.work():
            pass
        for _ in worker.leave(0.0):
            pass
        seconds = time.perf_counter() - start
        isolated.close()
        assert worker.run_states.popitem()[1].state == "done"
        return seconds, size_of(folder) - before, len(list(folder.glob("runs/*/answer/*/*/shard-*")))


def listed(items: int) -> float:
    """Seconds for what is no part of the protocol: to make the items and their keys, to make them again, to answer."""
    start = time.perf_counter()
    for item in questions({"items": items}):
        item.key("answer/1", DIGEST)
    for item in questions({"items": items}):
        completion(item.task)
    return time.perf_counter() - start


def records(items: int) -> Iterator[bytes]:
    for number in range(items):
        key = f"{number:064x}"
        name = f"t{number:07d}"
        yield encode(Record(key, name, f"{name}/0", {}, 0, completion(key)).to_json())


def appended(items: int) -> tuple[float, int]:
    """Seconds and bytes of one JSON-lines file, forced to disk at the end."""
    with tempfile.TemporaryDirectory() as place:
        path, start = Path(place, "out.jsonl"), time.perf_counter()
        with path.open("wb") as file:
            for line in records(items):
                file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - start, path.stat().st_size


def one_file_each(items: int) -> float:
    """Seconds a record, each in a file of its own that is forced to disk."""
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        for number, line in enumerate(records(items)):
            with Path(place, f"{number}.json").open("wb") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        return (time.perf_counter() - start) / items


def files_per_second(seconds_an_item: float, hours: float) -> float:
    """Files that a worker writes into the folder for each second of its work, at that speed."""
    items = int(hours * 3600 / seconds_an_item)
    with tempfile.TemporaryDirectory() as place:
        folder, clock = Path(place, "folder"), VirtualClock()
        submitted(folder, items)
        before = count_of(folder)
        engine = Instant(clock, seconds_an_item)
        options = WorkerOptions(("gpu",), once=True, linger=0.0)
        worker = Worker(Disk(folder), Disk(Path(place, "spool")), clock, Bench(engine), options, attempt="bench")
        stepped = clock.now()
        for _ in worker.work():
            if clock.now() - stepped >= 2:
                worker.step()
                stepped = clock.now()
        for _ in worker.leave(0.0):
            pass
        return (count_of(folder) - before) / clock.now()


def fetched_again(items: int) -> dict[str, Any]:
    """What a fetch with nothing new costs and changes in the folder; the same of rclone, where it is installed."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folder, copy, config = root / "folder", root / "copy", root / "rclone.conf"
        environment = {**os.environ, "HYBRID_HOME": str(root / "home"), "HYBRID_FOLDER": str(folder)}
        for command in run_of(root, folder, items):
            subprocess.run(hybrid(*command), env=environment, check=True, capture_output=True)
        told = passed(folder, hybrid("fetch", "qa-eval"), environment)
        rclone = shutil.which("rclone")
        if rclone is None:
            return told
        shutil.copytree(folder, copy)
        config.touch()
        command = [rclone, "copy", "--checksum", f"--config={config}", str(folder), str(copy)]
        return {**told, **{f"rclone_{name}": value for name, value in passed(copy, command, environment).items()}}


def run_of(root: Path, folder: Path, items: int) -> Iterator[list[str]]:
    """The commands that make a run of so many questions, work it off and fetch it."""
    asked = [
        {"id": f"q{n:07d}", "question": f"{n}?", "answers": [{"text": "1", "answer_start": 0}]} for n in range(items)
    ]
    data = {"version": "1", "data": [{"title": "t", "paragraphs": [{"context": "1 is one.", "qas": asked}]}]}
    (root / "data.json").write_text(json.dumps(data))
    (root / "script.json").write_text(json.dumps({"answers": {}, "default": "1"}))
    yield ["init", str(folder)]
    yield ["run", "remote", "qa-eval", "--backend=scripted", "--model=script", f"--set=data={root / 'data.json'}"]
    leave = ["--side=gpu", "--once", "--linger=0", "--shard-seconds=0.1"]
    yield ["worker", *leave, f"--model=script={root / 'script.json'}"]
    yield ["fetch", "qa-eval"]


def hybrid(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hybrid", *arguments]


def passed(folder: Path, command: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a command: its seconds, the bytes it read, and the bytes, files and folders that changed in `folder`.

    A folder changes when a name in it does: so a file that was made and is gone again is seen, too.
    """
    before, start = marks(folder), time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and what it read can still be asked for
    seconds = time.perf_counter() - start
    told = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
    assert process.wait() == 0, command
    changed = {path for path, mark in marks(folder).items() if before.get(path) != mark}
    files = [path for path in changed if path.is_file()]
    return {
        "seconds": round(seconds, 2),
        "bytes_read": int(told["rchar"]),
        "bytes_written": sum(path.stat().st_size for path in files),
        "files_changed": len(files),
        "folders_changed": len(changed) - len(files) + len(before.keys() - marks(folder).keys()),
    }


def marks(folder: Path) -> dict[Path, tuple[int, int]]:
    """When the content and what is known of each file and folder last changed, in nanoseconds."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in [folder, *folder.rglob("*")]}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def count_of(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--fetched", type=int, default=10_000, help="items of the run that is fetched again")
    chosen = parser.parse_args()
    items = chosen.items
    peer_seconds, peer_bytes = appended(items)
    each = one_file_each(min(items, 2000))
    seconds, size, shards = ours(items)
    own = max(0.0, seconds - listed(items))
    rates = {f"{gap:g} s": files_per_second(gap, 2.0) for gap in (0.1, 1.0, 30.0)}
    print(f"a record: {own / items * 1e6:.0f} us and {size / items:.0f} bytes; a shard: {own / shards * 1e3:.1f} ms")
    print(f"one appended file: {peer_seconds / items * 1e6:.0f} us, {peer_bytes / items:.0f} bytes a record")
    print(f"one file a record: {each * 1e6:.0f} us a record")
    print("files a second at an item every " + ", ".join(f"{gap}: {rate:.3f}" for gap, rate in rates.items()))
    again = fetched_again(chosen.fetched)
    print(f"a fetch with nothing new, and rclone: {again}")
    result = {
        "name": "folder",
        "peer": "records appended to one JSON-lines file",
        "items": items,
        "shards": shards,
        "record_us": round(own / items * 1e6, 1),
        "shard_ms": round(own / shards * 1e3, 2),
        "bytes_per_record": round(size / items, 1),
        "peer_record_us": round(peer_seconds / items * 1e6, 1),
        "peer_bytes_per_record": round(peer_bytes / items, 1),
        "one_file_each_record_us": round(each * 1e6, 1),
        "files_per_second": {gap: round(rate, 4) for gap, rate in rates.items()},
        "ratio": round(peer_bytes / size, 2),
        "fetch_with_nothing_new": {"items": chosen.fetched, **again},
        "goal": f"files_per_second <= {GOAL}, bytes_written of fetch_with_nothing_new 0",
        "met": max(rates.values()) <= GOAL and not again["bytes_written"] + again["folders_changed"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
