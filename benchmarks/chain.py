"""How often a chain of nine stages opens its model, and how long that takes, beside the commit that opened one a stage.

    python benchmarks/chain.py [--opening 1.0]

The pipeline asks and trains in turns, each stage after the one before. Both sides run the real command `hybrid run
local` as a process, on the same plugin and the same scripted answers; one thing is added: the backend sleeps for
a second when it is opened, and writes a line. `seconds` is from the first opening to the end of the process, so that it
is the chain that is measured and not Python's start; `command_ratio` is that of the whole commands. The best of three
counts.
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

GOAL = 5.0
BEFORE = "b75b75a"
"""The commit that is measured beside: the last one that opened the model for each stage that trains."""
ROOT = Path(__file__).resolve().parent.parent
STAGES, RUNS = 9, 3

MODULE = '''
import os
import time
from dataclasses import dataclass

from hybrid.backends.scripted import ScriptedBackend
from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Lesson, Request, Sampling
from hybrid.tuning import Tuning

ready = ScriptedBackend.__init__


def opened(self, model, options):
    with open(os.environ["OPENED"], "a") as file:
        file.write(f"{time.time()}\\n")
    time.sleep(float(os.environ["OPENING"]))
    ready(self, model, options)


ScriptedBackend.__init__ = opened


@dataclass(frozen=True)
class Nine:
    """Stages that ask and train in turns, in the form that both sides know."""

    stages_in_all: int = 9

    def inputs(self):
        return Inputs({"a": {}, "b": {}}, {"a/0": "yes", "b/0": "yes"}, {})

    def stages(self):
        made = []
        for n in range(self.stages_in_all):
            after = (made[-1].name,) if made else ()
            more = {"lessons": self.texts} if n % 2 else {}
            made.append(Stage(f"stage-{n}", "gpu", 1, self.tuned if n % 2 else self.asked, after=after, **more))
        return tuple(made)

    def asked(self, tasks, earlier=None):
        for task in sorted(tasks):
            yield Item(task, f"{task}/0", Request(Sampling(8), prompt=task))

    def tuned(self, tasks, earlier):
        for task in sorted(tasks):
            yield Item(task, f"{task}/0", Request(Sampling(8), prompt=task, tuning=Tuning({"task": task}, 0.1, 1)))

    def texts(self, tasks, about):
        return [Lesson(text=about["task"])]
'''


def install(site: Path) -> None:
    """Lay the pipeline down as the plugin of a distribution, as pip does."""
    info = site / "nine_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "nine_stages.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nine-stages\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hybrid.pipelines]\nnine-stages = nine_stages:Nine\n")


def laid_down(commit: str, place: Path) -> bool:
    """Whether the clone has the commit; then its files are in `place`."""
    packed = subprocess.run(["git", "archive", commit], capture_output=True, cwd=ROOT, check=False)
    if packed.returncode == 0:
        place.mkdir()
        subprocess.run(["tar", "-x"], input=packed.stdout, cwd=place, check=True)
    return packed.returncode == 0


def chain(code: Path, site: Path, place: Path, opening: float) -> tuple[int, float, float]:
    """How often the tree `code` opens the model; seconds since it first did, and of the whole command."""
    place.mkdir()
    script, lines = place / "script.json", place / "opened"
    script.write_text(json.dumps({"answers": {}, "default": "yes"}))
    path = os.pathsep.join([str(code), str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    more = {"PYTHONPATH": path, "HYBRID_HOME": str(place / "home"), "OPENED": str(lines), "OPENING": str(opening)}
    where = ["--folder", str(place / "folder"), "-o", str(place / "outputs.json")]
    command = ["run", "local", "nine-stages", "--backend", "scripted", "--model", str(script), *where]
    started = time.time()
    called = [sys.executable, "-P", "-c", "import sys; from hybrid.cli import main; main(sys.argv[1:])", *command]
    done = subprocess.run(called, capture_output=True, text=True, env={**os.environ, **more}, check=False)
    ended = time.time()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((place / "outputs.json").read_text())["records"]) == 2
    times = [float(line) for line in lines.read_text().splitlines()]
    return len(times), ended - times[0], ended - started


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opening", type=float, default=1.0, help="seconds that opening the model takes")
    parser.add_argument("--beside", default=BEFORE, help="the commit to measure beside")
    chosen = parser.parse_args()
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as root:
        site, past = Path(root) / "site", Path(root) / "past"
        install(site)
        there = laid_down(chosen.beside, past)
        if not there:
            print(f"the commit {chosen.beside} is not in this clone: nothing to measure beside", flush=True)
        for n in range(RUNS):
            ours.append(chain(ROOT, site, Path(root) / f"ours-{n}", chosen.opening))
            if there:
                theirs.append(chain(past, site, Path(root) / f"theirs-{n}", chosen.opening))
    opened, seconds, command = min(ours, key=lambda one: one[1])
    was_opened, was_seconds, was_command = min(theirs, key=lambda one: one[1]) if there else (None, None, None)
    ratio = round(was_seconds / seconds, 2) if was_seconds else None
    result = {
        "name": "chain",
        "peer": f"commit {chosen.beside}",
        "stages": STAGES,
        "opened": opened,
        "peer_opened": was_opened,
        "seconds": round(seconds, 2),
        "peer_seconds": round(was_seconds, 2) if was_seconds else None,
        "ratio": ratio,
        "command_ratio": round(was_command / command, 2) if was_command else None,
        "goal": GOAL,
        "met": opened == 1 and (ratio is None or ratio >= GOAL),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
