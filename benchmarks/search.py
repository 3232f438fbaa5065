"""A look at a search as its records arrive, beside a replay of everything that is recorded.

    python benchmarks/search.py [--nodes 1000]

A tree grows in batches of two texts and their embeddings a node; its records arrive in shards of eight. A look reads
what has arrived since the last one and goes on with the walk. The peer reads all shards and runs the walk anew at each
look. Both see the same folder, and end in the same items. `seconds` is the median of the looks of the second half,
`ratio` the time of the peer's last look / that median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.execution.search_records import Searching, SearchRecords
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, submit
from hybrid.folder.shards import FORMAT, ShardWriter
from hybrid.folder.spec import ModelSpec
from hybrid.protocols import Inputs, Stage
from hybrid.records import Completion, Item, Record, Request, Sampling
from hybrid.work import Search, Together, Walk

GOAL = 0.05  # seconds of a look
BATCH = 8
DIGEST = "0" * 64
VECTOR = tuple(float(number % 7) for number in range(384))


def walk(task: str, tasks: Mapping[str, Any]) -> Walk:
    """A binary tree of `tasks[task]` nodes: two texts and two embeddings each."""

    def node(number: int) -> Walk:
        texts = yield [_asked(task, f"{number}.{place}", f"node {number}, text {place}") for place in range(2)]
        yield [_asked(task, f"embed/{one.question}", f"{one.text}", embed=True) for one in texts]
        below = [node(child) for child in (2 * number, 2 * number + 1) if child <= tasks[task]]
        return (yield Together(below)) if below else []

    return (yield from node(1))


def _asked(task: str, question: str, prompt: str, *, embed: bool = False) -> Item:
    return Item(task, question, Request(Sampling(100), prompt=prompt, embed=embed))


def answered(item: Item, key: str) -> Record:
    """A record of 100 words, or of 384 numbers."""
    if item.request.embed:
        done = Completion(key, text="", vector=VECTOR, finish="stop")
    else:
        done = Completion(key, text=f"{item.question} says " + "word " * 100, finish="stop")
    return Record(key, item.task, item.question, item.view, item.sample, done, "")


def opened(run: Run, stage: Stage) -> Searching:
    """The search with all that is recorded."""
    records = SearchRecords(run, stage.name, DIGEST)
    records.look()
    records.take_in(())
    return Searching(stage, run.tasks(), {"": DIGEST}, records)


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000)
    nodes = parser.parse_args().nodes
    stage, looks = Stage("search", "any", 1, Search(walk)), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        models = {"": ModelSpec("scripted", "m", DIGEST)}
        run = submit(Disk(Path(folder)), "search", {}, Inputs({"tree": nodes}, {}, {}), models)
        about: Any = {"name": "m", "digest": DIGEST, "about": {}}
        header = {"format": FORMAT, "version": 1, "run": run.id, "stage": "search", "attempt": "one", "model": about}
        writer = ShardWriter(run.folder, f"{run.place}/search/one", header, seconds=3600)
        search = opened(run, stage)
        while search.replay.frontier:
            for key in list(search.replay.frontier)[:BATCH]:
                writer.add(answered(search.replay.items[key], key.hex()))
            writer.close()
            start = time.perf_counter()
            search.records.look()
            search.look()
            looks.append(time.perf_counter() - start)
        start = time.perf_counter()
        again = opened(run, stage)
        anew = time.perf_counter() - start
        assert again.replay.items.keys() == search.replay.items.keys()
    late = looks[len(looks) // 2 :]
    print(
        json.dumps(
            {
                "name": "search",
                "peer": "all records read and the walk run anew at each look",
                "ratio": round(anew / statistics.median(late), 1),
                "goal": GOAL,
                "met": statistics.median(late) < GOAL,
                "nodes": nodes,
                "items": len(search.replay.items),
                "seconds": round(statistics.median(late), 5),
                "longest_seconds": round(max(late), 5),
                "peer_seconds": round(anew, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
