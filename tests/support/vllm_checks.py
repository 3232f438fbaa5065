"""Runs in a process of its own (vLLM changes the one it is in): one engine, every check, a JSON line each.

python -m tests.support.vllm_checks MODEL FOLDER ADAPTER ADAPTER ADAPTER-OF-ANOTHER-KIND MODEL-WITHOUT-WEIGHTS

The engine is the one that answers with adapters trained here (FOLDER keeps them), so that it is started only once.
"""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

from hybrid import testing
from hybrid.backends.adapter_memory import adapter_bytes
from hybrid.backends.registry import open_backend
from hybrid.errors import CannotRun, HybridError, UsageError
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import config_of, locate
from hybrid.protocols import Backend
from hybrid.records import Adapter, Request
from tests.support.two_adapters import opened, prepare, said

LORA_TENSORS = ("lora_a_stacked", "lora_b_stacked")
QUESTIONS = ("Count from one to ten.", "Name three colours.", "What is water?")


def greedy(backend: Backend) -> Any:
    """Texts and log-probabilities, for comparing with another backend."""
    requests = [replace(testing.ask(question), logprobs=True) for question in QUESTIONS]
    return {key: [done.text, done.logprob] for key, done in testing.answers(backend, *requests).items()}


def adapters(backend: Backend) -> Any:
    """The same question to the base and to two adapters in one batch, then alone; and to one that is not there."""
    first, second = (Adapter(name * 64, path) for name, path in zip("ab", sys.argv[3:5], strict=True))
    named: dict[str, Request] = {
        name: replace(testing.ask(QUESTIONS[0], name), adapter=adapter, logprobs=True)
        for name, adapter in [
            ("base", None),
            ("first", first),
            ("second", second),
            ("away", Adapter("c" * 64, "/nowhere")),
            ("other kind", Adapter("d" * 64, sys.argv[5])),
        ]
    }
    together = testing.answers(backend, *named.values())
    alone = {name: testing.answers(backend, request)[name] for name, request in named.items()}
    return {
        "together": {name: [done.text, done.logprob] for name, done in together.items()},
        "alone": {name: [done.text, done.logprob] for name, done in alone.items()},
        "refused": {name: [done.error.kind, done.error.message] for name, done in together.items() if done.error},
    }


def bad_adapters(backend: Backend) -> Any:
    """Key -> text or the failure's kind and message: bad adapters beside a good one, then the good one again."""
    copies = {name: Path(tempfile.mkdtemp()) for name in ("too large", "cut short")}
    for folder in copies.values():
        shutil.copytree(sys.argv[3], folder, dirs_exist_ok=True)
    settings = json.loads((copies["too large"] / "adapter_config.json").read_text())
    (copies["too large"] / "adapter_config.json").write_text(json.dumps({**settings, "r": 16}))
    (copies["cut short"] / "adapter_model.safetensors").write_bytes(b"cut")
    named = {"first": Adapter("a" * 64, sys.argv[3])}
    named |= {name: Adapter(name.encode().hex().ljust(64, "0"), str(folder)) for name, folder in copies.items()}
    asked = [replace(testing.ask(QUESTIONS[0], name), adapter=adapter) for name, adapter in named.items()]
    found = testing.answers(backend, *asked)
    again = testing.answers(backend, asked[0])
    return {name: done.text or [done.error.kind, done.error.message] for name, done in [*found.items(), *again.items()]}


def changed_functions(backend: Any) -> Any:
    """Exit code and message when functions of the engine are not those that are known, or the engine is dead."""
    from vllm.v1.engine.exceptions import EngineDeadError

    said = []
    for name, error in (("add_request", TypeError("no lora_request")), ("step", EngineDeadError())):
        with patch.object(backend._engine, name, side_effect=error):
            try:
                list(backend.generate([testing.ask(QUESTIONS[0]), testing.ask(QUESTIONS[1])]))
            except HybridError as raised:
                said.append([raised.exit_code, raised.message])
    return said


def memory_of_adapters(backend: Any) -> Any:
    """Bytes that the engine reserved for its adapters, what `adapter_bytes` says, how many `auto` would hold."""
    from hybrid.backends.vllm_engine import adapters_at_once

    worker = backend._engine.engine_core.engine_core.model_executor.driver_worker.worker
    kept = [getattr(one, name, ()) for one in worker.model_runner.model.modules() for name in LORA_TENSORS]
    parts = [part for one in kept for part in (one if isinstance(one, (tuple, list)) else (one,))]
    folder = as_folder(locate(sys.argv[1]))
    each = adapter_bytes(config_of(folder), 8, "float32")
    return [sum(part.nbytes for part in parts), 2 * each, adapters_at_once({"loras": "auto"}, folder, 8, "float32")]


