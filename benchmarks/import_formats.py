"""Speed and memory of `hybrid grade` on files of other tools, compared with inspect_ai reading its own logs.

    python benchmarks/import_formats.py [--samples 200000] [--sample 4000]

The files are made of one real sample of each tool (tests/data/formats), with other ids, answers and scores. `hybrid
grade` is timed as a whole process: start-up, reading, grading, writing the grades. Of inspect_ai only `read_eval_log`
is timed, without its import and without grading, on a log of `--sample` samples: a larger one does not fit into memory.
Its rate is taken to be the same for all, which favours it. The ratios are of processor seconds a sample, `wall_ratio`
of samples a second. lm-eval has no reader of its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybrid.formats.zip_members import members_of, read_member

FILES = Path(__file__).parents[1] / "tests" / "data" / "formats"
LOG = FILES / "made_inspect_epochs3_0.3.285.eval"
ROWS = FILES / "made_lmeval_0.4.13_samples_made_mc.jsonl"
GOAL, GOAL_MB = 10.0, 300

PEER = """
import sys, time
from inspect_ai.log import read_eval_log
start, processor = time.perf_counter(), time.process_time()
log = read_eval_log(sys.argv[1])
print(len(log.samples), time.perf_counter() - start, time.process_time() - processor)
"""


def parts() -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and a sample of a real log."""
    members = {one.name: one for one in members_of(LOG)}
    with LOG.open("rb") as stream:
        header, sample = (
            json.loads(read_member(stream, members[name])) for name in ("header.json", "samples/1_epoch_1.json")
        )
    header["eval"]["config"] |= {"epochs": 1, "epochs_reducer": ["mean"]}
    return header, sample


def samples(count: int, indent: int | None) -> Iterator[tuple[int, str]]:
    """Number and JSON of `count` samples: 1 % errors, half of the others right."""
    rng = random.Random(0)
    _, sample = parts()
    choice = {"message": {"content": "ANSWER: <said>", "role": "assistant"}, "stop_reason": "stop"}
    sample |= {"id": "<id>", "input": "Repeat the number <number>", "target": "<number>"}
    sample["output"] |= {"choices": [choice], "completion": "ANSWER: <said>"}
    sample["scores"]["match"]["value"] = "<score>"
    error = {"message": "timeout", "traceback": "", "traceback_ansi": ""}
    good, bad = (json.dumps(one, indent=indent) for one in (sample, {**sample, "error": error, "scores": None}))
    for number in range(1, count + 1):
        right, text = rng.random() < 0.5, bad if rng.random() < 0.01 else good
        said = str(number if right else number + 1)
        text = text.replace('"<id>"', str(number)).replace("<number>", str(number))
        yield number, text.replace("<said>", said).replace("<score>", "C" if right else "I")


def header_of(count: int) -> dict[str, Any]:
    """The header of a log of `count` samples."""
    header, _ = parts()
    ids = list(range(1, count + 1))
    header["eval"]["dataset"] |= {"samples": count, "sample_ids": ids}
    header["results"] |= {"total_samples": count, "completed_samples": count}
    return header


def write_packed(path: Path, count: int) -> None:
    """A log as a zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as log:
        for number, text in samples(count, None):
            log.writestr(f"samples/{number}_epoch_1.json", text)
        log.writestr("header.json", json.dumps(header_of(count)))


def write_plain(path: Path, count: int) -> None:
    """A log as one JSON document, indented as inspect writes it."""
    with path.open("w") as log:
        log.write(json.dumps(header_of(count))[:-1] + ',\n"samples": [\n')
        for number, text in samples(count, 2):
            log.write((",\n" if number > 1 else "") + text)
        log.write("\n]}\n")


def write_lm_eval(path: Path, count: int) -> None:
    """Rows of a choice task."""
    rng = random.Random(0)
    row = json.loads(ROWS.read_text().splitlines()[0])
    with path.open("w") as rows:
        for number in range(count):
            score = float(rng.random() < 0.5)
            rows.write(json.dumps({**row, "doc_id": number, "acc": score, "acc_norm": score}) + "\n")


def ours(path: Path) -> tuple[float, float, float]:
    """Wall and processor seconds and peak resident megabytes of the real command, in a process of its own."""
    code = (
        "import resource,subprocess,sys,time;s=time.perf_counter();"
        "r=subprocess.run([sys.executable,'-m','hybrid','grade',sys.argv[1],'--json'],capture_output=True,text=True);"
        "u=resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(r.stdout.strip()[-400:],r.stderr,file=sys.stderr);assert r.returncode==0;"
        "print(time.perf_counter()-s,u.ru_utime+u.ru_stime,u.ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, stdout=subprocess.PIPE, text=True)
    seconds, processor, peak = map(float, done.stdout.split())
    return seconds, processor, peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def theirs(path: Path) -> tuple[int, float, float]:
    """Samples, wall and processor seconds of `read_eval_log`."""
    done = subprocess.run([sys.executable, "-c", PEER, str(path)], check=True, stdout=subprocess.PIPE, text=True)
    count, seconds, processor = done.stdout.split()
    return int(count), float(seconds), float(processor)


def measured(folder: Path, count: int, sample: int) -> dict[str, float]:
    """Samples a second of both, and our memory, for both layouts of a log and for lm-eval."""
    found: dict[str, float] = {}
    for name, write in (("eval", write_packed), ("json", write_plain), ("lm_eval", write_lm_eval)):
        large = folder / f"large.{'jsonl' if name == 'lm_eval' else name}"
        start = time.perf_counter()
        write(large, count)
        print(f"{name}: {large.stat().st_size / 1e6:,.0f} MB made in {time.perf_counter() - start:.0f} s")
        seconds, processor, peak = ours(large)
        large.unlink()
        found |= {f"{name}_rate": count / seconds, f"{name}_cpu_ms": 1000 * processor / count, f"{name}_mb": peak}
        if name != "lm_eval":
            small = folder / f"small.{name}"
            write(small, sample)
            read, seconds, processor = theirs(small)
            assert read == sample
            found |= {f"{name}_peer_rate": read / seconds, f"{name}_peer_cpu_ms": 1000 * processor / read}
            found[f"{name}_ratio"] = found[f"{name}_peer_cpu_ms"] / found[f"{name}_cpu_ms"]
            found[f"{name}_wall_ratio"] = found[f"{name}_rate"] / found[f"{name}_peer_rate"]
            small.unlink()
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Make the files, grade them, and print the result as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--sample", type=int, default=4_000, help="samples that the peer reads")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hybrid-import-") as place:
        found = measured(Path(place), asked.samples, asked.sample)
    ratio = min(found["eval_ratio"], found["json_ratio"])
    memory = max(found["eval_mb"], found["json_mb"], found["lm_eval_mb"])
    result = {
        "name": "import_formats",
        "samples": asked.samples,
        "peer": f"inspect_ai {importlib.metadata.version('inspect_ai')} read_eval_log, {asked.sample} samples",
        **found,
        "ratio": ratio,
        "mb": memory,
        "goal": GOAL,
        "goal_mb": GOAL_MB,
        "met": ratio >= GOAL and memory <= GOAL_MB,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
