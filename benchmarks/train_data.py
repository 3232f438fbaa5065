"""Core-seconds to make the training data of one (task, flags), compared with SEAL's code, with the same tokenizer.

    python benchmarks/train_data.py [--tasks 4] [--edits 15]

The tasks are a sample of the 12 tasks of SEAL's training subset, each with the flags of `edits` random self-edits.
SEAL's code (tests/support/seal_reference.py) uses numpy arrays; every candidate is made, rendered and tokenized, its
labels are found in a Python loop, and only then the list is limited to 250; this is repeated for each self-edit,
although equal flags give equal data. Ours samples and limits the variants first, and renders and tokenizes only those,
once for equal flags. `ratio` is over all self-edits, `once_ratio` over the distinct ones. The goal is the core-seconds
of one (task, flags), and the slowest must meet it. `texts_s` is `ours_s` without the tokenizer. Both must make the same
tasks.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hybrid.machine.late_imports import import_object  # noqa: E402
from hybrid.model_files.gguf import as_folder  # noqa: E402
from hybrid.model_files.location import locate  # noqa: E402
from hybrid.tasks.arc.data import bundled, demonstrations  # noqa: E402
from hybrid.tasks.arc.subsets import SEAL_TRAIN  # noqa: E402
from hybrid.tasks.arc.text import SEAL  # noqa: E402
from hybrid.tasks.arc.views import Pair  # noqa: E402
from pipelines.seal.augmentation import GROUPS  # noqa: E402
from pipelines.seal.examples import AugmentationSettings, of_demonstrations  # noqa: E402
from pipelines.seal.variants import Variant, variants  # noqa: E402
from tests.support import seal_reference  # noqa: E402

GOAL = 0.5
"""Core-seconds of one (task, flags)."""

ROUNDS = 3

Flags = tuple[str, ...]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Core-seconds of all threads of this process, and the result of `work`."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def seals_way(tokenizer: Any, pairs: Sequence[Pair], flags: Flags) -> list[seal_reference.Task]:
    """The data of one self-edit by SEAL's code, with tokens and labels of every candidate."""
    examples = [(np.array(given), np.array(wanted)) for given, wanted in pairs]
    opens = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)

    def length(task: seal_reference.Task) -> int:
        text = tokenizer.apply_chat_template(
            seal_reference.chat(task, SEAL.instruction), tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = tokenizer(text)["input_ids"]
        starts = [i + len(opens) for i in range(len(ids) - 1) if ids[i : i + len(opens)] == opens]
        labels = ids.copy()
        for i in range(starts[0]):
            labels[i] = -100
        return len(labels)

    return seal_reference.process(examples, flags, length)


def ours(tokenizer: Any, pairs: Sequence[Pair], flags: Flags) -> tuple[float, list[list[int]]]:
    """Core-seconds to make the texts of the examples, and the tokens of all examples."""
    seconds, examples = timed(lambda: of_demonstrations(pairs, AugmentationSettings(flags, translation="seal")))
    texts = [
        tokenizer.apply_chat_template([asdict(one) for one in example.messages], tokenize=False) for example in examples
    ]
    return seconds, tokenizer(texts)["input_ids"]


def self_edits(task: str, count: int) -> list[Flags]:
    """Random flags, as a model might choose them."""
    draws = random.Random(task)
    return [tuple(group for group in GROUPS if draws.random() < 0.5) for _ in range(count)]


def measure(tokenizer: Any, pairs: Sequence[Pair], flags: Flags) -> tuple[float, float, float]:
    """Core-seconds of SEAL's code, of ours, and of our texts alone; for ours the best of some rounds."""
    theirs, tasks = timed(lambda: seals_way(tokenizer, pairs, flags))
    rounds = [timed(lambda: ours(tokenizer, pairs, flags)) for _ in range(ROUNDS)]
    made = [Variant(*seal_reference.plainly(task)) for task in tasks]  # type: ignore[arg-type]
    assert made == list(variants(pairs, flags, translation="seal")), "the two make different data"
    assert len(rounds[0][1][1]) == len(made)
    return theirs, min(seconds for seconds, _ in rounds), min(texts for _, (texts, _) in rounds)


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--edits", type=int, default=15)
    how = parser.parse_args()
    folder = as_folder(locate("smollm2"))
    tokenizer = import_object("transformers:AutoTokenizer", needed_for="the tokenizer").from_pretrained(folder)
    tasks = bundled("arc1-training").tasks
    total = {"again": 0.0, "once": 0.0, "ours": 0.0, "texts": 0.0}
    distinct = edits = 0
    worst = 0.0
    for id in sorted(SEAL_TRAIN)[:: max(1, len(SEAL_TRAIN) // how.tasks)][: how.tasks]:
        chosen = self_edits(id, how.edits)
        for flags in sorted(set(chosen)):
            theirs, our_seconds, texts = measure(tokenizer, demonstrations(tasks[id], id), flags)
            shown = f"{id} {'+'.join(flags) or 'none'}"
            print(f"{shown:38} SEAL's way {theirs:5.2f} s, ours {our_seconds:5.3f} s, of it texts {texts:5.3f} s")
            total["again"] += theirs * chosen.count(flags)
            total["once"] += theirs
            total["ours"] += our_seconds
            total["texts"] += texts
            worst = max(worst, our_seconds)
        distinct += len(set(chosen))
        edits += len(chosen)
    figures = {
        "seal_s": round(total["once"] / distinct, 3),
        "ours_s": round(total["ours"] / distinct, 4),
        "worst_s": round(worst, 4),
        "texts_s": round(total["texts"] / distinct, 4),
        "once_ratio": round(total["once"] / total["ours"], 1),
        "self_edits": edits,
        "distinct": distinct,
    }
    about = {"name": "train-data", "peer": "SEAL's way: numpy, every candidate tokenised, again for each self-edit"}
    result = {**about, "ratio": round(total["again"] / total["ours"], 1), "goal": GOAL, "met": worst <= GOAL}
    print(json.dumps({**result, **figures}))


if __name__ == "__main__":
    main()
