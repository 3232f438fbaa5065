"""Seconds to train adapters of SmolLM2-135M on a CPU: ours beside stock PEFT, in three mixes of lengths.

    python benchmarks/train_cpu.py [--rounds 2] [--threads 1] [--only seal short long]

`seal`: four tasks of SEAL's training subset with the lengths of their examples, cut to a quarter so that it ends in
minutes; of each task 4 texts stand for all, at even ranks of their lengths. The peer is PEFT in SEAL's way: batches of
2, every text padded to the longest of its task (masked, as ours does the same updates; padding that is learned costs
the same), logits for every token, one adapter after the other. `short` and `long`: 8 adapters, batch 1, texts of 32 and
of 256 tokens, a ninth of them labelled: nothing is padded there, so what is left is batching and the rows of logits.

Both ways start from the same first values, take the same texts in the same order, and must come to the same losses.
They run in turns; the least processor time of all rounds counts, as others may use the machine, and the least wall time
is beside it. PEFT's AdamW is the fused one, the quicker. Setting up is not timed, nor the two short forward passes by
which a trainer measures memory once. `ratio` is that of `seal`; met when no goal is missed.
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
from peers.lora import Peft, arc_texts, job_of, random_text, smollm2

from hybrid.training.jobs import Job, Tokens
from hybrid.training.trainer import Trainer

GOALS = {"seal": 1.8, "short": 1.0, "long": 1.0}
SCALE, TASKS, TEXTS = 4, 4, 4
VOCABULARY = 49152
APART = 1e-3
"""Most difference of the losses of the two ways: fp32 rounding over a few steps."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Jobs, and the length that the peer pads each one's texts to (0: that of the batch)."""

    jobs: Sequence[Job]
    longest: Mapping[str, int]


def seal_mix() -> Mix:
    """The lengths of real examples."""
    jobs, longest = [], {}
    for id, texts in arc_texts("seal-train", TASKS).items():
        ordered = sorted(texts, key=lambda text: len(text.ids))
        chosen = [cut(ordered[(2 * rank + 1) * len(ordered) // (2 * TEXTS)]) for rank in range(TEXTS)]
        jobs.append(job_of(id, chosen, batch=2))
        longest[id] = len(ordered[-1].ids) // SCALE
    return Mix(jobs, longest)


def cut(text: Tokens) -> Tokens:
    """The end of a text, a quarter of its tokens and labels."""
    length, labelled = len(text.ids) // SCALE, max(1, text.labelled // SCALE)
    return Tokens(text.ids[-length:], tuple(place >= length - labelled for place in range(length)))


def equal(length: int, steps: int = 2) -> Mix:
    """Eight adapters, some steps of one text each, all of one length."""
    texts = [[random_text(f"{slot} {n}", length, length // 9, VOCABULARY) for n in range(steps)] for slot in range(8)]
    return Mix([job_of(f"job{slot}", own, batch=1) for slot, own in enumerate(texts)], {})


MIXES: Mapping[str, Callable[[], Mix]] = {
    "seal": seal_mix,
    "short": partial(equal, 32, steps=4),
    "long": partial(equal, 256),
}

Losses = Mapping[str, Sequence[float]]


class ByPeft:
    """One adapter after the other."""

    def __init__(self, model: Any, first: Job) -> None:
        self._peer = Peft(model, first, fused=True)

    def train(self, mix: Mix) -> Losses:
        return {job.name: self._peer.train(job, mix.longest.get(job.name, 0)) for job in mix.jobs}


class ByUs:
    """All adapters in the same passes."""

    def __init__(self, model: Any, first: Job) -> None:
        self._trainer = Trainer(model, first.tuning.targets, slots=8, tokens=2048, free=lambda: 1 << 34)

    def train(self, mix: Mix) -> Losses:
        return {done.job.name: done.losses for done in self._trainer.train(mix.jobs)}


def ways(make: Callable[[], Any], first: Job) -> dict[str, ByPeft | ByUs]:
    """Both, each with a model of its own, set up for jobs like `first`."""
    return {"peft": ByPeft(make(), first), "ours": ByUs(make(), first)}


def measured(name: str, both: Mapping[str, ByPeft | ByUs], rounds: int) -> dict[str, Any]:
    """The least processor and wall seconds of each way, and their ratios."""
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
        apart = max(abs(a - b) for id in found["peft"] for a, b in zip(*(found[way][id] for way in both), strict=True))
        assert apart < APART, f"the two ways differ by {apart}"
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
