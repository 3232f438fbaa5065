"""The rounds of `swarm_round` with TRL's GRPOTrainer: a step for each of eight nodes, one after the other.

    python benchmarks/peers/swarm_trl.py MODEL TOKENS ROUNDS [--record FILE]

Run in an environment with TRL. A step samples eight completions of eight questions itself, since TRL trains on nothing
else. All settings favour its time: no reference model, no gradients computed twice, eight texts a pass, nothing
logged or kept. `--record` writes one step instead, for a test: weights before it, texts, rewards and gradients.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from typing import Any

import peft
import safetensors.torch
import torch
import transformers
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from peers import swarm


class Watched(TrainerCallback):  # type: ignore[misc]
    """Processor seconds and decode steps of each optimizer step; and the gradients before one."""

    def __init__(self, *, keep: bool = False) -> None:
        self.keep = keep
        self.began, self.ends = 0.0, list[float]()
        self.gradients: dict[str, torch.Tensor] = {}

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """A step begins."""
        self.began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step has ended."""
        self.ends.append(time.process_time() - self.began)

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        """The gradients are complete."""
        if self.keep:
            self.gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


class Timed(GRPOTrainer):  # type: ignore[misc]
    """Also tells what generating takes, and what was generated."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.generating = list[float]()
        self.scored: dict[str, Any] = {}

    def _generate(self, *given: Any, **named: Any) -> Any:
        began = time.process_time()
        found = super()._generate(*given, **named)
        self.generating.append(time.process_time() - began)
        return found

    def _generate_and_score_completions(self, *given: Any, **named: Any) -> Any:
        self.scored = super()._generate_and_score_completions(*given, **named)
        return dict(self.scored)


def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """As all sides reward."""
    return [swarm.reward(ids) for ids in completion_ids]


def half_dead(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
    """As all sides reward, but for one question."""
    pairs = zip(prompts, completion_ids, strict=True)
    return [0.5 if swarm.DEAD in prompt else swarm.reward(ids) for prompt, ids in pairs]


def trainer_of(model: str, tokens: int, steps: int, place: str, *, recorded: bool = False) -> tuple[Timed, Watched]:
    """A trainer of `steps` optimizer steps, of 64 completions each; `recorded`: fewer, all parameters."""
    questions = swarm.RECORDED if recorded else swarm.OWN + swarm.FOREIGN
    if recorded:
        asked = [swarm.question(node, number) for node in range(steps) for number in range(questions)]
    else:
        texts = swarm.questions(model)
        sets = [swarm.trained_on(step % swarm.NODES, swarm.EVERY) for step in range(steps)]
        asked = [texts[node][slot] for one in sets for node, slot in one]
    settings = GRPOConfig(
        output_dir=place,
        per_device_train_batch_size=swarm.GROUP,
        gradient_accumulation_steps=questions,
        num_generations=swarm.GROUP,
        max_completion_length=tokens,
        max_steps=steps,
        beta=0.0,
        temperature=1.0,
        learning_rate=swarm.RATE,
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", r=swarm.RANK, lora_alpha=swarm.ALPHA, target_modules="all-linear")
    watched = Watched(keep=recorded)
    trainer = Timed(
        model=swarm.load(model),
        reward_funcs=half_dead if recorded else rewards,
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": asked}),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[watched],
        **({} if recorded else {"peft_config": adapter}),
    )
    return trainer, watched


def main() -> None:
    """Print the figures of the best round as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("tokens", type=int)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    swarm.load(given.model)  # transformers loads the code of a model when it is asked for
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(record(given, place) if given.record else measured(given, place)))


def measured(given: argparse.Namespace, place: str) -> dict[str, float]:
    """The figures of the best round."""
    before = swarm.peak_mib()
    trainer, watched = trainer_of(given.model, given.tokens, swarm.NODES * given.rounds + 1, place)
    counted, loaded = swarm.Counted(trainer.model), swarm.peak_mib()
    trainer.train()
    sums = []
    for start in range(1, 1 + swarm.NODES * given.rounds, swarm.NODES):  # the first step is slower
        generating, whole = (sum(one[start : start + swarm.NODES]) for one in (trainer.generating, watched.ends))
        sums.append((generating, whole - generating))
    generating, training = min(sums, key=sum)
    steps = counted.steps * swarm.NODES // len(watched.ends)
    tokens = int(trainer.scored["completion_mask"].sum()) * swarm.NODES
    peak = swarm.peak_mib()
    return swarm.Figures(generating, training, steps, tokens, peak - before, loaded - before)._asdict()


def record(given: argparse.Namespace, place: str) -> dict[str, Any]:
    """Write one step of full fine-tuning to a file."""
    trainer, watched = trainer_of(given.model, given.tokens, 1, place, recorded=True)
    parts = {f"weight/{name}": one.detach().clone() for name, one in trainer.model.named_parameters()}
    trainer.train()
    parts |= {f"gradient/{name}": one for name, one in watched.gradients.items()}
    told = trainer.scored
    masked = ((told[f"{part}_ids"], told[f"{part}_mask"]) for part in ("prompt", "completion"))
    prompts, completions = ([row[kept.bool()].tolist() for row, kept in zip(*one, strict=True)] for one in masked)
    texts = trainer.processing_class.batch_decode(prompts)
    rewarded = half_dead(texts, completions)
    about = {"trl": version("trl"), "prompts": prompts, "completions": completions, "rewards": rewarded}
    about |= {"advantages": told["advantages"].tolist(), "config": trainer.model.config.to_diff_dict()}
    safetensors.torch.save_file(parts, given.record, {name: json.dumps(one) for name, one in about.items()})
    return {"completions": len(completions), "ended": sum(ids[-1] == 0 for ids in completions)}


if __name__ == "__main__":
    main()
