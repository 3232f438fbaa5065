"""The swarm of `swarm_round`: model, questions and rewards, the same for all of its sides."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

NODES, OWN, FOREIGN, GROUP = 8, 4, 4, 8
RANK, ALPHA, RATE, EPSILON = 16, 32.0, 1e-4, 1e-4
SPARSE = 3
"""Of four questions of a node: those whose eight answers earn the same, where 4 % of answers are right (1 - 0.96^8)."""
QUESTIONS = "questions.json"
"""In the folder of the model: the questions of each node, whose bytes are their tokens."""
QUESTION = 64
"""Tokens of a question of the short shape."""
RECORDED, DEAD = 3, "question 2:"
"""Questions of the step that is recorded for a test, and what is in the one whose answers are rewarded alike."""
SHAPES: Mapping[str, Mapping[str, int]] = {
    "recorded": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 258},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 1024},
    "small": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 8, "vocab_size": 4096},
    "smollm2": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152},
}
HEADS: Mapping[str, tuple[int, int]] = {"recorded": (2, 1), "tiny": (4, 2), "small": (4, 2), "smollm2": (9, 3)}


class Plan(NamedTuple):
    """What a side is told: the folder of the model, tokens of a completion, and rounds after a first one.

    `dead`: of a node's own questions, those whose answers all earn the same. Only ours asks: the others compute them.
    `nodes`: the first ones, which the fork's way is measured on; the others do all.
    """

    model: str
    tokens: int
    rounds: int
    dead: int = 0
    nodes: int = NODES


class Figures(NamedTuple):
    """Of the round that took least: processor seconds of its halves; and decode steps and completion tokens of it.

    `mib`: the peak of the process above what it took when its libraries were loaded. `model_mib`: of that, what the
    model took when it had been loaded.
    """

    generating: float
    training: float
    steps: int
    tokens: int
    mib: float
    model_mib: float


def question(node: int, number: int, size: int = QUESTION) -> str:
    """A question of a node, of so many tokens."""
    text = f"Node {node}, question {number}: what is {37 * node + 11} times {number + 13}, less {node + number}? "
    return text.ljust(size, ".")[:size]


def questions(model: str) -> list[list[str]]:
    """The questions that each node asks itself."""
    found: list[list[str]] = json.loads(Path(model, QUESTIONS).read_text(encoding="utf-8"))
    return found


def trained_on(node: int, shared: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Node and slot of the rollouts that a node trains on: its own, and some of the others' among `shared`."""
    others = [one for one in shared if one[0] != node]
    return [(node, slot) for slot in range(OWN)] + random.Random(node).sample(others, FOREIGN)


EVERY = [(node, slot) for node in range(NODES) for slot in range(OWN)]
"""All rollouts of a round."""


def of_all_nodes(found: Mapping[str, float], plan: Plan) -> dict[str, float]:
    """The figures of all nodes, where `found` are those of the first `plan.nodes`.

    Generating and steps are multiplied with the number of questions, training with that of padded prompt and completion
    tokens: a node's pass is 64 rows, as wide as its longest prompt and `plan.tokens`. How much memory more nodes would
    take, nobody measured: it is left out.
    """
    if plan.nodes == NODES:
        return dict(found)
    asked, measured = questions(plan.model), EVERY[: plan.nodes * OWN]
    padded = [
        sum(max(len(asked[of][slot]) for of, slot in trained_on(node, places)) + plan.tokens for node in range(nodes))
        for nodes, places in ((NODES, EVERY), (plan.nodes, measured))
    ]
    more = {"generating": NODES / plan.nodes, "training": padded[0] / padded[1]}
    more |= dict.fromkeys(("steps", "tokens"), more["generating"])
    return {name: found[name] * times for name, times in more.items()}


def reward(ids: Sequence[int]) -> float:
    """A reward in [0, 1] that differs within a group, so that no group is dead."""
    return sum(ids) % 11 / 10


def advantages(rewards: Sequence[float]) -> list[float]:
    """GRPO's, as TRL computes them."""
    values = torch.tensor(rewards)
    found: list[float] = ((values - values.mean()) / (values.std() + EPSILON)).tolist()
    return found


def load(folder: str) -> Any:
    """The model, fp32."""
    return AutoModelForCausalLM.from_pretrained(Path(folder), dtype=torch.float32).eval()


def peak_mib() -> float:
    """The peak of this process's resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Counted:
    """Counts the calls of a model that compute one column, the steps of decoding."""

    def __init__(self, model: Any) -> None:
        self.steps = 0
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        inner.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        ids = named.get("input_ids", given[0] if given else None)
        self.steps += ids is not None and ids.shape[1] == 1


class Clock:
    """Processor seconds of this process by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the block's."""
        began = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
