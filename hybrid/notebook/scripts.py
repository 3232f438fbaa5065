"""Scripts that do what a plain notebook does, without a browser: for ssh, SkyPilot and Slurm.

Each holds one program: the code of the notebook's cells, in order, between what a program needs beside them. It ends
with the worker's exit code. The scripts hold no secrets: HF_TOKEN comes from the environment.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Literal, get_args

from hybrid.machine.replacing import replacing
from hybrid.notebook import cells, shell
from hybrid.notebook.document import (
    NotebookPlan,
    asks_for_a_gpu,
    assigned,
    by_ollama,
    fixed,
    folder_cell,
    parameters,
    refuse_unsupported,
)

ScriptKind = Literal["ssh", "skypilot", "slurm"]
SCRIPTS: tuple[str, ...] = get_args(ScriptKind)
SUFFIX = {"ssh": ".sh", "skypilot": ".yaml", "slurm": ".sbatch"}
BEGINS = {
    "ssh": b"#!/bin/bash\n# A worker of hybrid over ssh",
    "skypilot": b"# A worker of hybrid on SkyPilot",
    "slurm": b"#!/bin/bash\n# A worker of hybrid on Slurm",
}
"""How a script of each kind begins: only such a file is replaced."""
BUCKET = re.compile(r"(s3|gs|r2|https|cos|oci|nebius)://[^\s'\"]+")
"""The folder's place when SkyPilot is to mount it."""
MOUNTED = "~/hybrid-folder"
ANY_GPU = "{T4: 1, L4: 1, A10G: 1, A100: 1, H100: 1}"
LOCAL = "~/.cache/hybrid-notebook"

WORDS = {
    "Run all cells again": "Start this script again",
    "run all cells again": "start this script again",
    'run all "\n    "cells again': 'start "\n    "this script again',
    "stop the cell once more": "ask once more",
    "this notebook was made": "this script was made",
    "make the notebook anew": "make the script anew",
}
"""Words of the notebook's messages -> those of the script's."""

BEFORE = '''
import fcntl
import platform
import signal


def ended(kind, error, trace):
    """Leave with words and an exit code: the worker's, else 4 for what was stopped and 7 for what cannot be done."""
    if kind is KeyboardInterrupt:
        print("STOPPED: it was asked to end before the worker was started", flush=True)
    elif kind is Stop:
        print(f"STOPPED: {error}", flush=True)
    else:
        sys.__excepthook__(kind, error, trace)
    sys.stderr.flush()
    code = 4 if kind is KeyboardInterrupt else 7 if kind is Stop else 1
    os._exit(globals().get("CODE", code) % 256)


sys.excepthook = ended
for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
    signal.signal(number, signal.default_int_handler)
OPTIONS = [*OPTIONS, *sys.argv[1:]]
'''

ONE_INSTALLS = """
LOCAL.mkdir(parents=True, exist_ok=True)
ONE_INSTALLS = (LOCAL / "install.lock").open("w")
fcntl.flock(ONE_INSTALLS, fcntl.LOCK_EX)  # several nodes may see this place
"""

INSTALLED = """
ONE_INSTALLS.close()
"""

OWN_SPOOL = """
os.environ.setdefault("HYBRID_HOME", str(LOCAL / "nodes" / platform.node()))  # homes are shared by nodes
"""

AFTER = """
sys.stdout.flush()
os._exit(CODE % 256)
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A kind of script and what it is made for; the plan is that of a plain notebook."""

    kind: ScriptKind
    plan: NotebookPlan

    @property
    def folder(self) -> str:
        """Where the machine sees the folder."""
        return MOUNTED if self.mounts else self.plan.place

    @property
    def mounts(self) -> bool:
        """Whether SkyPilot is to mount the folder."""
        return self.kind == "skypilot" and BUCKET.fullmatch(self.plan.place) is not None


def write_script(script: Script, path: Path) -> None:
    """Write the script. Raises UsageError when `path` is another file, or a worker needs a notebook's person."""
    refuse_unsupported(replace(script.plan, place=script.folder))
    with replacing(path, BEGINS[script.kind]) as stream:
        stream.write(text_of(script).encode(errors="backslashreplace"))


def text_of(script: Script) -> str:
    """The script's text. The same run, wheels and place give the same text."""
    found = program(script)
    run = script.plan.run.id
    if script.kind == "skypilot":
        return _skypilot(script, found)
    gpu = "#SBATCH --gpus=1\n" if asks_for_a_gpu(script.plan) else ""
    text = shell.SSH if script.kind == "ssh" else shell.SLURM
    return Template(text).substitute(run=run, gpu=gpu, python=shell.PYTHON, program=found, local=LOCAL)


def program(script: Script) -> str:
    """The Python program: parameters, then the notebook's cells."""
    plan = replace(script.plan, place=script.folder)
    given = {**parameters(plan), "LOCAL": (LOCAL, "a place for the environment, never in the shared folder")}
    folder = "FOLDER = os.path.expanduser(FOLDER)\n" if script.mounts else ""
    parts = [
        assigned(given),
        assigned(fixed(plan)) + cells.GROUND,
        BEFORE + (OWN_SPOOL if script.kind == "slurm" else "") + folder,
        folder_cell(plan),
        ONE_INSTALLS + cells.INSTALL + INSTALLED,
        *([cells.OLLAMA] if by_ollama(plan) else []),
        *([cells.MODELS] if plan.restored else []),
        cells.WORKER["plain"],
        cells.END["plain"],
        AFTER,
    ]
    return "\n\n".join(_without_cells(part.strip("\n")) for part in parts) + "\n"


def _without_cells(text: str) -> str:
    """The same advice where there are no cells."""
    for before, after in WORDS.items():
        text = text.replace(before, after)
    return text


def _skypilot(script: Script, found: str) -> str:
    """The task file: YAML, in which a quoted text is written as JSON."""
    plan, mount = script.plan, ""
    if script.mounts:
        mount = f"file_mounts:\n  {MOUNTED}: {{source: {json.dumps(plan.place)}, mode: MOUNT_CACHED}}\n"
    secrets = (
        'secrets:\n  HF_TOKEN: ""  # sky jobs launch --secret HF_TOKEN THIS_FILE\n'
        if parameters(plan)["ASK_HF_TOKEN"][0]
        else ""
    )
    gpu = f"  accelerators: {ANY_GPU}  # one of these\n" if asks_for_a_gpu(plan) else "  cpus: 4+\n"
    run = f"{shell.PYTHON}\nexec \"$PYTHON\" -u - <<'HYBRID_PROGRAM'\n{found}HYBRID_PROGRAM\n"
    indented = "".join(f"  {line}" if line.strip() else line for line in run.splitlines(keepends=True))
    return Template(shell.SKYPILOT).substitute(run=plan.run.id, gpu=gpu, mount=mount, secrets=secrets, program=indented)
