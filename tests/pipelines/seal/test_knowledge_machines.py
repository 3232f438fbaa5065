"""`seal-knowledge` on two sides as real processes: rclone between them, a real judge, and what breaks on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hybrid.execution.chain import bound
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, open_run
from hybrid.folder.shards import Shard
from hybrid.settings import build
from pipelines.seal.knowledge.pipeline import SealKnowledge
from tests.support.in_process import Hybrid
from tests.support.killed_at import killed_at
from tests.support.knowledge_runs import judge, passages, settings, told
from tests.support.ollama_server import SHOWN, OllamaServer
from tests.support.real_machines import Machine
from tests.support.sync_programs import program, wait_until

PATIENCE = 500.0
KILLS = 10
"""Kills of rclone, in half a minute."""


class TwoSides:
    """A laptop and a GPU machine that share only what rclone carries between their folders."""

    def __init__(self, root: Path, model: Path, judging: OllamaServer) -> None:
        self.root, self.model = root, model
        self.laptop, self.gpu = (Machine(root, name, root / f"folder-{name}") for name in ("laptop", "gpu"))
        (root / "rclone.conf").touch()
        for side in (self.laptop, self.gpu):
            side.environment |= {"RCLONE_CONFIG": str(root / "rclone.conf"), "OMP_NUM_THREADS": "1"}
        path = f"{judging.binary.parent}{os.pathsep}{os.environ['PATH']}"  # installed there, running or not
        self.laptop.environment |= {"OLLAMA_HOST": judging.host, "PATH": path}
        self.said, self._working = "", dict[str, subprocess.Popen[str]]()
        self._syncs: list[subprocess.Popen[str]] = []
        self._draw = random.Random(1)

    def submit(self, data: Path, judge: str) -> str:
        assert self.laptop.run("init", str(self.laptop.folder)).returncode == 0
        models = ["--backend=transformers", "--model=tiny", f"--model=judge={judge}"]
        done = self.laptop.run("run", "remote", "seal-knowledge", *models, *settings(data))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def work(self, side: str, prefix: list[str] | None = None) -> None:
        """Start the worker of a side; `prefix` is another beginning of its command, as of `Machine.start`."""
        machine: Machine = getattr(self, side)
        models = [f"--model=tiny={self.model}"] if side == "gpu" else ["--backend-option=judge=parallel=1"]
        leave = ["--linger=0", "--max-idle=1h", "--shard-seconds=0.2", "--beat=2"]
        command = ["worker", str(machine.folder), f"--side={side}", *models, *leave]
        self._working[side] = machine.start(*command, prefix=prefix)

    def stop(self, side: str, how: signal.Signals) -> None:
        """End the worker of a side."""
        process = self._working.pop(side)
        process.send_signal(how)
        _, said = process.communicate(timeout=PATIENCE)
        self.said += f"{side}: {said}"

    def until(self, side: str, files: str) -> None:
        """Wait until a file is in a side's folder, while all workers are at work and both sides sync."""
        folder = Path(getattr(self, side).folder)

        def is_there() -> bool:
            ended = [one for one in (*self._working.values(), *self._syncs) if one.poll() is not None]
            assert not ended, [(one.args, one.returncode, one.communicate()) for one in ended]
            return any(folder.glob(f"runs/*/{files}"))

        wait_until(is_there, PATIENCE, files, pause=0.2)

    @contextmanager
    def carried(self) -> Iterator[None]:
        """Both sides sync, and rclone is killed again and again: from the start, and not for ever, so that what takes
        longer on a busy machine comes to its end.
        """
        stop, remote = threading.Event(), f":local:{self.root / 'remote'}"
        for side in (self.laptop, self.gpu):
            command = ["sync", remote, str(side.folder), f"--side={side.name}"]
            assert side.run(*command).returncode == 0
            self._syncs.append(side.start(*command, "--every=2s"))

        def kill() -> None:
            for _ in range(KILLS):
                if stop.wait(5 * self._draw.random()):
                    return
                kill_children(self._draw.choice(self._syncs).pid)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            for side in list(self._working):
                self.stop(side, signal.SIGKILL)
            thread.join()
            for process in self._syncs:
                process.terminate()
                process.communicate(timeout=240)


def kill_children(pid: int) -> None:
    with suppress(OSError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)


def shards(run: Run, begins: str) -> Iterator[Shard]:
    """Those of the stages whose names begin so."""
    for one in run.folder.entries(run.place):
        if one.name.startswith(begins):
            yield from (shard for _, shard in run.shards(one.name, []))


