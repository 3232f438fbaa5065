"""Accuracy of a small model on simple rules before and after test-time training, with PEFT and with our trainer.

    python benchmarks/learning.py [--seed 0] [--each 1] [--only peft|ours]

For each task of the data set `rules` a LoRA adapter is trained on texts made from its demonstrations alone, then it
answers the task's test inputs with all demonstrations in the prompt; the untrained model gets the same prompts. The
training runs once with stock PEFT, one adapter after another, and once with `hybrid.training`, many at a time: same
texts, same order, same initial values. Answers are decoded greedily, and are correct when the whole grid is. Accuracies
and differences are in [0, 1] with 95 % intervals clustered by task. `ratio` is our accuracy / PEFT's. The goal is met
when the ratio reaches it and the gain of both over the untrained model has an interval above zero. With --only one of
the two is measured, and the ratio is null.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import peft
import safetensors.torch
import torch
from peers.lora import rectangle
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from hybrid.backends.devices import free_memory
from hybrid.backends.prompts import prompt_ids
from hybrid.backends.tuned.examples import texts_of
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import context_of, locate
from hybrid.records import Request, Sampling
from hybrid.statistics.intervals import ClusteredMean, paired_difference
from hybrid.tasks.arc.data import Dataset, demonstrations, rules, test_inputs
from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.text import messages, parse, token_bound
from hybrid.training.adapters import LoraWeights, initial_weights
from hybrid.training.jobs import Job
from hybrid.training.trainer import Trainer
from hybrid.tuning import SEAL_TARGETS, Tuning
from pipelines.seal.examples import AugmentationSettings, training_examples

FORMAT, INSTRUCTION = "compact", "Apply the rule."
AUGMENTATION = AugmentationSettings(augmentations=(), most=12, format=FORMAT, instruction=INSTRUCTION)
RATE, RANK, ALPHA = 2e-3, 8, 16.0
GOAL = 0.95
"""Our accuracy / PEFT's: rounding may change a few answers."""

State = Mapping[str, torch.Tensor]
"""An adapter, with PEFT's names."""


@dataclass(frozen=True, slots=True)
class Question:
    """The prompt for a test input; `bound`: the largest number of tokens of a valid answer."""

    prompt: list[int]
    bound: int
    truth: Grid


@dataclass(frozen=True, slots=True)
class Setup:
    """The untrained model, the training jobs, and the questions of each task."""

    model: Any
    tokenizer: Any
    jobs: Sequence[Job]
    questions: Mapping[str, Sequence[Question]]


def prepare(name: str, data: Dataset) -> Setup:
    """Load the model `name`, and tokenize the training texts and questions of `data`."""
    folder = as_folder(locate(name))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    jobs, questions = [], {}
    for id, task in data.tasks.items():
        tuning = Tuning(AUGMENTATION.of(id, task), learning_rate=RATE, epochs=1, rank=RANK, alpha=ALPHA, warmup=0)
        texts, _ = texts_of(training_examples(data.tasks, tuning.examples), tuning, tokenizer, context_of(folder))
        jobs.append(Job(id, tuning, texts))
        questions[id] = list(questions_of(id, data, tokenizer))
    return Setup(model, tokenizer, jobs, questions)


def questions_of(id: str, data: Dataset, tokenizer: Any) -> Iterator[Question]:
    """The questions of a task, with all of its demonstrations in the prompt."""
    pairs = demonstrations(data.tasks[id], id)
    for number, grid in enumerate(test_inputs(data.tasks[id], id)):
        chat, bound = messages(FORMAT, pairs, grid, INSTRUCTION), token_bound(FORMAT, pairs, grid)
        prompt = prompt_ids(tokenizer, Request(Sampling(bound), messages=chat))
        yield Question(prompt, bound, tuple(map(tuple, data.truths[f"{id}/{number}"])))


def by_peft(setup: Setup) -> Iterator[tuple[str, State]]:
    """Train with stock PEFT and torch's AdamW, one adapter after another; batches are padded to their longest text."""
    shapes = {
        name: (layer.in_features, layer.out_features)
        for name, layer in setup.model.named_modules()
        if name.rpartition(".")[2] in SEAL_TARGETS
    }
    lora = adapted(setup.model)
    values = [value for value in lora.parameters() if value.requires_grad]
    for job in setup.jobs:
        how = job.tuning
        peft.set_peft_model_state_dict(
            lora, state_of(initial_weights(shapes, how.targets, how.rank, how.alpha, how.seed))
        )
        optimizer = torch.optim.AdamW(values, lr=how.learning_rate, weight_decay=how.weight_decay)
        schedule = get_scheduler(how.schedule, optimizer, how.warmup, job.steps)
        for step in range(job.steps):
            texts = [job.texts[index] for index in job.batch(step)]
            lora(**rectangle(texts, pad=setup.tokenizer.eos_token_id)).loss.backward()
            torch.nn.utils.clip_grad_norm_(values, how.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        yield job.name, {name: value.clone() for name, value in peft.get_peft_model_state_dict(lora).items()}
    lora.unload()


def by_us(setup: Setup) -> Iterator[tuple[str, State]]:
    """Train all adapters in the slots of one trainer."""
    trainer = Trainer(setup.model, SEAL_TARGETS, slots=8, tokens=2048, free=partial(free_memory, "cpu"))
    try:
        for done in trainer.train(setup.jobs):
            if done.adapter is None:
                raise SystemExit(f"{done.job.name} was not trained: {done.error}")
            yield done.job.name, state_of(done.adapter)
    finally:
        trainer.close()


WAYS = {"peft": by_peft, "ours": by_us}


def state_of(weights: LoraWeights) -> State:
    """An adapter of ours as PEFT reads it from its file."""
    state: State = safetensors.torch.load(weights.to_bytes(torch.float32))
    return state


def adapted(model: Any) -> Any:
    """The model wrapped by PEFT, with one adapter."""
    targets = list(SEAL_TARGETS)
    return peft.get_peft_model(
        model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM")
    )


def correct(model: Any, questions: Sequence[Question], tokenizer: Any) -> list[bool]:
    """Whether each question is answered with the true grid, decoded greedily in one batch."""
    longest = max(len(question.prompt) for question in questions)
    pad, more = tokenizer.eos_token_id, [longest - len(question.prompt) for question in questions]
    with torch.inference_mode():
        made = model.generate(
            input_ids=torch.tensor([[pad] * n + one.prompt for one, n in zip(questions, more, strict=True)]),
            attention_mask=torch.tensor(
                [[0] * n + [1] * len(one.prompt) for one, n in zip(questions, more, strict=True)]
            ),
            max_new_tokens=max(question.bound for question in questions),
            do_sample=False,
            eos_token_id=pad,
            pad_token_id=pad,
        )
    texts = tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)
    return [parse(text, FORMAT)[0] == one.truth for text, one in zip(texts, questions, strict=True)]


