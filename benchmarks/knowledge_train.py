"""Processor seconds of a round's trainings in `seal-knowledge`, compared with the published way, on a CPU.

    python benchmarks/knowledge_train.py [--rounds 2] [--threads 1] [--adapters 8] [--longest 0]

The texts are those that the pipeline makes of the sample's passages, with the sentences of each as what was written
about it, in the tokens of SmolLM2-135M: a few short ones and the passage, each below the title. The settings are the
pipeline's, with one epoch. The peer is stock PEFT as SEAL uses it: one adapter after another, batches of one, all texts
padded. SEAL pads to 2,048 tokens, here to the longest text of the training unless `--longest` says otherwise, which
flatters the peer. Padding is masked on both sides, so that the updates are the same; learned padding costs the same.

Both start from the same values and must reach the same losses. They run alternately; the smallest processor time of
all rounds counts. The peer uses the fused AdamW, the faster one. `ratio` is the peer's time over ours.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from peers.lora import Peft, smollm2
from peers.random_models import SMOLLM2
from transformers import AutoTokenizer

from hybrid.backends.tuned.examples import texts_of
from hybrid.model_files.location import locate
from hybrid.training.jobs import Job
from hybrid.training.trainer import Trainer
from pipelines.seal.knowledge.documents import training_examples
from pipelines.seal.knowledge.pipeline import SealKnowledge

GOAL = 1.8
TOLERANCE = 1e-3
"""Largest difference between the losses of the two: fp32 rounding over a few steps."""

Losses = Mapping[str, Sequence[float]]


def jobs(count: int) -> list[Job]:
    """The trainings of `count` passages of the sample."""
    pipeline = SealKnowledge(rounds=1, passages=count, eval_passages=0, epochs=1)
    tasks, gguf = pipeline.inputs().tasks, locate("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    found = []
    for id, task in sorted(tasks.items()):
        written = re.sub(r"(?<=[.!?]) ", "\n", task["context"])
        tuning = pipeline.tuning(pipeline.division.examples(tasks, [(id, [written])]))
        texts, _ = texts_of(
            training_examples(tasks, tuning.examples), tuning, tokenizer, SMOLLM2["max_position_embeddings"]
        )
        found.append(Job(id, tuning, texts))
    return found


def measured(ways: Mapping[str, Callable[[Sequence[Job]], Losses]], all_jobs: list[Job], rounds: int) -> dict[str, Any]:
    """The smallest processor and wall seconds of each way."""
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    wall: dict[str, list[float]] = {way: [] for way in ways}
    warm = [replace(job, texts=job.texts[:1]) for job in all_jobs[:2]]
    for turn in range(rounds + 1):
        found = {}
        for way, train in ways.items():
            start, started = time.process_time(), time.perf_counter()
            found[way] = train(all_jobs if turn else warm)
            if turn:
                cpu[way].append(time.process_time() - start)
                wall[way].append(time.perf_counter() - started)
        ours, theirs = found["ours"], found["peft"]
        difference = max(abs(a - b) for id in theirs for a, b in zip(ours[id], theirs[id], strict=True))
        assert difference < TOLERANCE, f"the two ways differ by {difference}"
    return {way: {"cpu_s": round(min(cpu[way]), 2), "wall_s": round(min(wall[way]), 2)} for way in ways}


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--longest", type=int, default=0, help="tokens to which the peer pads; 0: a training's longest")
    how = parser.parse_args()
    torch.set_num_threads(how.threads)
    all_jobs = jobs(how.adapters)
    longest = {job.name: how.longest or max(len(text.ids) for text in job.texts) for job in all_jobs}
    peer = Peft(smollm2(), all_jobs[0], fused=True)
    ours = Trainer(smollm2(), all_jobs[0].tuning.targets, slots=8, tokens=2048, free=lambda: 1 << 34)
    figures = measured(
        {
            "peft": lambda given: {job.name: peer.train(job, longest[job.name]) for job in given},
            "ours": lambda given: {done.job.name: done.losses for done in ours.train(given)},
        },
        all_jobs,
        how.rounds,
    )
    tokens = sum(len(text.ids) for job in all_jobs for text in job.texts)
    padded = sum(longest[job.name] * len(job.texts) for job in all_jobs)
    ratio = figures["peft"]["cpu_s"] / figures["ours"]["cpu_s"]
    result = {
        "name": "knowledge-train",
        "peer": "PEFT in SEAL's way, one adapter after the other, padded",
        "ratio": round(ratio, 2),
        "goal": GOAL,
        "met": ratio >= GOAL,
        "padding": round(padded / tokens, 2),
        "tokens": tokens,
        "texts": sum(len(job.texts) for job in all_jobs),
        **figures,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
