"""The fraction of (training + hand-off + answers) that passing adapters from the trainer to the engine takes.

    python benchmarks/handoff.py [--adapters 4] [--texts 3] [--threads 1]

SmolLM2-135M, rank 16. The hand-off does not depend on how long training takes, so the stage is small, where the
fraction is largest: three examples of an ARC task per adapter, one epoch, then one question each, answered in 16
tokens.

`process`: `transformers` answers in the trainer's process. Included are the copy out of the slots, the file's bytes and
their sha256, reading them back with all checks (the engine answers with what the run would keep), and loading the
adapter into a slot. `files`: instead of the last, as for vLLM, a folder in shared memory (/dev/shm) is written and read
by vLLM's loader where vLLM is installed, else by PEFT; this part is not in the stage that ran, and is added to it. The
peer is what SEAL does: PEFT's `save_pretrained` in fp32 with the tokenizer, to disk.

`ratio` is the larger of the two fractions. A GPU trains the same in less time: compare its time with `handoff_s`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import peft
import torch
from peers.lora import Peft, arc_texts, smollm2
from peers.random_models import RANK, job_of
from transformers import AutoTokenizer

from hybrid.backends.adapter_cache import AdapterCache
from hybrid.backends.adapter_files import AdapterFiles
from hybrid.backends.tuned.answering import Together
from hybrid.backends.tuned.group import TrainedAdapter
from hybrid.machine.late_imports import import_object
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import locate
from hybrid.records import Request, Sampling
from hybrid.tasks.arc.data import bundled, demonstrations
from hybrid.tasks.arc.text import SEAL, messages
from hybrid.training import adapters
from hybrid.training.jobs import Job
from hybrid.training.trainer import Trainer
from hybrid.tuning import SEAL_TARGETS

GOAL = 0.05
"""Largest fraction."""
ANSWER = 16


class Timer:
    """Seconds by name, summed over all calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def wrap(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """`act`, each call of it timed."""

        def timed(*given: Any, **more: Any) -> Any:
            with self.measure(name):
                return act(*given, **more)

        return timed


def trained(model: Any, jobs: Sequence[Job], timer: Timer) -> list[adapters.LoraWeights]:
    """Train the adapters; their copy out of the slots is timed separately."""
    trainer = Trainer(model, SEAL_TARGETS, slots=len(jobs), tokens=2048, free=lambda: 1 << 34)
    with timer.measure("train"), patch.object(adapters, "extract", timer.wrap("taken", adapters.extract)):
        done = list(trainer.train(jobs))
    trainer.close()
    return [one.adapter for one in done if one.adapter]


def made(weights: adapters.LoraWeights, dtype: torch.dtype) -> TrainedAdapter:
    """An adapter as the run stores it."""
    data = weights.to_bytes(dtype)
    name = adapters.adapter_digest(data)
    return TrainedAdapter(adapters.from_bytes(data, name), data, name)


def answered(together: Together, found: Sequence[TrainedAdapter], ids: Sequence[str], timer: Timer) -> None:
    """Answer one question of its task with each adapter, in one queue."""
    tasks = bundled("arc1-training").tasks
    with timer.measure("put"):
        places = [together.register(one) for one in found]
    requests = []
    for number, (id, place) in enumerate(zip(ids, places, strict=True)):
        pairs = demonstrations(tasks[id], id)
        chat = messages("seal", pairs[:1], pairs[1][0], SEAL.instruction)
        requests.append(Request(Sampling(ANSWER), messages=chat, adapter=place, key=str(number)))
    loaded = timer.wrap("slot", AdapterCache._load)  # noqa: SLF001  (the step to measure)
    with timer.measure("answer"), patch.object(AdapterCache, "_load", loaded):
        completions = list(together.generate(requests, RANK))
    assert not any(one.error for one in completions), completions
    assert len(completions) == len(found)


def reader() -> tuple[str, Callable[[Path], object]]:
    """The name and the function of the loader on the answering side."""
    if find_spec("vllm") is None:
        return "peft", lambda folder: peft.load_peft_weights(str(folder), device="cpu")
    lora = import_object("vllm.lora.lora_model:LoRAModel", needed_for="vLLM's loader")
    helper = import_object("vllm.lora.peft_helper:PEFTHelper", needed_for="vLLM's loader")
    known = set(SEAL_TARGETS)

    def read(folder: Path) -> object:
        how = helper.from_local_dir(str(folder), 8192)
        return lora.from_local_checkpoint(
            str(folder), known, how, lora_model_id=1, device="cpu", dtype=torch.float32, model_vocab_size=49152
        )

    return "vllm", read


def through_files(found: Sequence[TrainedAdapter], read: Callable[[Path], object], timer: Timer) -> None:
    """Write every adapter to a folder in shared memory, and read it there."""
    files = AdapterFiles()
    try:
        for one in found:
            assert one.weights is not None
            with timer.measure("write"):
                folder = files.put(one.digest, one.weights, one.data)
            with timer.measure("read"):
                read(folder)
    finally:
        files.close()


def seals_way(job: Job, timer: Timer) -> int:
    """Save an adapter as SEAL does. Returns the bytes written."""
    tokenizer, peer = AutoTokenizer.from_pretrained(as_folder(locate("smollm2"))), Peft(smollm2(), job)
    with tempfile.TemporaryDirectory() as place:
        with timer.measure("seal"):
            peer.model.save_pretrained(place)
            tokenizer.save_pretrained(place)
        return sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())


def summary(seconds: Mapping[str, float], found: Sequence[TrainedAdapter]) -> dict[str, Any]:
    """The fractions, from the seconds of each part."""
    common = seconds["taken"] + seconds["bytes"]
    train, answer = seconds["train"] - seconds["taken"], seconds["answer"] - seconds["slot"]
    ways = {
        "process": common + seconds["put"] + seconds["slot"],
        "files": common + seconds["write"] + seconds["read"],
    }
    shares = {way: took / (train + took + answer) for way, took in ways.items()}
    worst = max(shares.values())
    return {
        "ratio": round(worst, 5),
        "goal": GOAL,
        "met": worst <= GOAL,
        "shares": {way: round(share, 5) for way, share in shares.items()},
        "handoff_s": {way: round(took / len(found), 4) for way, took in ways.items()},
        "bytes": sum(len(one.data) for one in found) // len(found),
        "seconds": {part: round(took, 4) for part, took in seconds.items()},
    }


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--texts", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    how = parser.parse_args()
    torch.set_num_threads(how.threads)
    timer, (name, read) = Timer(), reader()
    texts = arc_texts("small", how.adapters)
    jobs = [job_of(id, own[: how.texts]) for id, own in texts.items()]
    together = Together("smollm2", {"device": "cpu"})
    with together.training() as model:
        weights = trained(model, jobs, timer)
    with timer.measure("bytes"):
        found = [made(one, torch.float32) for one in weights]
    answered(together, found, list(texts), timer)
    together.close()
    through_files(found, read, timer)
    seal_bytes = seals_way(jobs[0], timer)
    about = {"name": "handoff", "peer": "SEAL's way: PEFT's save_pretrained, fp32, with the tokenizer"}
    halves = {"bytes_bf16": len(weights[0].to_bytes(torch.bfloat16)), "seal_bytes": seal_bytes, "reader": name}
    print(json.dumps({**about, **summary(timer.seconds, found), **halves, "adapters": len(found)}))


if __name__ == "__main__":
    main()
