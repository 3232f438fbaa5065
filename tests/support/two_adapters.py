"""Train two adapters in one group, and ask with and without them, on any backend that trains.

python -m tests.support.two_adapters BACKEND MODEL FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybrid.backends.registry import open_tuned
from hybrid.folder.medium import Disk
from hybrid.folder.tensors import RunTensors
from hybrid.protocols import Training
from hybrid.tuning import Tuning
from tests.support.small_hf_model import ask, of_words, tuning

COLOURS = ("red", "blue")


def tunings() -> list[Tuning]:
    """One a colour, of different ranks."""
    return [tuning({"words": [colour]}, rank=rank) for colour, rank in zip(COLOURS, (4, 8), strict=True)]


def opened(backend: str, model: str, folder: Path, **more: str) -> Any:
    """The backend with the trainings of `tunings`; `folder` keeps what is trained."""
    options = {"context": "512", "slots": "2", "train_tokens": "256", "checkpoint": "0", "group": "2", **more}
    engine: Any = open_tuned(backend, model, options)
    prepare(engine, folder)
    return engine


def prepare(engine: Any, folder: Path) -> None:
    """Tell the engine of a stage with the trainings of `tunings`."""
    tensors = RunTensors("run", "one", Disk(folder))
    engine.prepare(Training(tensors, of_words, tuple([(one, "") for one in tunings()])))


def said(engine: Any) -> dict[str, Any]:
    """Key -> text, log-probability and what the training did, of two questions and one more to each and to the base."""
    requests = [
        replace(ask(f"Say {word}.", f"{word} {name}", tuning=how, max_tokens=8), logprobs=True)
        for word in (*COLOURS, "sheep")
        for name, how in [("base", None), *zip(COLOURS, tunings(), strict=True)]
    ]
    found = {done.key: done for done in engine.generate(requests)}
    return {key: [done.text, done.logprob, done.trained] for key, done in sorted(found.items())}


def main() -> None:
    """What was answered, as JSON on the last line."""
    backend, model, folder = sys.argv[1:]
    engine = opened(backend, model, Path(folder))
    print(json.dumps(said(engine)))
    engine.close()


if __name__ == "__main__":
    main()
