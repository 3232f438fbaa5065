"""Tokens and logits that training on real ARC tasks computes, compared with those that are needed.

    python benchmarks/train_tokens.py [--tasks 12] [--subset seal-train]

`tokens_ratio` is the tokens that the model computes / those of the texts; `logit_ratio` is the rows of logits / the
tokens with a loss. Both are counted by hooks on the model's first layer and its output head, while one epoch of
`seal-ttt`'s examples is trained, 8 adapters at once, in SmolLM2's tokens. The model is tiny and random, with that
vocabulary, since no count depends on weights. The two forward passes in which a trainer measures memory run before and
are not counted.

For comparison, computed from the same texts and steps: SEAL's method (the peer), where every text is padded to the
longest of its task and every token has logits, and a rectangle of 8 adapters, each step as wide as its longest text.
`ratio` is the peer's tokens / ours. Nothing is timed: every run gives the same result.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peers.lora import arc_texts
from peers.random_models import SMOLLM2, job_of, random_llama

from hybrid.tasks.arc.subsets import SUBSETS
from hybrid.training.jobs import Job, Tokens
from hybrid.training.trainer import Trainer
from hybrid.tuning import SEAL_TARGETS

GOAL = 1.02
"""Largest ratio of computed to needed tokens; for logits it must be 1."""
SLOTS, BUDGET = 8, 2048
SHAPE = {
    **SMOLLM2,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}


class Rows:
    """Counts the rows that go into a layer."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self.count = 0
        self._hook = layer.register_forward_pre_hook(self._seen)

    def _seen(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.count += inputs[0][..., 0].numel()

    def close(self) -> None:
        self._hook.remove()


def computed(jobs: Sequence[Job]) -> tuple[int, int]:
    """The tokens and rows of logits that training the jobs computes."""
    model = random_llama(SHAPE)
    trainer = Trainer(model, SEAL_TARGETS, slots=SLOTS, tokens=BUDGET, free=lambda: 1 << 34)
    trainer.planned(jobs)
    tokens, logits = Rows(model.model.layers[0].input_layernorm), Rows(model.get_output_embeddings())
    for done in trainer.train(jobs):
        assert done.adapter is not None, done.error
    trainer.close()
    tokens.close()
    logits.close()
    return tokens.count, logits.count


def rectangle_of(jobs: Sequence[Job]) -> int:
    """Tokens when 8 adapters share one padded rectangle per step, without those that are done."""
    total = 0
    for group in [jobs[first : first + SLOTS] for first in range(0, len(jobs), SLOTS)]:
        for step in range(max(job.steps for job in group)):
            texts = [job.texts[index] for job in group if step < job.steps for index in job.batch(step)]
            total += len(texts) * max(len(text.ids) for text in texts)
    return total


def measured(texts: Mapping[str, Sequence[Tokens]]) -> dict[str, Any]:
    """The figures for one adapter on each list of texts."""
    torch.set_num_threads(1)
    jobs = [job_of(id, own, rank=8) for id, own in texts.items()]
    tokens, logits = computed(jobs)
    real, wanted = sum(job.tokens for job in jobs), sum(text.labelled for job in jobs for text in job.texts)
    seal = sum(len(job.texts) * max(len(text.ids) for text in job.texts) for job in jobs)
    ratios = {"tokens_ratio": round(tokens / real, 4), "logit_ratio": round(logits / wanted, 4)}
    return {
        "name": "train-tokens",
        "peer": "SEAL's way: every text padded to the longest of its task, logits for every token",
        "ratio": round(seal / tokens, 2),
        "goal": GOAL,
        "met": tokens <= GOAL * real and logits == wanted,
        **ratios,
        "seal_tokens_ratio": round(seal / real, 2),
        "seal_logit_ratio": round(seal / wanted, 1),
        "rectangle_tokens_ratio": round(rectangle_of(jobs) / real, 2),
        "tasks": len(jobs),
        "texts": sum(len(job.texts) for job in jobs),
        "tokens": real,
        "labelled": wanted,
    }


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--subset", choices=tuple(SUBSETS), default="seal-train")
    how = parser.parse_args()
    texts = arc_texts(how.subset, how.tasks)
    for id, own in texts.items():
        sizes = [len(text.ids) for text in own]
        labelled = sum(text.labelled for text in own)
        print(f"{id} {len(own):3} texts, {sum(sizes):8,} tokens, longest {max(sizes):5,}, {labelled:7,} labelled")
    print(json.dumps(measured(texts)))


if __name__ == "__main__":
    main()
