"""A folder with a run of six items, whose shards and heartbeats a test writes as workers do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from hybrid import settings
from hybrid.canonical import Json
from hybrid.execution.index import Index
from hybrid.folder.medium import Disk
from hybrid.folder.notes import pack_note
from hybrid.folder.runs import join_folder, open_run, submit
from hybrid.folder.shards import FORMAT, ShardWriter
from hybrid.folder.spec import ModelSpec
from hybrid.laptop.receiver import Receiver
from hybrid.machine import home
from hybrid.records import Completion, Failure, Record
from hybrid.status.run_status import RunStatus, read_statuses
from pipelines.seal.eval import SealEval

MODEL, OTHER = "a" * 64, "b" * 64
FIRST, SECOND = "20260101t000000z-00000001", "20260102t000000z-00000002"
BEAT: Mapping[str, Json] = {
    "time": "2026-01-01T10:00:00Z",
    "state": "working",
    "spool": {"waiting": 2, "unreceipted": 7},
    "troubles": {},
    "claim": {"stage": "answer", "size": 1, "blocks": [1]},
    "progress": {
        "stage": "answer",
        "total": 6,
        "done": 3,
        "fresh": 2,
        "seconds": 10.0,
        "prompt_tokens_per_second": 900.0,
        "tokens_per_second": 120.5,
        "eta_seconds": 15.0,
    },
    "open_records": 3,
    "model": MODEL,
    "gpu": {"name": "Tesla T4", "memory_used": 12288, "memory_total": 15360, "busy": 97},
    "disk_free": 40_000_000_000,
}
PAIR = [{"input": [[1]], "output": [[2]]}]


class RunFolder:
    """A folder with a run of six items, this machine's copies and index, and the files that workers write."""

    def __init__(
        self, root: Path, model_digest: str = MODEL, *, backend: str = "scripted", model: str = "made-up"
    ) -> None:
        self.root, self.folder = root, root / "folder"
        challenges = {f"{n:08x}": {"train": PAIR, "test": [{"input": [[n]]}]} for n in range(6)}
        (root / "challenges.json").write_text(json.dumps(challenges))
        self.pipeline = SealEval(challenges=str(root / "challenges.json"), views=(), permute_n=0)
        frozen = settings.freeze(self.pipeline)
        how = {"models": {"": ModelSpec(backend, model, model_digest)}}
        self.disk = join_folder(self.folder, make=True)
        self.run = submit(self.disk, "seal-eval", frozen, self.pipeline.inputs(), **how)
        (stage,) = self.pipeline.stages()
        self.stage = stage
        self.items = list(stage.items(self.run.tasks()))
        self.store = Disk(home.received_of(self.folder))
        self.index = root / "index.sqlite"
        self.about: dict[str, Json] = {}  # what the engine tells of the model and its device
        self._seqs: dict[str, int] = {}

    def shard(
        self,
        *numbers: int,
        attempt: str = FIRST,
        error: str = "",
        model: str = MODEL,
        key: str = "",
        tokens: tuple[int, int] = (0, 0),
    ) -> str:
        """Write a shard with the records of some items, as a worker does; its path."""
        about = {"name": "made-up", "digest": model, "about": self.about}
        header = {"format": FORMAT, "version": 1, "run": self.run.id, "stage": "answer", "attempt": attempt}
        paths: list[str] = []
        seq = self._seqs.get(attempt, 0)
        self._seqs[attempt] = seq + 1
        writer = ShardWriter(
            self.disk,
            f"{self.run.place}/answer/{attempt}",
            {**header, "model": about},
            seconds=60,
            first_seq=seq,
            on_close=lambda path, _: paths.append(path),
        )
        for number in numbers:
            item = self.items[number]
            itself = key or item.key(self.stage.identity, model)
            cost = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
            done = Completion(itself, **cost, **_said(error))
            writer.add(Record(itself, item.task, item.question, item.view, item.sample, done))
        writer.close()
        return paths[0]

    def beat(self, number: int = 0, *, attempt: str = FIRST, **changed: Json) -> None:
        self.disk.write(*pack_note(self.run.id, "beat", attempt, number, {**BEAT, **changed}))

    def receiver(self) -> Receiver:
        return Receiver(open_run(self.disk, self.run.id), self.store, "reader-00000001")

    def fetch(self) -> None:
        self.receiver().receive(["answer"])

    def look(self, disk: Any = None) -> RunStatus:
        """The status of the run, with the index of the call before."""
        with closing(Index(self.index)) as index:
            (found,) = read_statuses(disk or self.disk, self.store, index, None)
        return found

    def sums(self, *names: str) -> tuple[int, ...]:
        found = self.look()
        return tuple(found.sum(name) for name in names)


def _said(error: str) -> Mapping[str, Any]:
    return {"error": Failure(error, "words")} if error else {"text": "1"}


class CountingDisk(Disk):
    """A real folder that records the paths that are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.paths: list[str] = []

    def read(self, path: str, limit: int) -> bytes:
        self.paths.append(path)
        return super().read(path, limit)
