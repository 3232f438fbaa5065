"""A run of a plugin's pipeline that is installed for one test, with a laptop and other machines as real processes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.support.real_machines import SCRIPT, Machine


def install(folder: Path, name: str, entry: str, module: str) -> Path:
    """Write a package as pip installs it: its pipeline is `name`. Returns the folder, for PYTHONPATH."""
    package = entry.partition(":")[0]
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hybrid.pipelines]\n{name} = {entry}\n")
    (folder / f"{package}.py").write_text(textwrap.dedent(module).lstrip())
    return folder


class PluginRun:
    """A folder, a script of answers, a laptop and other machines. A subclass says what is installed and how it runs."""

    pipeline: ClassVar[str]
    shard_seconds: ClassVar[float]
    max_idle: ClassVar[str]

    def __init__(self, root: Path, packages: Path, script: Mapping[str, object]) -> None:
        self.root, self.folder, self.packages = root, root / "folder", packages
        (root / "script.json").write_text(json.dumps(script))
        self.laptop = self.side("laptop")

    def side(self, name: str) -> Machine:
        side = Machine(self.root, name, self.folder)
        side.environment["PYTHONPATH"] = str(self.packages)
        return side

    def local(self, side: Machine, *more: str, delay_ms: int = 0) -> list[str]:
        model = ["--backend=scripted", f"--model={self.root / 'script.json'}", f"--shard-seconds={self.shard_seconds}"]
        return ["run", "local", self.pipeline, *model, *side.options(delay_ms), *more]

    def submit(self, *more: str) -> str:
        """Init and `run remote`; the run's id."""
        assert self.laptop.run("init", str(self.folder)).returncode == 0
        done = self.laptop.run("run", "remote", self.pipeline, "--backend=scripted", f"--model={SCRIPT}", *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def worker(self, side: Machine, *more: str, delay_ms: int = 0, model: bool = True) -> list[str]:
        where = [f"--model={SCRIPT}={self.root / 'script.json'}", *side.options(delay_ms)] if model else []
        leave = [
            f"--run={self.pipeline}",
            "--linger=0",
            f"--max-idle={self.max_idle}",
            "--shard-seconds=0.2",
            "--beat=1",
        ]
        return ["worker", *where, *leave, *more]

    def records(self) -> list[dict[str, object]]:
        """Those of the run's outputs.json."""
        (path,) = self.folder.glob("results/*/outputs.json")
        found: list[dict[str, object]] = json.loads(path.read_text())["records"]
        return found