def verdicts(run: Run, pipeline: SealKnowledge) -> dict[str, str]:
    """What the judge replied to each message."""
    said = {one["key"]: one["text"] for shard in shards(run, "judged-") for one in shard.records}
    items = [(stage, item) for stage in bound(run, pipeline).stages if stage.role for item in stage.items(run.tasks())]
    return {
        item.request.messages[-1].content: said[item.key(stage.identity, run.model_digest(stage.name))]
        for stage, item in items
    }


@pytest.fixture
def judging(ollama_server: OllamaServer, ollama_binary: Path, tmp_path: Path) -> Iterator[OllamaServer]:
    """A server of its own, not started, with the models of the shared one."""
    ollama_server.create("a-judge", Path("smollm2"), "PARAMETER num_predict 40")
    server = OllamaServer(ollama_binary, tmp_path, {"OLLAMA_NUM_PARALLEL": "1"}, store=ollama_server.store)
    yield server
    server.stop()


def break_on_the_way(both: TwoSides, judging: OllamaServer, name: str) -> int:
    """Kill the worker of the GPU side, have the judge away at first and after two verdicts, and kill the laptop's
    worker both times.

    Then all finish. Returns how many verdicts there were when the judge was gone.
    """
    both.work("gpu")
    both.work("laptop")
    both.until("gpu", "answer-0-0/*/*/shard-*")
    both.stop("gpu", signal.SIGKILL)
    both.work("gpu")
    both.until("laptop", "answer-0-1/*/*/shard-*")
    assert not list(Path(both.laptop.folder).glob("runs/*/judged-*")), "the judge is away"
    both.stop("laptop", signal.SIGKILL)
    gone = judging.start().process
    assert gone
    both.work("laptop", killed_at("hybrid.execution.stage_work", "StageWork.answered", "after", 2, to=-gone.pid))
    wait_until(lambda: gone.poll() is not None, PATIENCE, "two verdicts, and the judge is gone")
    judging.kill()
    both.until("laptop", "judged-*/*/*/shard-*")
    early = sum(len(one.records) for one in shards(open_run(Disk(Path(both.laptop.folder)), name), "judged-"))
    both.stop("laptop", signal.SIGKILL)
    both.work("laptop")
    judging.start()
    both.until("laptop", "results/*/*/shard-*")
    both.stop("gpu", signal.SIGTERM)
    both.stop("laptop", signal.SIGTERM)
    return early


@pytest.mark.slow
def test_a_worker_and_a_laptop_are_killed_and_the_judge_is_away(
    judging: OllamaServer, tiny_llama: Path, tmp_path: Path, hybrid: Hybrid
) -> None:
    program("rclone")
    data = passages(tmp_path)
    both = TwoSides(tmp_path, tiny_llama, judging)
    name = both.submit(data, "a-judge")
    with both.carried():
        early = break_on_the_way(both, judging, name)
        fetched = both.laptop.run("fetch", name, "-o", str(tmp_path / "o.json"))
    assert fetched.returncode == 0, fetched.stderr
    calls = judging.log.read_text().count('"/api/chat"')
    run = open_run(Disk(Path(both.laptop.folder)), name)
    judged = [one for shard in shards(run, "judged-") for one in shard.records]
    assert len({one["key"] for one in judged}) == len(judged), "each row has one verdict"
    assert 0 < early < len(judged), "the judge went away in the middle"
    assert calls - len(judged) <= 1 + SHOWN * 4, "only what was in flight is asked again"
    trained = [
        {one["trained"]["tuning"] for one in shard.records if "trained" in one} for shard in shards(run, "answer-")
    ]
    assert sum(map(len, trained)) == len(set().union(*trained)), "each adapter is trained once"
    replies = verdicts(run, build(SealKnowledge, [one.removeprefix("--set=") for one in settings(data)]))
    alone = hybrid(
        "run", "local", "seal-knowledge", *settings(data), "--backend=transformers", f"--model={tiny_llama}",
        f"--model=judge={judge(tmp_path, replies)}", "--backend=judge=scripted", "--folder", tmp_path / "alone",
        "-o", tmp_path / "alone.json",
    )  # fmt: skip
    assert alone.code == 0, alone.stderr
    assert told(found_in(tmp_path / "o.json")) == told(found_in(tmp_path / "alone.json")), "as without faults"


def found_in(file: Path) -> list[dict[str, Any]]:
    """The records of outputs.json."""
    found: list[dict[str, Any]] = json.loads(file.read_text())["records"]
    return found
