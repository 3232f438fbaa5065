"""Whether a swarm learns, and whether sharing helps it: the pipeline `sapo` on easy arithmetic, with its controls.

    python benchmarks/swarm_learning.py [--model smollm2] [--arms 4-0,2-2,equal-compute-2-2,filter-only-2-2]
        [--rounds 40] [--nodes 4] [--seeds 0,1,2] [--learning-rate 0.0005]

Without `--model`, the policy is a transformer of three layers, trained until 7 % of what it samples is right: it
calculates badly and writes most answers without their tags, as small models do. The run and its grades are those of the
command `hybrid`. It prints what the grader measures of `reward_own` and `eval_pass1`: the last tenth of the rounds, the
rise from the first tenth with its 95 % interval, and the difference to the arm without sharing. `learns` is whether the
intervals of the rise of the first arm exclude zero, `helps` the same of the differences: where it is false, nothing was
shown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hybrid.tasks.reasoning.questions import Question, messages, question
from hybrid.tasks.reasoning.scoring import FULL, score

TASK = "basic_arithmetic"
MARKS = ("<end>", "<pad>")
WORDS = ("<answer>", "</answer>", "Calculate ", "Answer with ", "number")
TAGGED = 0.4
"""Share of the answers with tags in what the policy learns first: greedy ones leave them out."""
RIGHT = 0.07
"""Share of right samples at which the policy is trained enough: between 5 and 40 %."""


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, the tags and what every prompt repeats."""
    words = [*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    pieces.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    pieces.add_tokens([AddedToken(word, special=False, normalized=False) for word in WORDS])
    made = PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token=MARKS[0], pad_token=MARKS[1])
    made.chat_template = "{% for message in messages %}{{ message.content + '\n' }}{% endfor %}"
    return made


def policy(folder: Path) -> float:
    """Write a model that is sometimes right into a folder, and return how often it is."""
    torch.manual_seed(0)
    words, draw = tokenizer(), Random(0)
    config = LlamaConfig(
        hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=len(words), max_position_embeddings=128, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(2000):
        asked = [question(TASK, draw.getrandbits(48), "easy") for _ in range(32)]
        prompts = [prompt(one, words) for one in asked]
        written = [f"<answer>{one.answer}</answer>" if draw.random() < TAGGED else one.answer for one in asked]
        whole = [f"{text}{answer}{MARKS[0]}" for text, answer in zip(prompts, written, strict=True)]
        batch = words(whole, return_tensors="pt", padding=True)
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        for row, text in zip(labels, prompts, strict=True):
            row[: len(words(text).input_ids)] = -100
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 25 == 24 and (right := share_right(model, words, asked)) >= RIGHT:
            break
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return float(right)


def share_right(model: LlamaForCausalLM, words: PreTrainedTokenizerFast, asked: list[Question]) -> float:
    """The share of right answers at temperature 1."""
    each = [one for one in asked for _ in range(4)]
    prompts = words([prompt(one, words) for one in each], return_tensors="pt", padding=True, padding_side="left")
    how = {"do_sample": True, "top_k": 0, "max_new_tokens": 8, "pad_token_id": 1}
    with torch.no_grad():
        rows = model.generate(input_ids=prompts.input_ids, attention_mask=prompts.attention_mask, **how)
    texts = [words.decode(row[prompts.input_ids.shape[1] :], skip_special_tokens=True) for row in rows]
    return sum(score(one, text, "strict") for one, text in zip(each, texts, strict=True)) / FULL / len(each)


def prompt(asked: Question, words: PreTrainedTokenizerFast) -> str:
    """What the model reads, as text."""
    chat = [{"role": one.role, "content": one.content} for one in messages(asked)]
    return str(words.apply_chat_template(chat, tokenize=False))


def hybrid(*arguments: str, home: Path) -> str:
    """Standard output of a command; it must succeed."""
    environment = {**os.environ, "HYBRID_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "hybrid", *arguments]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def measured(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """What the grader `sapo` measures of a run."""
    settings = {
        "arms": options.arms, "seeds": options.seeds, "nodes": options.nodes, "rounds": options.rounds, "tasks": TASK,
        "level": "easy", "max_tokens": 16 if options.model else 8, "learning_rate": options.learning_rate,
        "eval_every": max(1, int(options.rounds) // 20), "eval_questions": 64,
        "max_age": 4 if "filter-only" in options.arms else 0,
    }  # fmt: skip
    chosen = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    outputs = root / "outputs.json"
    model = ("--backend", "transformers", "--model", options.model or str(root / "policy"))
    hybrid("run", "local", "sapo", *model, *chosen, "--folder", str(root), "-o", str(outputs), home=root)
    hybrid("grade", str(outputs), "--set", "part=0.1", home=root)
    found: list[dict[str, Any]] = json.loads((root / "grades.sapo.json").read_text())["summary"]["measures"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="")
    parser.add_argument("--arms", default="4-0,2-2,equal-compute-2-2,filter-only-2-2")
    parser.add_argument("--rounds", default="40")
    parser.add_argument("--nodes", default="4")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--learning-rate", default="0.0005")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        right = None if options.model else policy(root / "policy")
        print(f"right at the start: {right}, {time.monotonic() - began:.0f} s", flush=True)
        rows = measured(options, root)
    for row in rows:
        if row["name"].startswith(("reward_own", "eval_pass1", "rise", "warning")):
            print(f"{row['group']:20} {row['name']:50} {row['value']:.3f} {row['interval'] or ''}")
    first = options.arms.partition(",")[0]
    rises = [row for row in rows if row["group"] == first and "rise" in row["name"]]
    compared = [row for row in rows if " minus that of " in row["name"]]
    result = {
        "name": "swarm_learning",
        "peer": "the first rounds of the same policies; the arms without sharing",
        "right_at_first": right,
        "rise": {row["name"]: [row["value"], row["interval"]] for row in rises},
        "differences": {f"{row['group']}: {row['name']}": [row["value"], row["interval"]] for row in compared},
        "helps": {f"{row['group']}: {row['name']}": excludes_zero(row) for row in compared},
        "learns": bool(rises) and all(map(excludes_zero, rises)),
        "goal": "the intervals of both rises over 3 seeds exclude 0",
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps({**result, "met": result["learns"]}))


def excludes_zero(row: dict[str, Any]) -> bool:
    """Whether all of the interval is above 0."""
    return bool(row["interval"]) and row["interval"][0] > 0


if __name__ == "__main__":
    main()
