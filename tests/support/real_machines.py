"""A laptop and GPU machines on one disk: real commands as real processes, each machine with its own data directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from hybrid.plugins.installed import load
from hybrid.settings import build

TASKS = 6
ITEMS = 7 * TASKS
SCRIPT = "script"
"""The name under which runs know their model; each machine says where it is."""


def heed_signals() -> None:
    """Restore the default handler: children of a shell's background job ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def task(number: int) -> dict[str, object]:
    """A task of two demonstrations, unlike every other."""
    pairs = [{"input": [[number, k], [k, 2]], "output": [[k]]} for k in (3, 4)]
    return {"train": pairs, "test": [{"input": [[number, 5], [6, 7]]}]}


class Machine:
    """One machine: its own HYBRID_HOME, the folder as it sees it, and the calls that its model got."""

    def __init__(self, root: Path, name: str, folder: Path | str) -> None:
        self.root, self.name, self.folder = root, name, folder
        self.home, self.calls_file, self.gate = root / f"home-{name}", root / f"calls-{name}", root / f"gate-{name}"
        self.environment = {**os.environ, "HYBRID_HOME": str(self.home), "HYBRID_FOLDER": str(folder)}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "hybrid", *arguments]

    def run(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def start(
        self, *arguments: str, prefix: list[str] | None = None, said: Path | None = None
    ) -> subprocess.Popen[str]:
        """A command as a process; what it says to its user goes to the file `said`, which can be read meanwhile."""
        with ExitStack() as closing:
            return subprocess.Popen(
                prefix + list(arguments) if prefix else self.command(*arguments),
                env=self.environment,
                cwd=self.root,
                stdout=subprocess.PIPE,
                stderr=closing.enter_context(said.open("wb")) if said else subprocess.PIPE,
                text=True,
                preexec_fn=heed_signals,  # noqa: PLW1509
            )

    def worker(self, *more: str, delay_ms: int = 0, shard_seconds: float = 60.0) -> list[str]:
        """The arguments of a worker that leaves when the run is done and waits for nobody."""
        model = [f"--model={SCRIPT}={self.root / 'script.json'}"]
        leave = ["--run=seal-eval", "--side=gpu", "--linger=0", "--max-idle=5m", f"--shard-seconds={shard_seconds}"]
        return ["worker", *model, *self.options(delay_ms), *leave, *more]

    def options(self, delay_ms: int = 0) -> list[str]:
        """Those of the backend."""
        named = {"calls": self.calls_file, "gate": self.gate, "delay_ms": delay_ms}
        return [f"--backend-option={name}={value}" for name, value in named.items()]

    def holds_after(self, answers: int) -> None:
        """Have each process of this machine give as many answers and wait with the next, until `goes_on`.

        So a process is at work when it is to be disturbed, however slow everything else is.
        """
        self.gate.write_text(str(answers))

    def goes_on(self) -> None:
        self.gate.unlink()

    def calls(self) -> list[str]:
        return self.calls_file.read_text().split() if self.calls_file.exists() else []

    def spooled(self) -> list[Path]:
        """The shards in this machine's spool."""
        return sorted((self.home / "spool").glob("*/runs/*/*/*/*/shard-*"))


class Machines:
    """A laptop and GPU machines around one shared folder, and a script of answers for the model."""

    def __init__(self, root: Path, folder: Path | str | None = None) -> None:
        self.root, self.folder = root, folder or root / "folder"
        challenges = {f"{n:08x}": task(n) for n in range(TASKS)}
        (root / "challenges.json").write_text(json.dumps(challenges))
        (root / "solutions.json").write_text(json.dumps({name: [[[1]]] for name in challenges}))
        self.script({"answers": {}, "default": "1"})
        self.laptop = Machine(root, "laptop", self.folder)

    def script(self, content: object) -> None:
        (self.root / "script.json").write_text(json.dumps(content))

    def side(self, name: str) -> Machine:
        return Machine(self.root, name, self.folder)

    def init(self) -> None:
        done = self.laptop.run("init", str(self.folder))
        assert done.returncode == 0, done.stderr

    def data(self) -> list[str]:
        return [f"{kind}={self.root / kind}.json" for kind in ("challenges", "solutions")]

    def prompts(self) -> list[str]:
        """The prompts of the run, in order."""
        pipeline = build(load("pipelines", "seal-eval"), self.data())
        (stage,) = pipeline.stages()
        return [item.request.messages[-1].content for item in stage.items(pipeline.inputs().tasks)]

    def submit(self, *more: str) -> str:
        """Init and `run remote`; returns the run's id."""
        self.init()
        data = [f"--set={one}" for one in self.data()]
        done = self.laptop.run("run", "remote", "seal-eval", "--backend=scripted", f"--model={SCRIPT}", *data, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def fetch(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self.laptop.run("fetch", "seal-eval", *more)

    def records(self) -> list[dict[str, object]]:
        """Those of the outputs.json that a fetch wrote."""
        assert isinstance(self.folder, Path)
        (path,) = self.folder.glob("results/*/outputs.json")
        found: list[dict[str, object]] = json.loads(path.read_text())["records"]
        return found

    def texts(self) -> dict[str, str | None]:
        """Key -> text; each key once."""
        records = self.records()
        texts = {str(record["key"]): record["text"] for record in records}
        assert len(texts) == len(records)
        return texts  # type: ignore[return-value]
