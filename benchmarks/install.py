"""From an empty machine to the first item: seconds and bytes of what a notebook installs, three ways.

    .venv-test/bin/python benchmarks/install.py --python /path/to/python3.12

Each way runs the cells of one notebook (backend `transformers`, a tiny random model, two items on the CPU) in a Python
without packages. The peer is the earlier notebook: `pip install wheel[torch]`, the newest (now PINS = 'newest').
`pinned` installs what was tested; `site` uses torch and transformers of the site, here a copy of what `pinned`
installed without what Colab and Kaggle do not have. About 9 GB are downloaded and 20 GB of disk used for a while.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
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
ABSENT = re.compile(r"_*(hybrid|pipelines|graders|gguf|ijson|orjson|zstandard|llguidance|accelerate|filelock)([-.].*)?")
"""What a site does not have, or may not."""


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser()
    found = shutil.which("python3.12") or shutil.which("python3.13")
    parser.add_argument("--python", default=found, help="a Python 3.12 or 3.13 without packages")
    python = parser.parse_args().python or sys.exit("error: needs python3.12 or python3.13: --python")
    with tempfile.TemporaryDirectory(prefix="install-") as place:
        root = Path(place)
        cells = notebook_of(root)
        pinned = measured(root / "pinned", cells, [python], {})
        site = site_of(root / "site-python", python, root / "pinned")
        again(root)
        own = measured(root / "site", cells, [str(site)], {"SITE_TORCH": True})
        again(root)
        newest = measured(root / "newest", cells, [python], {"PINS": "newest"})
    result = {
        "name": "install",
        "peer": "the earlier notebook: pip install of the newest packages",
        "newest": newest,
        "pinned": pinned,
        "site": own,
        "ratio": round(newest["seconds"] / own["seconds"], 2),
        "pinned_ratio": round(newest["seconds"] / pinned["seconds"], 2),
        "goal": GOAL,
    }
    print(json.dumps({**result, "met": result["ratio"] >= GOAL}))


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


def measured(place: Path, cells: list[str], python: list[str], parameters: dict[str, Any]) -> dict[str, Any]:
    """Seconds until the worker ended and bytes that arrived, of the cells run from nothing in `place`."""
    place.mkdir()
    root = place.parent
    options = ["--once", "--linger=1s", f"--model=tiny={root / 'model'}", "--backend-option=device=cpu"]
    given = {"LOCAL": str(place), "FOLDER": str(root / "shared"), "OPTIONS": options, **parameters}
    script = "\n\n".join([cells[0], *(f"{name} = {value!r}" for name, value in given.items()), *cells[1:]])
    own = {"HYBRID_HOME": str(place / "home"), "PIP_NO_CACHE_DIR": "1"}
    before, start = received(), time.perf_counter()
    done = subprocess.run(
        [*python, "-c", script], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    sys.stderr.write(done.stdout[-3000:] + done.stderr[-3000:])
    if done.returncode:
        sys.exit(f"error: {place.name} failed, see above")
    return {"seconds": round(seconds, 1), "bytes": received() - before}


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
