"""Tokens per second of both phases of `cvfp` beside the guide's way, one token after the other.

    python benchmarks/cvfp_sweep.py [--tokens 192] [--epoch-tokens 5120] [--width 768] [--layers 6]

Phase 1: a sweep with training; the peer walks the stream with a batch of 1 and takes a step for each token. `forward`:
the exact contexts alone. Phase 2: an epoch; the peer walks the stream, keeps the logits of all tokens, and takes one
step; both have `--epoch-tokens`. Every side is a process of its own with one thread; in phase 1 ours has as many tokens
as fill a sweep, so tokens per second of processor time are compared. `memory`: phase 2's peak above what the process
had before it. Both sides load torch's compiler before, 150 MiB and 5 s that making any `torch.optim` optimizer imports:
ours makes none, but that is no part of an epoch. The peer's epoch takes 20 minutes, and all else three.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}

import torch
import torch.nn.functional as F  # noqa: N812

from pipelines.cvfp import phase1, phase2
from pipelines.cvfp.execution import exact
from pipelines.cvfp.model import Model
from pipelines.cvfp.shape import Shape

GOAL, MEMORY_GOAL = 25.0, 1 / 8
LENGTH = 64
SIDES = "sweep", "guide_sweep", "forward", "guide_forward", "epoch", "guide_epoch"


def memory_mib() -> float:
    """The most memory that this process has had so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def model_of(width: int, layers: int, vocabulary: int, gain: float) -> Model:
    embedding = torch.randn(vocabulary, width, generator=torch.Generator().manual_seed(0))
    return Model(Shape(vocabulary, width, layers), embedding, gain * (768 / width) ** 0.5, 0)


def documents(tokens: int, vocabulary: int) -> torch.Tensor:
    count = max(1, tokens // LENGTH)
    return torch.randint(vocabulary, (count, LENGTH), generator=torch.Generator().manual_seed(1))


def sweep(model: Model, tokens: int) -> int:
    """Ours: all tokens of a sweep at once."""
    ids = documents(16 * tokens, model.shape.vocabulary)
    how = phase1.Settings("variance-covariance", 0.05, 2e-3, 1.0, 0.0, 4096)
    phase1.PhaseOne(model, ids, how, 0).sweep(1)
    return int(ids.numel())


def guide_sweep(model: Model, tokens: int) -> int:
    """A step for each token: forward, the distance to a running mean, backward, Adam."""
    ids = documents(tokens, model.shape.vocabulary).flatten()
    optimizer = torch.optim.Adam(model.blocks.parameters(), 2e-3)
    context, mean = torch.zeros(1, model.shape.width), torch.zeros(1, model.shape.width)
    with torch.no_grad():
        embedded = model.embedded(ids)
    for one in embedded:
        context, _ = model.step(context.detach(), one[None])
        (-(context - mean).norm()).backward()
        torch.nn.utils.clip_grad_norm_(model.blocks.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = 0.99 * mean + 0.01 * context.detach()
    return len(ids)


@torch.no_grad()  # type: ignore[untyped-decorator]
def forward(model: Model, tokens: int) -> int:
    """Ours: the exact contexts of many documents."""
    ids = documents(32 * tokens, model.shape.vocabulary)
    exact(model, model.embedded(ids))
    return int(ids.numel())


@torch.no_grad()  # type: ignore[untyped-decorator]
def guide_forward(model: Model, tokens: int) -> int:
    """The exact contexts of a stream."""
    ids = documents(tokens, model.shape.vocabulary).flatten()
    context = torch.zeros(1, model.shape.width)
    for one in model.embedded(ids):
        context, _ = model.step(context, one[None])
    return len(ids)


def epoch(model: Model, tokens: int) -> int:
    """Ours: mini-batches of documents, gradients through 16 tokens, the logits of one step at a time."""
    ids = documents(tokens, model.shape.vocabulary)
    how = phase2.Settings(1, 32, 16, 2e-3, 0.0, 1.0, 0.0, 0.0, frozen=False, contexts=True)
    phase2.PhaseTwo(model, ids, how, 0).epoch(0)
    return int(ids.numel())


def guide_epoch(model: Model, tokens: int) -> int:
    """One step for all tokens, whose logits are kept."""
    ids = documents(tokens, model.shape.vocabulary).flatten()
    if model.head is None:
        raise ValueError("the guide's head has weights of its own")
    trained = [*model.blocks.parameters(), *model.head.parameters()]
    optimizer = torch.optim.Adam(trained, 2e-3)
    context, logits = torch.zeros(1, model.shape.width), []
    for one in model.embedded(ids[:-1]).detach():
        context, token = model.step(context.detach(), one[None])
        logits.append(model.head(token))
    F.cross_entropy(torch.cat(logits), ids[1:]).backward()
    optimizer.step()
    return len(ids)


def measured(side: str, chosen: argparse.Namespace) -> dict[str, float]:
    """Tokens per second of processor time, and MiB above those before."""
    torch.set_num_threads(1)
    model = model_of(chosen.width, chosen.layers, chosen.vocabulary, 0.1 if side.startswith("guide") else 0.02)
    torch.optim.Adam([torch.zeros(1)])  # imports torch's compiler, on both sides before the span
    before, began = memory_mib(), time.process_time()
    tokens = globals()[side](model, chosen.epoch_tokens if side.endswith("epoch") else chosen.tokens)
    seconds = time.process_time() - began
    return {"rate": tokens / seconds, "mib": memory_mib() - before}


def in_a_process(side: str, arguments: list[str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--side", side], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{side}: {found['rate']:.1f} tokens a second, {found['mib']:.0f} MiB")
    return found


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    for name, default in (
        ("tokens", 192),
        ("epoch-tokens", 5120),
        ("width", 768),
        ("layers", 6),
        ("vocabulary", 50_257),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--side", choices=SIDES)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(measured(chosen.side, chosen)))
        return
    found = {side: in_a_process(side, sys.argv[1:]) for side in SIDES}
    ratio, of_epoch, of_forward = (
        found[side]["rate"] / found[f"guide_{side}"]["rate"] for side in ("sweep", "epoch", "forward")
    )
    memory = found["epoch"]["mib"] / found["guide_epoch"]["mib"]
    result: dict[str, Any] = {
        "name": "cvfp_sweep", "peer": "the guide's way: one token after the other", "ratio": round(ratio, 1),
        "goal": GOAL, "met": min(ratio, of_epoch) >= GOAL and memory <= MEMORY_GOAL, "ratio_epoch": round(of_epoch, 1),
        "ratio_forward": round(of_forward, 1), "memory": round(memory, 3), "memory_goal": MEMORY_GOAL,
        "tokens_per_second": {side: round(one["rate"], 1) for side, one in found.items()},
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
