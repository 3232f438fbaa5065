"""Seconds to train adapters of SmolLM2-135M on a CPU, compared with stock PEFT, for three mixes of text lengths.

    python benchmarks/train_cpu.py [--rounds 2] [--threads 1] [--only seal short long]

`seal`: four tasks of SEAL's training subset with the text lengths of their examples, divided by four so that it takes
minutes; 4 texts of each task represent all, at even ranks of their lengths. The peer is PEFT as SEAL uses it: batches
of 2, every text padded to the longest of its task (masked here, so that the updates are the same; learned padding costs
the same), logits for every token, one adapter after another. `short` and `long`: 8 adapters, batch size 1, texts of 32
and of 256 tokens, a ninth of them labelled: there is no padding, so the difference is batching and the rows of logits.

Both start from the same initial values, use the same texts in the same order, and must reach the same losses. They run
alternately. The smallest processor time of all rounds counts, since others may use the machine; the smallest wall time
is reported too. PEFT uses the fused AdamW, the faster one. Set-up is not timed, nor are the two short forward passes in
which a trainer measures memory once. `ratio` is that of `seal`; the goals are met when none is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from peers.lora import Peft, arc_texts, smollm2
from peers.random_models import job_of, random_text

from hybrid.training.jobs import Job, Tokens
from hybrid.training.trainer import Trainer

GOALS = {"seal": 1.8, "short": 1.0, "long": 1.0}
SCALE, TASKS, TEXTS = 4, 4, 4
VOCABULARY = 49152
TOLERANCE = 1e-3
"""Largest difference between the losses of the two: fp32 rounding over a few steps."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Jobs, and the length to which the peer pads the texts of each (0: the longest of the batch)."""

    jobs: Sequence[Job]
    longest: Mapping[str, int]


def seal_mix() -> Mix:
    """Jobs with the text lengths of real examples."""
    jobs, longest = [], {}
    for id, texts in arc_texts("seal-train", TASKS).items():
        ordered = sorted(texts, key=lambda text: len(text.ids))
        chosen = [cut(ordered[(2 * rank + 1) * len(ordered) // (2 * TEXTS)]) for rank in range(TEXTS)]
        jobs.append(job_of(id, chosen, batch=2))
        longest[id] = len(ordered[-1].ids) // SCALE
    return Mix(jobs, longest)


def cut(text: Tokens) -> Tokens:
    """The last quarter of a text, with a quarter of its labels."""
    length, labelled = len(text.ids) // SCALE, max(1, text.labelled // SCALE)
    return Tokens(text.ids[-length:], tuple(place >= length - labelled for place in range(length)))


def equal(length: int, steps: int = 2) -> Mix:
    """Eight adapters with `steps` steps of one text each, all of the same length."""
    texts = [[random_text(f"{slot} {n}", length, length // 9, VOCABULARY) for n in range(steps)] for slot in range(8)]
    return Mix([job_of(f"job{slot}", own, batch=1) for slot, own in enumerate(texts)], {})


MIXES: Mapping[str, Callable[[], Mix]] = {
    "seal": seal_mix,
    "short": partial(equal, 32, steps=4),
    "long": partial(equal, 256),
}

Losses = Mapping[str, Sequence[float]]


class ByPeft:
    """Trains one adapter after another with PEFT."""

    def __init__(self, model: Any, first: Job) -> None:
        self._peer = Peft(model, first, fused=True)

    def train(self, mix: Mix) -> Losses:
        return {job.name: self._peer.train(job, mix.longest.get(job.name, 0)) for job in mix.jobs}


class ByUs:
    """Trains all adapters in the same passes."""

    def __init__(self, model: Any, first: Job) -> None:
        self._trainer = Trainer(model, first.tuning.targets, slots=8, tokens=2048, free=lambda: 1 << 34)

    def train(self, mix: Mix) -> Losses:
        return {done.job.name: done.losses for done in self._trainer.train(mix.jobs)}


def ways(make: Callable[[], Any], first: Job) -> dict[str, ByPeft | ByUs]:
    """Both trainers, each with its own model, set up for jobs like `first`."""
    return {"peft": ByPeft(make(), first), "ours": ByUs(make(), first)}


def measured(name: str, both: Mapping[str, ByPeft | ByUs], rounds: int) -> dict[str, Any]:
    """The smallest processor and wall seconds of each, and their ratios."""
    mix = MIXES[name]()
    warm = replace(mix, jobs=[replace(job, texts=job.texts[:1]) for job in mix.jobs[:2]])
    cpu: dict[str, list[float]] = {way: [] for way in both}
    wall: dict[str, list[float]] = {way: [] for way in both}
    for turn in range(rounds + 1):
        found = {}
        for way, one in both.items():
            start, started = time.process_time(), time.perf_counter()
            found[way] = one.train(mix if turn else warm)
            if turn:
                cpu[way].append(time.process_time() - start)
                wall[way].append(time.perf_counter() - started)
        difference = max(
            abs(a - b) for id in found["peft"] for a, b in zip(*(found[way][id] for way in both), strict=True)
        )
        assert difference < TOLERANCE, f"the two ways differ by {difference}"
    figures = {way: {"cpu_s": round(min(cpu[way]), 2), "wall_s": round(min(wall[way]), 2)} for way in both}
    tokens = sum(job.tokens for job in mix.jobs)
    padded = sum(mix.longest.get(job.name, 0) * len(job.texts) for job in mix.jobs) or tokens
    ratio = min(cpu["peft"]) / min(cpu["ours"])
    print(f"{name:5} {tokens:,} tokens, padded {padded:,}: {figures}, ratio {ratio:.2f}", flush=True)
    return {
        "ratio": round(ratio, 2),
        "wall_ratio": round(min(wall["peft"]) / min(wall["ours"]), 2),
        "goal": GOALS[name],
        "tokens": tokens,
        "padding": round(padded / tokens, 2),
        **figures,
    }


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=tuple(MIXES), default=tuple(MIXES))
    how = parser.parse_args()
    torch.set_num_threads(how.threads)
    both = ways(smollm2, equal(8).jobs[0])
    found = {name: measured(name, both, how.rounds) for name in how.only}
    result = {
        "name": "train-cpu",
        "peer": "PEFT in SEAL's way, one adapter after the other",
        "ratio": found.get("seal", {}).get("ratio"),
        "goal": GOALS["seal"],
        "met": all(one["ratio"] >= one["goal"] for one in found.values()),
        "mixes": found,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
