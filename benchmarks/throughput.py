"""`hybrid run local` beside the bare engine with the same prompts: what the folder, keys and shards cost.

    python benchmarks/throughput.py [--backend llamacpp|vllm] [--model smollm2] [--tasks 6] [--shard-seconds 60]

Both use one loaded engine in one process, in turns; each round has prompts that no cache has seen. Compared are tokens
(of prompts and answers) a second, the best round of each; `cpu_ratio` is the same in processor seconds, which a busy
machine disturbs less. The bare engine is its own
interface: for llamacpp as many threads as slots that call the server, for vllm all prompts added to the engine at once
and stepped to the end. Ours is the runner of `hybrid run local` with a real folder: items, keys, records, shards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hybrid import settings
from hybrid.backends.registry import open_backend
from hybrid.execution.stage_session import run_stage
from hybrid.folder.runs import join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.machine.late_imports import import_object
from hybrid.protocols import Backend, Inputs, Stage
from hybrid.records import Completion, Item, Request
from hybrid.work import Ask
from pipelines.seal.eval import SealEval

LIBRARIES = {"llamacpp": "xllamacpp", "vllm": "vllm"}
GOAL = 0.97


@dataclass(frozen=True)
class Work:
    """The same prompts for both sides; `mark` makes those of a round new to every prompt cache."""

    pipeline: SealEval
    inputs: Inputs
    max_tokens: int
    mark: str

    def items(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        """The pipeline's items, with answers of one length so that both sides do the same work."""
        (stage,) = self.pipeline.stages()
        for item in stage.items(tasks):
            first, *rest = item.request.messages
            marked = (replace(first, content=f"[{self.mark}] {first.content}"), *rest)
            sampling = replace(item.request.sampling, max_tokens=self.max_tokens, stop=())
            yield replace(item, request=replace(item.request, messages=marked, sampling=sampling))

    def requests(self) -> list[Request]:
        return [replace(item.request, key=str(n)) for n, item in enumerate(self.items(self.inputs.tasks))]


class Watch:
    """The observer of a run: counts shards and failures."""

    def __init__(self) -> None:
        self.shards = self.failed = self.tokens = self.prompt_tokens = 0

    def loading(self, model: str) -> None:
        """Not measured."""

    def loaded(self, model: str, device: str) -> None:
        """Not measured."""

    def started(self, stage: str, total: int, done: int) -> None:
        self.failed -= done  # a fresh folder has nothing done

    def grown(self, total: int) -> None:
        """Its items are known beforehand."""

    def working(self) -> None:
        """The engine is loaded from the start here."""

    def finished_item(self, completion: Completion) -> None:
        self.failed += completion.error is not None
        self.tokens += completion.completion_tokens
        self.prompt_tokens += completion.prompt_tokens

    def closed_shard(self, path: str, records: int) -> None:
        self.shards += 1

    def ended(self) -> None:
        pass


@dataclass(frozen=True)
class Round:
    """What one side did: tokens of prompts and answers, wall seconds, processor seconds of all threads."""

    tokens: int
    seconds: float
    cpu: float
    shards: int = 0


class Clock:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, tokens: int, shards: int = 0) -> Round:
        return Round(tokens, time.perf_counter() - self._wall, time.process_time() - self._cpu, shards)


def ours(backend: Backend, work: Work, shard_seconds: float) -> Round:
    """A whole stage in a new folder."""
    with tempfile.TemporaryDirectory() as place:
        folder, watch = Path(place), Watch()
        frozen = {**settings.freeze(work.pipeline), "seed": 0}
        model = {"models": {"": ModelSpec("bench", backend.model.name, backend.model.digest)}}
        run = submit(join_folder(folder, make=True), "seal-eval", frozen, work.inputs, **model)
        stage = Stage("answer", "gpu", 1, Ask(work.items))
        clock = Clock()
        run_stage(run, stage, lambda: backend, watch, shard_seconds=shard_seconds)
        done = clock.stop(watch.tokens + watch.prompt_tokens, watch.shards)
    if watch.failed:
        raise SystemExit(f"{watch.failed} items failed")
    return done


