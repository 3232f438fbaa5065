"""The task files of `hybrid notebook skypilot` read by SkyPilot's parser, in an environment that it makes.

    python benchmarks/task_files.py

`ratio` is the fraction of task files of which SkyPilot reads what was meant: spot machines, the codes after which a job
is started again, the GPUs or CPUs, the mount, the secret and the command. SkyPilot is 460 MB installed and needs 40
seconds of CPU for that, so the tests compare with a golden task file instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

SKYPILOT = "skypilot==0.14.1"
PLACES = ("/mnt/shared", "s3://bucket/shared/folder", "gs://bucket", "r2://bucket")
BACKENDS = (("vllm", "org/name"), ("scripted", "answers"))
READ = """
import json, sys
import sky
task = sky.Task.from_yaml(sys.argv[1])
(resources, *_) = task.resources
print(json.dumps({
    "name": task.name, "run": task.run, "spot": resources.use_spot,
    "codes": resources.job_recovery["recover_on_exit_codes"],
    "gpus": sorted(name for one in task.resources for name in one.accelerators or {}),
    "mounts": {place: [one.source, one.mode.value] for place, one in task.storage_mounts.items()},
    "secrets": sorted(task.secrets),
}))
"""


def made(root: Path) -> Path:
    """The Python of an environment with SkyPilot."""
    venv.create(root / "environment", with_pip=True)
    python = root / "environment" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", SKYPILOT], check=True)
    return python


def task_file(root: Path, backend: str, model: str, place: str) -> tuple[Path, str]:
    """A task file that the real command wrote, and its run."""
    hybrid = [sys.executable, "-m", "hybrid"]
    environment = {**os.environ, "HYBRID_HOME": str(root / "home"), "HYBRID_FOLDER": str(root / "shared")}
    asked = ["--backend", backend, "--model", model, "--set=dataset=arc1-training", "--limit=1"]
    subprocess.run([*hybrid, "init", str(root / "shared")], check=True, env=environment, capture_output=True)
    submitted = [*hybrid, "run", "remote", "seal-eval", *asked]
    run = subprocess.run(submitted, check=True, env=environment, capture_output=True, text=True).stdout.strip()
    path = root / "task.yaml"
    path.unlink(missing_ok=True)
    written = [*hybrid, "notebook", "skypilot", run, f"--out={path}", f"--at={place}"]
    subprocess.run(written, check=True, env=environment, capture_output=True)
    return path, run


def fits(read: dict[str, object], run: str, backend: str, place: str) -> bool:
    """Whether SkyPilot read what was meant."""
    command, gpu, mounted = str(read.pop("run")), backend == "vllm", "://" in place
    return "HYBRID_PROGRAM" in command and read == {
        "name": run,
        "spot": True,
        "codes": [5],
        "gpus": sorted(["T4", "L4", "A10G", "A100", "H100"]) if gpu else [],
        "mounts": {"~/hybrid-folder": [place, "MOUNT_CACHED"]} if mounted else {},
        "secrets": ["HF_TOKEN"] if gpu else [],
    }


def main() -> None:
    """Print the result as one JSON object on the last line."""
    read_well, total = 0, 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        python = made(root)
        environment = {**os.environ, "SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "HOME": str(root / "home")}
        for backend, model in BACKENDS:
            for place in PLACES:
                path, run = task_file(root, backend, model, place)
                done = subprocess.run(
                    [python, "-c", READ, str(path)], env=environment, capture_output=True, text=True, check=False
                )
                read = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {"run": ""}
                good = fits(dict(read), run, backend, place)
                print(backend, place, "as meant" if good else f"NOT: {read} {done.stderr[-500:]}")
                read_well, total = read_well + good, total + 1
    ratio = read_well / total
    print(json.dumps({"name": "task_files", "peer": SKYPILOT, "ratio": ratio, "goal": 1.0, "met": ratio >= 1.0}))


if __name__ == "__main__":
    main()
