"""Runs in a process of its own (vLLM changes the one it is in): trains, answers with and without, tells a JSON line.

python tests/training/tuned_vllm.py BACKEND MODEL FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from hybrid.backends.registry import open_tuned
from hybrid.folder.medium import Disk
from hybrid.folder.tensors import RunTensors
from tests.training.small import ask, of_words, tuning

COLOURS = ("red", "blue")


def main() -> None:
    """Two trainings in one group, each asked two questions, and the base beside."""
    backend, model, folder = sys.argv[1:]
    options = {"context": "512", "slots": "2", "train_tokens": "256", "checkpoint": "0", "group": "2"}
    tunings = [tuning({"words": [colour]}, rank=rank) for colour, rank in zip(COLOURS, (4, 8), strict=True)]
    tensors = RunTensors("run", backend, Disk(Path(folder)))
    engine = open_tuned(backend, model, options, of_words, tensors, [(one, "") for one in tunings])
    requests = [
        replace(ask(f"Say {word}.", f"{word} {name}", tuning=how, max_tokens=8), logprobs=True)
        for word in (*COLOURS, "sheep")
        for name, how in [("base", None), *zip(COLOURS, tunings, strict=True)]
    ]
    found = {done.key: done for done in engine.generate(requests)}
    engine.close()
    print(json.dumps({key: [done.text, done.logprob, done.trained] for key, done in sorted(found.items())}))


if __name__ == "__main__":
    main()