def sleep(backend: Any) -> Any:
    """What is answered before and after the calls for sleep, which do nothing on a CPU; why it does not sleep there;
    whether the GPU's classes have what is called.
    """
    from vllm import EngineArgs
    from vllm.device_allocator.cumem import CuMemAllocator
    from vllm.v1.worker.gpu_worker import Worker

    from hybrid.backends.vllm_engine import sleeps

    asked = replace(testing.ask(QUESTIONS[0]), adapter=Adapter("a" * 64, sys.argv[3]))
    before = testing.answers(backend, asked)[asked.key].text
    backend.sleep()
    asleep = [backend._engine.is_sleeping(), backend._asleep]
    backend.wake()
    after = [testing.answers(backend, asked)[asked.key].text, backend._engine.is_sleeping(), backend._asleep]
    inspect.signature(Worker.sleep).bind(None, level=1)
    inspect.signature(Worker.wake_up).bind(None, tags=None)
    inspect.signature(EngineArgs).bind(model="", enable_sleep_mode=True)
    assert "pointer_to_data" in inspect.getsource(CuMemAllocator.__init__)
    assert not sleeps("auto", Path(sys.argv[1]))
    try:
        sleeps("true", Path(sys.argv[1]))
    except CannotRun as error:
        return [before, *after, asleep, error.message, backend.can_sleep]
    return None


def unused_rank(_: Backend) -> str:
    """What is said of a rank that is too large, where no adapters are asked for."""
    try:
        open_backend("vllm", sys.argv[1], {"lora_rank": "513"})
    except UsageError as error:
        return error.message
    return ""


def incomplete(_: Any) -> Any:
    """What is said of a model that lacks weights, before an engine is started for it."""
    try:
        open_backend("vllm", sys.argv[6], {})
    except CannotRun as error:
        return error.message
    return None


def ranks(_: Any) -> Any:
    """vLLM's own list."""
    from vllm.config.lora import MaxLoRARanks

    return get_args(MaxLoRARanks)


def prefix(backend: Backend) -> Any:
    """Cached tokens of a prompt that was asked before."""
    long = "The cat sat on the mat. " * 20
    testing.answers(backend, testing.ask(long))
    again = testing.answers(backend, testing.ask(long))[long]
    return [again.cached_tokens, again.prompt_tokens]


def tell(name: str, work: Callable[[Backend], Any], backend: Backend) -> None:
    """One line: what came of it."""
    try:
        line = {"name": name, "value": work(backend), "broken": None}
    except testing.Broken as error:
        line = {"name": name, "value": None, "broken": str(error)}
    print(json.dumps(line), flush=True)


def next_stage(tuned: Any, folder: Path) -> Any:
    """What is said in a second stage, whose adapters the run holds; whether vLLM went on for it."""
    before = tuned._answering._open
    prepare(tuned, folder)
    return [said(tuned), tuned._answering._open is before]


def main() -> None:
    """Everything, in order."""
    from tests.support.vllm_sampler_checks import policies  # imports vLLM, which those who start this must not

    tuned = opened("vllm", sys.argv[1], Path(sys.argv[2]), loras="2", context="2048")
    tell("trained", said, tuned)
    tell("next_stage", lambda tuned: next_stage(tuned, Path(sys.argv[2])), tuned)
    backend = tuned._answering._engine(8)  # the one that has just answered
    tell("about", lambda opened: {**opened.model.about, "context": opened.model.context}, backend)
    for check in testing.BACKEND_CHECKS:
        tell(check.__name__, check, backend)
    for work in (
        greedy,
        adapters,
        bad_adapters,
        changed_functions,
        memory_of_adapters,
        sleep,
        prefix,
        incomplete,
        ranks,
        unused_rank,
    ):
        tell(work.__name__, work, backend)
    tell("policies", lambda opened: policies(opened._engine, sys.argv[1]), backend)
    places = [place for place, _ in tuned._answering._files._places.values()]
    tuned.close()
    tell("files", lambda _: {"places": len(places), "left": [str(one) for one in places if one.exists()]}, backend)


def misconfigured(model: Path, folder: Path) -> Path:
    """The same model, whose files name another end than its chat template writes: the checks must pass all the same."""
    for file in model.iterdir():
        if file.suffix != ".json":
            (folder / file.name).symlink_to(file)
            continue
        content = json.loads(file.read_text())
        for name, wrong in (("eos_token_id", 0), ("eos_token", "<|endoftext|>")):
            if name in content:
                content[name] = wrong
        (folder / file.name).write_text(json.dumps(content))
    return folder


def another_kind(adapter: Path, folder: Path) -> Path:
    """The same matrices as an adapter that PEFT computes in another way."""
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "init_lora_weights": "pissa"}))
    return folder


def without_weights(model: Path, folder: Path) -> Path:
    """The same model with one tensor of its own, and one that is not."""
    import torch
    from safetensors.torch import save_file

    for file in (file for file in model.iterdir() if file.suffix != ".safetensors"):
        (folder / file.name).symlink_to(file)
    size = json.loads((model / "config.json").read_text())["hidden_size"]
    save_file({"model.norm.weight": torch.ones(size), "model.odd": torch.ones(1)}, folder / "model.safetensors")
    return folder


def random_adapter(model: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter of rank 8 in PEFT's format, strong enough to change what is said."""
    import torch
    from safetensors.torch import save_file

    shape = json.loads((model / "config.json").read_text())
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(8, shape["hidden_size"], generator=draw) / 8
        tensors[f"{name}.lora_B.weight"] = torch.randn(shape["hidden_size"], 8, generator=draw) / 8
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


if __name__ == "__main__":
    main()