def bare_llamacpp(backend: Any, work: Work) -> Round:
    """Threads that call the server, as many as it has slots."""
    bodies = [_body(request) for request in work.requests()]
    clock = Clock()
    with ThreadPoolExecutor(backend._parallel) as pool:  # noqa: SLF001 - the engine without our layer
        answers = list(pool.map(backend._server.handle_chat_completions, bodies))  # noqa: SLF001
    if any("error" in answer for answer in answers):
        raise SystemExit("the bare engine failed")
    return clock.stop(sum(answer["usage"]["total_tokens"] for answer in answers))


def _body(request: Request) -> dict[str, Any]:
    return {
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.sampling.max_tokens,
        "temperature": request.sampling.temperature,
        "seed": request.sampling.seed,
        "top_k": 0,
        "min_p": 0.0,
        "chat_template_kwargs": dict(request.template),
    }


def bare_vllm(backend: Any, work: Work) -> Round:
    """All prompts at once, then steps until none is left: what vLLM's own `LLM.generate` does."""
    engine = backend._engine  # noqa: SLF001
    params = import_object("vllm:SamplingParams", needed_for="the bare engine")
    tokenizer = engine.get_tokenizer()
    asked = work.requests()
    clock, tokens = Clock(), 0
    for request in asked:
        chat = [{"role": message.role, "content": message.content} for message in request.messages]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **request.template)
        (prompt,) = engine.renderer.render_cmpl(
            [{"prompt_token_ids": tokenizer(text, add_special_tokens=False).input_ids}]
        )
        sampling = params(max_tokens=request.sampling.max_tokens, temperature=0.0, seed=request.sampling.seed)
        engine.add_request(f"{work.mark} {request.key}", prompt, sampling)
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                tokens += len(output.prompt_token_ids) + len(output.outputs[0].token_ids)
    return clock.stop(tokens)


BARE: Mapping[str, Callable[[Any, Work], Round]] = {"llamacpp": bare_llamacpp, "vllm": bare_vllm}


def measure(name: str, how: argparse.Namespace) -> dict[str, Any]:
    """The figures of one engine."""
    backend = open_backend(name, how.model, {})
    pipeline = SealEval(dataset="arc1-training", subset="small", limit=how.tasks, permute_n=0, views=("transpose",))
    work = Work(pipeline, pipeline.inputs(), how.max_tokens, "warm")
    BARE[name](backend, work)
    bare, run = [], []
    for turn in range(how.rounds):
        bare.append(BARE[name](backend, replace(work, mark=f"bare {turn}")))
        run.append(ours(backend, replace(work, mark=f"ours {turn}"), how.shard_seconds))
    about = dict(backend.model.about)
    backend.close()
    return {
        "ratio": _best(run) / _best(bare),
        "cpu_ratio": round(max(one.tokens / one.cpu for one in run) / max(one.tokens / one.cpu for one in bare), 3),
        "bare_tokens_s": [round(one.tokens / one.seconds, 1) for one in bare],
        "hybrid_tokens_s": [round(one.tokens / one.seconds, 1) for one in run],
        "items": len(work.requests()),
        "shards": run[-1].shards,
        "about": about,
    }


def _best(rounds: list[Round]) -> float:
    return max(one.tokens / one.seconds for one in rounds)


def main() -> None:
    """Measure what was asked for, or everything that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--backend", choices=tuple(BARE))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-seconds", type=float, default=60.0)
    how = parser.parse_args()
    if how.backend:
        found = {how.backend: measure(how.backend, how)}
    else:
        found = {name: _in_own_process(name) for name, library in LIBRARIES.items() if find_spec(library)}
    if not found:
        raise SystemExit("no engine is installed: pip install '.[llamacpp]'")
    ratio = min(one["ratio"] for one in found.values())
    line = {"name": "throughput", "peer": "the bare engine, same prompts", "ratio": round(ratio, 3), "goal": GOAL}
    print(json.dumps({**line, "met": ratio >= GOAL, "shard_seconds": how.shard_seconds, "backends": found}))


def _in_own_process(name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--backend", name, *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["backends"][name]
    return figures


if __name__ == "__main__":
    main()
