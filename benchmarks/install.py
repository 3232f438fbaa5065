"""From an empty machine to the first item: seconds and bytes of what a notebook installs, in three ways.

    .venv-test/bin/python benchmarks/install.py --python /path/to/python3.12 [--pinned] [--limit 600]

Each way runs the cells of one notebook (backend `transformers`, a tiny random model, two items on the CPU) in a Python
without packages. The peer is the earlier notebook, which is run first: `pip install wheel[torch]`, the newest (now PINS
= 'newest'). `site` uses torch and transformers of the site, here a copy of what the peer installed without what Colab
and Kaggle do not have. `--pinned` also measures what was tested, which is installed by default. A way that is not
at its end after `--limit` seconds is stopped: then the ratio is at least the one that is told (`at_least`), and the
site is a copy of what `pinned` installs. About 3 GB are downloaded, 6 GB with `--pinned`, and 20 GB of disk used.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from hybrid.commands.notebook import notebook

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.notebook.test_notebook import code_of, submitted
from tests.support.small_hf_model import chatml, write_model

GOAL = 2.0
GRACE = 60
"""Seconds that a stopped way has to end."""
ABSENT = re.compile(r"_*(hybrid|pipelines|graders|gguf|ijson|orjson|zstandard|llguidance|accelerate|filelock)([-.].*)?")
"""What a site does not have, or may not."""


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser()
    found = shutil.which("python3.12") or shutil.which("python3.13")
    parser.add_argument("--python", default=found, help="a Python 3.12 or 3.13 without packages")
    parser.add_argument("--pinned", action="store_true", help="measure what was tested, too")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a way is stopped")
    given = parser.parse_args()
    python = given.python or sys.exit("error: needs python3.12 or python3.13: --python")
    with tempfile.TemporaryDirectory(prefix="install-") as place:
        root = Path(place)
        cells = notebook_of(root)
        newest = measured(root / "newest", cells, [python], {"PINS": "newest"}, given.limit)
        pinned = None
        if given.pinned or not newest["ended"]:
            pinned = measured(root / "pinned", cells, [python], {}, given.limit)
            if not pinned["ended"]:
                sys.exit(f"error: no way was at its end after {given.limit:.0f} s: --limit")
        of = root / ("newest" if newest["ended"] else "pinned")
        site = site_of(root / "site-python", python, of)
        own = measured(root / "site", cells, [str(site)], {"SITE_TORCH": True}, given.limit)
    ratio = round(newest["seconds"] / own["seconds"], 2)
    result = {
        "name": "install",
        "peer": "the earlier notebook: pip install of the newest packages",
        "newest": newest,
        "pinned": pinned,
        "site": own,
        "ratio": ratio,
        "at_least": not newest["ended"],
        "goal": GOAL,
    }
    print(json.dumps({**result, "met": own["ended"] and ratio >= GOAL}))


def again(root: Path) -> None:
    """Empty the run of its answers, so that the next way answers the same items."""
    for path in (root / "shared" / "runs").iterdir():
        for inner in path.iterdir():
            if inner.is_dir():
                shutil.rmtree(inner)


def notebook_of(root: Path) -> list[str]:
    """The code cells of a notebook for a run of two items, and the tiny model that answers them."""
    run = submitted(root / "shared", backend="transformers", model="tiny")
    write_model(root / "model", chatml(), 4096)
    path = root / "run.ipynb"
    done = CliRunner().invoke(notebook, ["plain", run.id, f"--folder={root / 'shared'}", f"--out={path}"])
    if done.exception:
        raise done.exception
    return code_of(path)


def measured(
    place: Path, cells: list[str], python: list[str], parameters: dict[str, Any], limit: float
) -> dict[str, Any]:
    """Seconds until the worker ended, or until `limit`, and bytes that arrived, of the cells run from nothing."""
    place.mkdir()
    root = place.parent
    again(root)
    options = ["--once", "--linger=1s", f"--model=tiny={root / 'model'}", "--backend-option=device=cpu"]
    given = {"LOCAL": str(place), "FOLDER": str(root / "shared"), "OPTIONS": options, **parameters}
    script = "\n\n".join([cells[0], *(f"{name} = {value!r}" for name, value in given.items()), *cells[1:]])
    own = {"HYBRID_HOME": str(place / "home"), "PIP_NO_CACHE_DIR": "1"}
    before, start = received(), time.perf_counter()
    code = until_end([*python, "-c", script], {**os.environ, **own}, limit)
    result = {
        "seconds": round(time.perf_counter() - start, 1),
        "bytes": received() - before,
        "ended": code is not None,
    }
    if code:
        sys.exit(f"error: {place.name} failed, see above")
    print(f"{place.name}: {json.dumps(result)}", file=sys.stderr, flush=True)
    return result


def until_end(command: list[str], environment: dict[str, str], limit: float) -> int | None:
    """The exit code of a command; None when it was stopped after `limit` seconds, with all that it started."""
    with subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # the cells pass it on: what they start has a session of its own
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            return None


def received() -> int:
    """Bytes that this machine has received, over all of its networks but its own loop."""
    rows = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    return sum(int(row.split(":")[1].split()[0]) for row in rows if row.split(":")[0].strip() != "lo")


def site_of(place: Path, python: str, pinned: Path) -> Path:
    """A Python that has the packages of an environment, as a site's own, but for some."""
    subprocess.run([python, "-m", "venv", place], check=True)
    (packages,) = pinned.glob("environment-*/lib/python*/site-packages")
    given = place / "of-the-site" / "site-packages"
    given.mkdir(parents=True)
    for path in packages.iterdir():
        if not ABSENT.fullmatch(path.name):
            given.joinpath(path.name).symlink_to(path)
    (own,) = place.glob("lib/python*/site-packages")
    own.joinpath("here.pth").write_text(f"{given}\n", encoding="utf-8")
    return place / "bin" / "python"


if __name__ == "__main__":
    main()