def answer_all(setup: Setup, states: Mapping[str, Mapping[str, State]]) -> dict[str, dict[str, list[bool]]]:
    """Trainer, or "base" for untrained -> task -> whether each of its questions was answered correctly."""
    lora = adapted(setup.model).eval()
    found: dict[str, dict[str, list[bool]]] = {way: {} for way in ("base", *states)}
    for id, questions in setup.questions.items():
        with lora.disable_adapter():
            found["base"][id] = correct(lora, questions, setup.tokenizer)
        for way, adapters in states.items():
            peft.set_peft_model_state_dict(lora, adapters[id])
            found[way][id] = correct(lora, questions, setup.tokenizer)
        print(f"{id:12}", *[f"{way} {sum(found[way][id])}/{len(questions)}" for way in found], flush=True)
    lora.unload()
    return found


def accuracy(by_task: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """The accuracy, its interval, and the number of answers."""
    values = ClusteredMean()
    for id, answers in by_task.items():
        for answer in answers:
            values.add(id, float(answer))
    return {"mean": values.mean, "interval": _rounded(values.interval() or ()), "n": values.n}


def lift(first: Mapping[str, Sequence[bool]], second: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """The gain in accuracy of `second` over `first`, paired by question."""
    pairs = [
        (id, float(a), float(b)) for id, answers in first.items() for a, b in zip(answers, second[id], strict=True)
    ]
    found = paired_difference(pairs)
    return {"mean": round(found.mean, 4), "interval": _rounded((found.low, found.high))}


def _rounded(interval: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in interval]


@contextmanager
def timed(what: str, seconds: dict[str, float]) -> Iterator[None]:
    """Store in `seconds` the wall time and the processor time of the block."""
    start, busy = time.perf_counter(), time.process_time()
    yield
    seconds[f"{what}_s"] = round(time.perf_counter() - start, 1)
    seconds[f"{what}_core_s"] = round(time.process_time() - busy, 1)
    print(f"{what}: {seconds[f'{what}_s']} s, {seconds[f'{what}_core_s']} core-seconds", flush=True)


def main() -> None:
    """Train and answer with the chosen trainers, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks")
    parser.add_argument("--each", type=int, default=1, help="tasks of each kind of rule")
    parser.add_argument("--only", choices=tuple(WAYS))
    how = parser.parse_args()
    setup = prepare(how.model, rules(how.seed, how.each))
    states: dict[str, dict[str, State]] = {}
    seconds: dict[str, float] = {}
    for way in [how.only] if how.only else WAYS:
        with timed(way, seconds):
            states[way] = dict(WAYS[way](setup))
    with timed("answers", seconds):
        found = answer_all(setup, states)
    print(json.dumps(summary(found) | seconds | _about(setup)))


def summary(found: Mapping[str, Mapping[str, Sequence[bool]]]) -> dict[str, Any]:
    """The result of the last line."""
    scores = {way: accuracy(by_task) for way, by_task in found.items()}
    lifts = {way: lift(found["base"], found[way]) for way in found if way != "base"}
    both = set(WAYS) <= set(found)
    ratio = scores["ours"]["mean"] / scores["peft"]["mean"] if both and scores["peft"]["mean"] else None
    learned = all(one["interval"][0] > 0 for one in lifts.values())
    return {
        "name": "learning",
        "peer": "stock PEFT, one adapter after the other",
        "ratio": ratio and round(ratio, 3),
        "goal": GOAL,
        "met": learned and (not both or (ratio is not None and ratio >= GOAL)),
        "accuracy": scores,
        "lift": lifts,
        "ours_over_peft": lift(found["peft"], found["ours"]) if both else None,
    }


def _about(setup: Setup) -> dict[str, Any]:
    steps, tokens = sum(job.steps for job in setup.jobs), sum(job.tokens for job in setup.jobs)
    return {
        "tasks": len(setup.jobs),
        "steps": steps,
        "tokens": tokens,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }


if __name__ == "__main__":
    main()
