"""One queue for all prompts compared with one prompt after another, as in SEAL, on the same engine and machine.

    python benchmarks/inference.py [--backend llamacpp|transformers|vllm] [--model smollm2] [--tasks 3] [--rounds 2]

The prompts are those of `seal-eval` on small ARC tasks. Both are timed on one loaded engine, alternately, and the
better round of each counts. Without --backend, every installed engine is measured in its own process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import Any

from hybrid.backends.registry import open_backend
from hybrid.protocols import Backend
from hybrid.records import Completion, Request, Sampling
from pipelines.seal.eval import SealEval

LIBRARIES = {"llamacpp": "xllamacpp", "vllm": "vllm"}
GOALS = {"cuda": 20.0, "older cuda": 8.0, "cpu": 1.0}
"""GPUs from Ampere on, older GPUs, and CPUs: one prompt keeps a CPU busy, so there the queue must only not be
slower."""


def requests(tasks: int, max_tokens: int) -> list[Request]:
    """The requests of `seal-eval`, with answers of one length so that both sides do the same work."""
    pipeline = SealEval(dataset="arc1-training", subset="small", limit=tasks, permute_n=0, views=("transpose",))
    inputs = pipeline.inputs()
    (stage,) = pipeline.stages()
    return [
        Request(Sampling(max_tokens), messages=item.request.messages, template=item.request.template, key=str(number))
        for number, item in enumerate(stage.items(inputs.tasks))
    ]


def seconds(work: list[list[Request]], backend: Backend) -> tuple[float, list[Completion]]:
    """Wall time of answering one list after another, and all completions."""
    start = time.perf_counter()
    done = [completion for part in work for completion in backend.generate(iter(part))]
    return time.perf_counter() - start, done


def goal(backend: Backend) -> float:
    """The goal of this device."""
    device = str(backend.model.about.get("device", "cpu")).lower()
    if "cpu" in device or backend.model.about["engine"] == "llamacpp":
        return GOALS["cpu"]
    return GOALS["older cuda" if backend.model.about.get("dtype") == "float16" else "cuda"]


def measure(name: str, model: str, tasks: int, max_tokens: int, rounds: int) -> dict[str, Any]:
    """The result of one engine."""
    backend = open_backend(name, model, {})
    asked = requests(tasks, max_tokens)
    alone: list[float] = []
    queued: list[float] = []
    tokens, computed = 0, dict[str, int]()
    for turn in range(rounds):
        # Other prompts each time, so that no prefix cache is warmer for the second side.
        for way, times in (("alone", alone), ("queued", queued)):
            marked = [_marked(request, f"{way} {turn}") for request in asked]
            taken, done = seconds([[one] for one in marked] if way == "alone" else [marked], backend)
            if failed := [one for one in done if one.error]:
                raise SystemExit(f"{len(failed)} of {len(done)} failed: {failed[0].error}")
            tokens = sum(one.completion_tokens for one in done)
            computed[way] = sum(one.prompt_tokens - one.cached_tokens for one in done)  # the rest was cached
            times.append(taken)
    ratio = min(alone) / min(queued)
    about = dict(backend.model.about)
    figures = {
        "prompts": len(asked),
        "tokens": tokens,
        "alone_s": min(alone),
        "queued_s": min(queued),
        "prompt_tokens": computed,
    }
    backend.close()
    return {"ratio": ratio, "goal": goal(backend), **figures, "about": about}


def _marked(request: Request, mark: str) -> Request:
    first, *rest = request.messages
    marked = type(first)(first.role, f"[{mark}] {first.content}")
    return Request(request.sampling, messages=(marked, *rest), template=request.template, key=request.key)


def main() -> None:
    """Measure the chosen engine, or every installed one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--backend", choices=("llamacpp", "transformers", "vllm"))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    how = parser.parse_args()
    if how.backend:
        found = {how.backend: measure(how.backend, how.model, how.tasks, how.max_tokens, how.rounds)}
    else:
        found = {name: _in_own_process(name) for name, library in LIBRARIES.items() if find_spec(library)}
    print(json.dumps(_summary(found)))


def _in_own_process(name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--backend", name, *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["backends"][name]
    return figures


def _summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The result. Its ratio is that of the engine that is closest to missing its goal."""
    if not found:
        raise SystemExit("no engine is installed: pip install '.[llamacpp]'")
    worst = min(found.values(), key=lambda one: one["ratio"] / one["goal"])
    return {
        "name": "inference",
        "peer": "one prompt at a time on the same engine, as SEAL does",
        "ratio": round(worst["ratio"], 3),
        "goal": worst["goal"],
        "met": all(one["ratio"] >= one["goal"] for one in found.values()),
        "backends": found,
    }


if __name__ == "__main__":
    main()
