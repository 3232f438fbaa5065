"""Throughput of training adapters on a GPU, for a model of Llama-3.2-1B's shape and K = 1 to 32, compared with PEFT.

    python benchmarks/train_gpu.py [--rank 128] [--steps 6] [--tokens 16384] [--tiny]

Random weights compute at the speed of real ones. An optimizer step has two texts of 719 tokens, the mean of SEAL's
training tasks, 11 % of them labelled. Three trainers run on the same GPU with the same texts, after a warm-up: ours
with K adapters in the same passes; PEFT step by step, with all logits and without padding; and Hugging Face's Trainer
as SEAL uses it, every text padded to 1,344 tokens (1.87 times, SEAL's mean), with a loss logged at each step.

Printed are real tokens per second during training; `edges_s`, the other seconds per adapter (initial values, export,
creating a Trainer); adapters per hour, estimated from both for SEAL's mean task (172,722 tokens twice); the planned and
the measured bytes in addition to the weights; and MFU by real tokens: FLOPs = T (4 P + 6 N + 7 d L n) + 4 E S for T
tokens, S labels, P frozen parameters in matrix products, N trained parameters, d the attention width, L the length of a
text, n layers, E parameters of the head, divided by the dense peak of the device. `ratio` is adapters per hour of the
best K / those of Hugging Face's Trainer. Goals are by device. Without a CUDA device nothing is measured: `met` is null
and `device` is "none". `--tiny` runs everything on a CPU with two small layers; its figures have no meaning.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from peers.lora import Peft, rectangle
from peers.random_models import ALPHA, LLAMA_1B, RATE, TINY, job_of, random_llama, random_text

from hybrid.backends.devices import Device, find_device, free_memory
from hybrid.training.jobs import Job
from hybrid.training.slots import linear_layers
from hybrid.training.trainer import Trainer
from hybrid.tuning import SEAL_TARGETS

PEAKS = {"H200": 990e12, "H100": 990e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "T4": 65e12}
"""Part of a device's name -> dense 16-bit FLOPs per second."""
GOALS = {"H200": (6.0, 0.30), "A100": (2.5, 0.40), "T4": (2.0, 0.30)}
"""Part of a device's name -> goals of `ratio` and of MFU."""
TASK_TOKENS = 2 * 172_722
NAME, PEER = "train-gpu", "Hugging Face's Trainer with PEFT in SEAL's way, one adapter after the other"


