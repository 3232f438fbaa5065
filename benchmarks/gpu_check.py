"""All that only a GPU can confirm, in one command: one JSON line a check, and a summary as the last line.

    python benchmarks/gpu_check.py [--only NAME ...] [--skip NAME ...] [--forced] [-o FILE]

Needs an environment of `requirements/gpu.txt`, and for the check `adapters` PEFT: `make gpu-check PYTHON=python3.12`
makes it. Models have random weights in the shape of Llama-3.2-1B; nothing is downloaded. It takes an hour or two on a
T4 and less on larger GPUs; 8 GB of disk and 16 GB of memory are needed.

A line has `check`, `status`, `expected`, `figures`, `seconds` and, where it did not pass, `why` and `otherwise`, what
to do. `status` is `passed`; `failed`; `error`, when the check itself broke or took too long; `not for this GPU`, when
nothing is expected of this one; `not installed`, when a library is missing; `needs a GPU`, without one. Each check is a
process of its own, so that none can end the others. `--forced` runs all of them on the CPU with tiny models, to see
that they run: `status` is then `forced` and the figures have no meaning.

`ratio` is the checks that passed / those that say something about this GPU. The exit code is 0 unless one did not pass.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from hybrid.machine.gpu_memory import let_segments_grow

let_segments_grow()  # as the command does, before torch is imported

import torch  # noqa: E402
from gpu import kernels, programs, serving, training  # noqa: E402
from gpu.checks import Check, Machine, Outcome  # noqa: E402

from hybrid.machine import nvidia  # noqa: E402
from hybrid.machine.terminal import clean_line  # noqa: E402

CHECKS: Mapping[str, Check] = {**kernels.CHECKS, **training.CHECKS, **serving.CHECKS, **programs.CHECKS}
STATUS = {True: "passed", False: "failed", None: "not for this GPU"}
SAYING = ("passed", "failed", "error")
"""What counts in `ratio`."""


def main() -> int:
    """Run the checks; 0 when all that say something passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="NAME")
    parser.add_argument("--skip", nargs="+", choices=CHECKS, default=[], metavar="NAME")
    parser.add_argument("--forced", action="store_true", help="all on the CPU, with tiny models, to see that they run")
    parser.add_argument("--child", choices=CHECKS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", type=Path, help="write the lines to this file, too")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(shown(CHECKS[given.child].run(Machine.here(forced=given.forced)))))
        return 0
    chosen = [name for name in given.only if name not in given.skip]
    lines = list[dict[str, Any]]()
    with (given.out or Path(os.devnull)).open("w", encoding="utf-8") as file:
        for name in chosen:
            lines.append(line_of(name, forced=given.forced))
            tell(lines[-1], file)
        found = summary(lines)
        tell(found, file)
    return 1 if found["met"] is False else 0


def tell(line: Mapping[str, Any], file: TextIO) -> None:
    """Print a line, and write it to the file."""
    print(json.dumps(line), flush=True)
    file.write(json.dumps(line) + "\n")
    file.flush()


def shown(outcome: Outcome) -> dict[str, Any]:
    return {"passed": outcome.passed, "figures": dict(outcome.figures), "why": outcome.why}


def line_of(name: str, *, forced: bool) -> dict[str, Any]:
    """The line of a check, which runs in a process of its own."""
    check, start = CHECKS[name], time.perf_counter()
    line: dict[str, Any] = {"check": name, "status": "", "expected": check.expected, "figures": {}}
    missing = [library for library in check.needs if find_spec(library) is None]
    if not forced and not torch.cuda.is_available():
        return {**line, "status": "needs a GPU"}
    if missing:
        return {**line, "status": "not installed", "why": f"needs {', '.join(missing)}"}
    found = in_own_process(name, check, forced=forced)
    line |= {"figures": found["figures"], "seconds": round(time.perf_counter() - start, 1)}
    if forced and "passed" in found:
        return {**line, "status": "forced"}
    status = STATUS[found["passed"]] if "passed" in found else "error"
    line |= {"status": status, "why": found["why"]} if found["why"] else {"status": status}
    return {**line, "otherwise": check.otherwise} if status in ("failed", "error") else line


def in_own_process(name: str, check: Check, *, forced: bool) -> dict[str, Any]:
    """What a check found; without `passed` where it broke, and `why` is then the end of what it said."""
    command = [sys.executable, __file__, "--child", name, *(["--forced"] if forced else [])]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try:
            code = waited(process, check.minutes * 60)
        except subprocess.TimeoutExpired:
            return {"figures": {}, "why": f"stopped after {check.minutes} minutes"}
        finally:
            end(process)
        out.seek(0)
        said = [line for line in out.read().splitlines() if line.strip()]
    result = next((line for line in reversed(said) if line.startswith('{"passed"')), "")
    if code == 0 and result:
        found: dict[str, Any] = json.loads(result)
        return found
    print("\n".join(said[-30:]), file=sys.stderr)
    return {"figures": {}, "why": clean_line(" ".join(said[-3:]), 600) or f"exit code {code}"}


def waited(process: subprocess.Popen[str], seconds: float) -> int:
    """The exit code of a process. Raises subprocess.TimeoutExpired."""
    return process.wait(seconds)


def end(process: subprocess.Popen[str]) -> None:
    """End a check with all that it started: an engine may have processes of its own, which outlive a check that broke
    and hold the GPU's memory.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session, see start_new_session
    process.wait()


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last line, as every benchmark prints it."""
    states = [str(line["status"]) for line in lines]
    counted = sum(states.count(state) for state in SAYING)
    ratio = states.count("passed") / counted if counted else None
    gpu = nvidia.own_gpu()
    return {
        "name": "gpu-check",
        "peer": "what is expected of a GPU, check by check",
        "ratio": ratio if ratio is None else round(ratio, 3),
        "goal": 1.0,
        "met": None if ratio is None else ratio == 1,
        "device": str(gpu) if gpu else "none",
        **{state: states.count(state) for state in dict.fromkeys(states)},
    }


if __name__ == "__main__":
    sys.exit(main())
