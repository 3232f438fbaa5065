"""Number of torch operations of one training step: K adapters in one pass, compared with K steps of PEFT.

    python benchmarks/train_ops.py [--wide]

A GPU waits for Python when operations are short, so their number determines the time of a step of a small model.
Counted are the calls that reach torch's dispatcher below autograd: forward, backward, clipping and optimizer step of
all adapters, and for our trainer the creation of the pack. Views are not counted: operations whose schema says that the
result aliases its input and nothing is written, and `_unsafe_view`, which is a view in all but its schema.

The model has SmolLM2-135M's layers, narrower, with random weights (no count depends on widths or values; `--wide` has
the real widths), rank 16, one text of 24 to 40 tokens per adapter and step. The peer is PEFT with `torch.optim.AdamW`
as torch chooses it on a CPU, a loop over tensors; `fused_ratio` compares with the fused optimizer, which Hugging Face's
Trainer uses since torch 2.8. One step of PEFT is counted and multiplied by K. Both count the second step, when the
optimizer's state exists. `ratio` is that of K = 8; the goal is met when `fused_ratio` reaches it too. Nothing is timed:
every run gives the same result.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peers.lora import Peft
from peers.random_models import SMOLLM2, job_of, random_llama, random_text
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid.training.trainer import Trainer
from hybrid.tuning import SEAL_TARGETS

GOAL = 7.5
NARROW = {**SMOLLM2, "vocab_size": 512, "hidden_size": 72, "intermediate_size": 96}
ADAPTERS = (1, 4, 8, 16)


class Operations(TorchDispatchMode):  # type: ignore[misc]
    """Counts the operations inside its block by name; views are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if not (func.is_view or func.overloadpacket is torch.ops.aten._unsafe_view):  # noqa: SLF001  (its name)
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return self.counts.total()


def jobs(count: int, vocabulary: int) -> list[Any]:
    """Jobs of three steps of one short text each."""
    made = []
    for slot in range(count):
        texts = [random_text(f"{slot} {step}", 24 + (7 * slot + 5 * step) % 17, 6, vocabulary) for step in range(3)]
        made.append(job_of(f"job{slot:02}", texts, batch=1))
    return made


def ours(model: Any, count: int) -> Counter[str]:
    """The operations from the end of the first pass to the end of the second."""
    trainer = Trainer(model, SEAL_TARGETS, slots=count, tokens=1 << 14, free=lambda: 1 << 34)
    work, seen = jobs(count, model.config.vocab_size), list[Counter[str]]()
    try:
        with Operations() as operations:
            list(trainer.train(work, after_pass=lambda _: seen.append(operations.counts.copy())))
    finally:
        trainer.close()
    assert len(seen) == 3, "not every adapter was in every pass"
    return seen[1] - seen[0]


def peft_step(model: Any, *, fused: bool | None) -> dict[str, int]:
    """The operations of the second step of one adapter: forward with backward, and what comes after."""
    (work,) = jobs(1, model.config.vocab_size)
    peer = Peft(model, work, fused=fused)
    peer.begin(work)
    peer.backward(work, 0)
    peer.update(work, 0)

    def counted(act: Callable[[], object]) -> int:
        operations = Operations()
        with operations:
            act()
        return operations.total

    found = {
        "passes": counted(lambda: peer.backward(work, 1)),
        "update": counted(lambda: peer.update(work, 1)),
    }
    peer.close()
    return found


def measured(shape: Mapping[str, Any], adapters: Sequence[int] = ADAPTERS) -> dict[str, Any]:
    """The figures for a model of this shape; 8 is one of `adapters`."""
    torch.set_num_threads(1)
    model = random_llama(shape)
    loop, fused = peft_step(model, fused=None), peft_step(model, fused=True)
    of_ours = {count: ours(model, count).total() for count in adapters}
    ratios = {count: round(count * sum(loop.values()) / mine, 2) for count, mine in of_ours.items()}
    fused_ratio = round(8 * sum(fused.values()) / of_ours[8], 2)
    for count, mine in of_ours.items():
        print(f"K = {count:2}: {mine:6,} operations, PEFT {count * sum(loop.values()):7,}: {ratios[count]:5.2f} times")
    return {
        "name": "train-ops",
        "peer": "8 steps of PEFT with torch.optim.AdamW as torch chooses it on a CPU",
        "ratio": ratios[8],
        "goal": GOAL,
        "met": min(ratios[8], fused_ratio) >= GOAL,
        "fused_ratio": fused_ratio,
        "ratios": ratios,
        "ours": of_ours,
        "peft": loop,
        "peft_fused": fused,
        "layers": shape["num_hidden_layers"],
    }


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--wide", action="store_true", help="a model as wide as SmolLM2-135M: minutes, the same counts")
    print(json.dumps(measured(SMOLLM2 if parser.parse_args().wide else NARROW)))


if __name__ == "__main__":
    main()