@dataclass(frozen=True, slots=True)
class Size:
    """The model's shape, the tokens of a text, its padded length in SEAL, numbers of adapters at once, rank, steps."""

    shape: Mapping[str, Any]
    length: int
    padded: int
    adapters: Sequence[int]
    rank: int
    steps: int
    tokens: int

    def jobs(self, count: int, steps: int) -> list[Job]:
        """`count` adapters, each with `steps` steps of two texts."""
        make = partial(random_text, length=self.length, labelled=self.length // 9, vocabulary=self.shape["vocab_size"])
        names = [f"job{number:02}" for number in range(count)]
        texts = {name: [make(f"{name} {text}") for text in range(2 * steps)] for name in names}
        return [job_of(name, own, batch=2, rank=self.rank) for name, own in texts.items()]


def flops(model: Any, trained: int, length: int, labelled: int) -> float:
    """FLOPs that a text needs: forward, and backward to activations and adapters."""
    config, every = model.config, {name for name, part in model.named_modules() if type(part) is torch.nn.Linear}
    head = model.get_output_embeddings().weight
    last = {name.rpartition(".")[2] for name in every if "." in name}
    frozen = sum(layer.weight.numel() for layer in linear_layers(model, sorted(last)).values())
    attention = 7 * config.num_attention_heads * config.head_dim * length * config.num_hidden_layers
    return float(length * (4 * frozen + 6 * trained + attention) + 4 * head.numel() * labelled)


class Throughput:
    """Tokens per second between the first and the last mark, and the other seconds of the training."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._marks: list[tuple[float, int]] = []
        self._start = self._now()

    def mark(self, tokens: int) -> None:
        """Record that `tokens` tokens have been computed."""
        self._marks.append((self._now(), tokens))

    def figures(self, tokens: int, adapters: int) -> dict[str, float]:
        """The figures of a training of `tokens` tokens that has just ended."""
        (first, before), (last, after) = self._marks[0], self._marks[-1]
        throughput = (after - before) / (last - first)
        edges = max(0.0, self._now() - self._start - tokens / throughput) / adapters
        return {"tokens_s": round(throughput, 1), "edges_s": round(edges, 4)}

    def _now(self) -> float:
        if self._device.kind == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def by_us(model: Any, size: Size, device: Device, count: int) -> dict[str, Any]:
    """Figures of `count` adapters at once; the throughput is measured until the first of them ends."""
    free = partial(free_memory, device.kind)
    trainer = Trainer(model, SEAL_TARGETS, slots=count, tokens=size.tokens, free=free)
    list(trainer.train(size.jobs(count, 1)))
    jobs = size.jobs(count, size.steps)
    plan, before, through = trainer.planned(jobs), _allocated(device), trainer.computed
    ended: list[str] = []
    throughput = Throughput(device)

    def after_pass(_: object) -> None:
        if not ended:
            throughput.mark(trainer.computed - through)

    for done in trainer.train(jobs, after_pass=after_pass):
        assert done.adapter is not None, done.error
        ended.append(done.job.name)
    found = throughput.figures(sum(job.tokens for job in jobs), count)
    trainer.close()
    peak = torch.cuda.max_memory_allocated() - before if device.kind == "cuda" else None
    numbers = sum(size.rank * sum(widths) for widths in trainer.slotted.layers.values())
    return {**found, "slots": plan.slots, "planned_bytes": plan.peak, "peak_bytes": peak, "trained": numbers}


def _allocated(device: Device) -> int:
    if device.kind != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.memory_allocated())


def by_peft(model: Any, size: Size, device: Device) -> dict[str, Any]:
    """Figures of one adapter with PEFT, without padding."""
    (warm,), (job,) = size.jobs(1, 1), size.jobs(1, size.steps)
    peer = Peft(model, job, fused=True)
    peer.train(warm)
    throughput, steps = Throughput(device), itertools.count(1)
    peer.train(job, after_step=lambda: throughput.mark(2 * size.length * next(steps)))
    found = throughput.figures(job.tokens, 1)
    peer.close()
    return found


class Marks(transformers.TrainerCallback):  # type: ignore[misc]
    """Marks every step of a Trainer; `each`: tokens per step."""

    def __init__(self, throughput: Throughput, each: int) -> None:
        self._pace, self._each = throughput, each

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._pace.mark(self._each * state.global_step)


def by_seals_way(model: Any, size: Size, device: Device) -> dict[str, Any]:
    """Figures of one adapter with Hugging Face's Trainer, created for it."""
    (warm,), (job,) = size.jobs(1, 1), size.jobs(1, size.steps)
    peer = Peft(model, job)
    with tempfile.TemporaryDirectory() as place:
        arguments = transformers.TrainingArguments(
            output_dir=place,
            per_device_train_batch_size=2,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=device.kind == "cpu",
            bf16=device.dtype == torch.bfloat16,
            fp16=device.dtype == torch.float16,
        )
        for one in (warm, job):
            batch = rectangle(one.texts, size.padded)
            rows = [{name: value[row] for name, value in batch.items()} for row in range(len(one.texts))]
            throughput = Throughput(device)
            marks = Marks(throughput, 2 * size.length)
            transformers.Trainer(model=peer.model, args=arguments, train_dataset=rows, callbacks=[marks]).train()
    found = throughput.figures(job.tokens, 1)
    peer.close()
    return found


def measured(size: Size, device: Device) -> dict[str, Any]:
    """Measure all trainers on one device."""
    model = random_llama(size.shape, device.dtype, device.kind)
    peak = next((peak for name, peak in PEAKS.items() if name in device.name), None)
    found = {f"K={count}": by_us(model, size, device, count) for count in size.adapters}
    found |= {"peft": by_peft(model, size, device), "seal": by_seals_way(model, size, device)}
    trained = next(iter(found.values()))["trained"]
    each = flops(model, trained, size.length, size.length // 9) / size.length
    for way, figures in found.items():
        figures["adapters_hour"] = round(3600 / (TASK_TOKENS / figures["tokens_s"] + figures["edges_s"]), 1)
        figures["mfu"] = peak and round(figures["tokens_s"] * each / peak, 4)
        print(f"{way:5} {figures}", flush=True)
    best = max((one for way, one in found.items() if way.startswith("K=")), key=lambda one: float(one["adapters_hour"]))
    ratio = best["adapters_hour"] / found["seal"]["adapters_hour"]
    goal, mfu = next((goals for name, goals in GOALS.items() if name in device.name), (None, None))
    return {
        "name": NAME,
        "peer": PEER,
        "ratio": round(ratio, 2),
        "goal": goal,
        "met": goal and ratio >= goal and best["mfu"] >= mfu,
        "peft_ratio": round(best["adapters_hour"] / found["peft"]["adapters_hour"], 2),
        "mfu": best["mfu"],
        "mfu_goal": mfu,
        "device": device.name,
        "dtype": device.dtype_name,
        "rank": size.rank,
        "alpha": ALPHA,
        "ways": found,
    }


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6, help="at least 3")
    parser.add_argument("--tokens", type=int, default=16384, help="of a pass")
    parser.add_argument("--tiny", action="store_true", help="two small layers on the CPU, to see that it runs")
    how = parser.parse_args()
    if how.tiny:
        torch.set_num_threads(1)
        size = Size(TINY, 23, 43, (1, 4), rank=8, steps=3, tokens=256)
        print(json.dumps(measured(size, find_device("cpu"))))
    elif not torch.cuda.is_available():
        print("there is no CUDA device here: nothing is measured")
        print(json.dumps({"name": NAME, "peer": PEER, "ratio": None, "goal": None, "met": None, "device": "none"}))
    else:
        size = Size(LLAMA_1B, 719, 1344, (1, 4, 8, 16, 32), how.rank, how.steps, how.tokens)
        print(json.dumps(measured(size, find_device())))


if __name__ == "__main__":
    main()
