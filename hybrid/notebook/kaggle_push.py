"""A notebook pushed to Kaggle by Kaggle's own command line, which alone reads the keys: `kaggle kernels push`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hybrid.errors import CannotRun, HybridError, Temporary
from hybrid.machine.redaction import redacted
from hybrid.machine.terminal import clean_line
from hybrid.notebook.document import NotebookPlan, as_json, asks_for_a_gpu, refuse_unsupported

TWO_T4 = "NvidiaTeslaT4"
"""Kaggle's name of a machine with two T4."""
LONGEST_TITLE = 50
SECONDS = 300
"""Seconds that one call of the command line may take; it sends some 30 kB."""
LONGEST = 300
"""Most characters that are shown of what it said."""
ONLY_SAVED = "--no-run"
TALKATIVE = ("VERBOSE", "VERBOSE_OUTPUT")
"""Variables that make it print every request, the keys in it included."""

USER = re.compile(r"^- username: (\S+)$", re.MULTILINE)
PUSHED = re.compile(r"^Kernel version .*successfully (?:pushed|saved).* (https?://\S+)$", re.MULTILINE)
NO_KEY = re.compile(r"Authentication required|auth login|kaggle\.json|Unauthorized")
FOR_NOW = re.compile(r"HTTPS?Connection|ConnectionError|timed out|rate limited|on Kaggle's side|HTTPError")


def push(plan: NotebookPlan, *, start: bool) -> str:
    """Push the notebook as a new version; its address. With `start` Kaggle begins to run it at once.

    Without, it is saved only: a person has to attach the secret first, which no program of Kaggle's can do
    (github.com/Kaggle/kaggle-cli, docs/kernels.md, "Using Secrets in Kernels"). Raises CannotRun without Kaggle's
    command line or without a key, Temporary when Kaggle cannot be reached.
    """
    refuse_unsupported(plan)
    command = _command()
    user = USER.search(_said(command, "config", "view"))
    if user is None or user[1] == "None":
        raise _no_key()
    with tempfile.TemporaryDirectory(prefix="hybrid-kaggle-") as place:
        metadata = kernel_metadata(plan, user[1])
        Path(place, metadata["code_file"]).write_bytes(as_json(plan))
        Path(place, "kernel-metadata.json").write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        said = _said(command, "kernels", "push", "-p", place, *(() if start else (ONLY_SAVED,)))
    pushed = PUSHED.search(said)
    if pushed is None:  # its exit code is 0 then, too
        raise CannotRun(f"Kaggle did not take the notebook: {_shown(said)}", hint="its words may say what to change")
    return clean_line(pushed[1], LONGEST)


def kernel_metadata(plan: NotebookPlan, user: str) -> dict[str, Any]:
    """The content of kernel-metadata.json: private, with the Internet, and with two T4 where a GPU is used.

    The title is the one from which Kaggle makes the slug, so that the next push is another version of it.
    """
    pipeline, _, digest = re.sub(r"[^a-z0-9]+", "-", plan.run.id).rpartition("-")
    title = f"{pipeline[: LONGEST_TITLE - 1 - len(digest)]}-{digest}"
    gpu = asks_for_a_gpu(plan)
    return {
        "id": f"{user}/{title}",
        "title": title,
        "code_file": "notebook.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_internet": True,
        "enable_gpu": gpu,
        **({"machine_shape": TWO_T4} if gpu else {}),
    }


def _command() -> list[str]:
    """Kaggle's command line: of this Python, else on PATH. Raises CannotRun."""
    try:
        version("kaggle")
    except PackageNotFoundError:
        if found := shutil.which("kaggle"):
            return [found]
        hint = "pip install kaggle; or upload the notebook by hand: kaggle.com, Create > Notebook > File > Import"
        raise CannotRun("Kaggle's command line, which pushes a notebook, is not installed here", hint=hint) from None
    return [sys.executable, "-P", "-m", "kaggle"]


def _said(command: list[str], *arguments: str) -> str:
    """What a call printed. Raises CannotRun, Temporary."""
    environment = {name: value for name, value in os.environ.items() if name not in TALKATIVE}
    try:
        done = subprocess.run(  # noqa: S603 - without a shell; no argument is of another's making
            [*command, *arguments], env=environment, capture_output=True, stdin=subprocess.DEVNULL, text=True,
            errors="replace", check=False, timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Temporary(f"Kaggle gave no answer for {SECONDS} s", hint="run the command again") from None
    except OSError as error:
        raise CannotRun(f"{command[0]}: {error.strerror}", hint="install it again: pip install kaggle") from error
    if done.returncode:
        raise _explained(done.stdout + done.stderr)
    return done.stdout


def _explained(said: str) -> HybridError:
    if NO_KEY.search(said):
        return _no_key()
    if ONLY_SAVED in said:
        hint = f"pip install --upgrade kaggle; with --start it is run at once, which needs no {ONLY_SAVED}"
        return CannotRun("this version of Kaggle's command line cannot save a notebook without running it", hint=hint)
    if FOR_NOW.search(said):
        return Temporary(f"Kaggle cannot be reached: {_shown(said)}", hint="run the command again later")
    return CannotRun(f"Kaggle's command line failed: {_shown(said)}", hint="its words may say what to change")


def _no_key() -> CannotRun:
    hint = "`kaggle auth login`, or a token of kaggle.com/settings/api in KAGGLE_API_TOKEN or ~/.kaggle/access_token"
    return CannotRun("Kaggle's command line has no key that Kaggle accepts", hint=hint)


def _shown(said: str) -> str:
    """The end of what it said, on one line: of a traceback, the error."""
    parts = [line.strip() for line in redacted(said).splitlines() if line.strip()]
    last = parts[-1:] if "Traceback" in said else parts
    return clean_line(" ".join(last) or "nothing", LONGEST)
