"""Self-edits for ARC: the prompt that asks a model for its own training configuration, and the parser of its reply.

The names in the JSON are SEAL's (arXiv 2506.10943, few-shot/self-edit.py), the wording of the prompt is ours.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn

from hybrid.canonical import Json
from hybrid.records import Message
from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.views import Pair
from pipelines.seal.augmentation import GROUPS

Strategy = Literal["train_using_all_tokens", "train_using_output_tokens"]
STRATEGIES: tuple[Strategy, ...] = ("train_using_all_tokens", "train_using_output_tokens")

MOST_EPOCHS = 1000
MOST_RATE = 0.1
"""Highest learning rate that is accepted: a step of AdamW changes each weight by about the rate, and weights of the
base model are a few hundredths."""

MOST_TEXT = 8192
"""Longest reply that is read, in characters."""

TOOLS = tuple([f"use_{group}_augmentations" for group in GROUPS])
SHOWN = """{
    "data_generation": {
        "use_basic_augmentations": <true or false>,
        "use_size_augmentations": <true or false>,
        "use_chain_augmentations": <true or false>,
        "use_repeat_augmentations": <true or false>
    },
    "training": {
        "strategy": <"train_using_all_tokens" or "train_using_output_tokens">,
        "learning_rate": <decimal number>,
        "num_train_epochs": <whole number>
    }
}"""

ASSIGNMENT = f"""You are about to be trained on the examples above, so that you can solve a new input of the same \
kind. Decide how that training is done.

First, how more training examples are made out of these. Switch each of the four tools on (true) or off (false):
1. use_basic_augmentations: turn, mirror, shift or transpose the grids.
2. use_size_augmentations: draw the grids larger, in height, in width or in both.
3. use_chain_augmentations: turn, mirror or transpose the grids, then draw them larger.
4. use_repeat_augmentations: repeat the grids side by side, on top of each other or both.

Second, how you are trained on them:
- strategy: "train_using_all_tokens" learns the whole text of an example, "train_using_output_tokens" only its output \
grid.
- learning_rate: the step size of the optimizer, a decimal number.
- num_train_epochs: how many times all examples are gone through, a whole number.

Answer with nothing but JSON of this form:
{SHOWN}"""

SYSTEM = "You are a helpful assistant. You give the right output at once, without any explanation."

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "data_generation": {
            "type": "object",
            "properties": {tool: {"type": "boolean"} for tool in TOOLS},
            "required": list(TOOLS),
            "additionalProperties": False,
        },
        "training": {
            "type": "object",
            "properties": {
                "strategy": {"type": "string", "enum": list(STRATEGIES)},
                "learning_rate": {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_RATE},
                "num_train_epochs": {"type": "integer", "minimum": 1, "maximum": 10},
            },
            "required": ["strategy", "learning_rate", "num_train_epochs"],
            "additionalProperties": False,
        },
    },
    "required": ["data_generation", "training"],
    "additionalProperties": False,
}
"""JSON schema of a reply. `parse` checks the values, with or without a schema."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A training configuration that a model chose. Equal edits of a task share one training."""

    basic: bool
    size: bool
    chain: bool
    repeat: bool
    strategy: Strategy
    learning_rate: float
    epochs: int

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The groups that are on, in the order of GROUPS."""
        return tuple(group for group in GROUPS if getattr(self, group))

    @property
    def learned(self) -> Literal["all", "answer"]:
        """Which tokens have a loss, as the value of `Tuning.learned`."""
        return "all" if self.strategy == "train_using_all_tokens" else "answer"

    def to_json(self) -> dict[str, Json]:
        return asdict(self)


PAPER = Edit(True, True, True, True, "train_using_output_tokens", 1e-4, 2)
"""The paper's oracle: a fixed configuration chosen by hand."""


def prompt(pairs: Sequence[Pair]) -> tuple[Message, ...]:
    """The chat that shows the demonstrations, never a test input, and asks for a configuration."""
    shown = "\n\n".join(f"Input:\n{_rows(input)}\nOutput:\n{_rows(output)}" for input, output in pairs)
    return Message("system", SYSTEM), Message("user", f"{shown}\n\n{'-' * 20}\n\n{ASSIGNMENT}")


def _rows(grid: Grid) -> str:
    return "\n".join(" ".join(map(str, row)) for row in grid)


def parse(text: str) -> Edit | str:
    """The edit in a reply, or why there is none, in a few words that reports count. Never raises.

    Any text may surround the JSON object (a code fence, a sentence), except a second object. The object itself must be
    exact: each name once, no other names, no number or flag in quotes, no integer for a decimal or the reverse. A
    guess would be trained on as if the model had said it.
    """
    if len(text) > MOST_TEXT:
        return "reply too long"
    start = text.find("{")
    if start < 0:
        return "no JSON object"
    try:
        value, end = _DECODER.raw_decode(text, start)
    except _RefusedError as refused:
        return str(refused)
    except (ValueError, RecursionError):
        return "not whole JSON"
    return "two JSON objects" if "{" in text[end:] else _edit(value)


def is_bare(text: str) -> bool:
    """Whether a reply that holds an edit holds nothing else, as the prompt demands."""
    return text.strip()[:1] == "{" and text.strip()[-1:] == "}"


class _RefusedError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise _RefusedError("a name twice")
    return dict(pairs)


def _no_constant(_: str) -> NoReturn:
    raise _RefusedError("NaN or Infinity")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)


def _edit(value: Mapping[str, Any]) -> Edit | str:
    parts = _named(value, ("data_generation", "training"))
    if isinstance(parts, str):
        return parts
    tools, training = _named(parts[0], TOOLS), _named(parts[1], ("strategy", "learning_rate", "num_train_epochs"))
    if isinstance(tools, str) or isinstance(training, str):
        return tools if isinstance(tools, str) else str(training)
    if any(type(tool) is not bool for tool in tools):
        return "a tool is neither true nor false"
    strategy, rate, epochs = training
    basic, size, chain, repeat = tools
    return _training_refused(strategy, rate, epochs) or Edit(basic, size, chain, repeat, strategy, rate, epochs)


def _named(value: Any, names: Sequence[str]) -> list[Any] | str:
    """The values of exactly `names`, in their order."""
    if not isinstance(value, dict):
        return "not an object where one belongs"
    if missing := [name for name in names if name not in value]:
        return f"{missing[0]} is missing"
    return [value[name] for name in names] if len(value) == len(names) else "an unknown name"


def _training_refused(strategy: Any, rate: Any, epochs: Any) -> str:
    """Why the second half is refused; "" when it is not. A bool is not an int here, nor an int a float."""
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        return "unknown strategy"
    if type(rate) is not float:
        return "learning_rate is no decimal number"
    if type(epochs) is not int:
        return "num_train_epochs is no whole number"
    if not (math.isfinite(rate) and 0 < rate <= MOST_RATE):
        return f"learning_rate is not over 0 or is over {MOST_RATE}"
    return "" if 1 <= epochs <= MOST_EPOCHS else f"num_train_epochs is not 1 to {MOST_EPOCHS}"


RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3)


def drawn(seed: int, task: str, number: int) -> Edit:
    """A random configuration: each tool on with probability 1/2, a strategy, a rate of RATES, 1 to 3 epochs.

    The same arguments give the same configuration on every machine. Three epochs of 250 texts are as many as the bound
    on steps allows.
    """
    draw = random.Random(
        f"{seed} {task} {number}"
    )  # a string seed is hashed by SHA-512: the same draws on every Python
    basic, size, chain, repeat = (draw.random() < 0.5 for _ in GROUPS)
    strategy = STRATEGIES[int(draw.random() * len(STRATEGIES))]
    rate, epochs = RATES[int(draw.random() * len(RATES))], 1 + int(draw.random() * 3)
    return Edit(basic, size, chain, repeat, strategy, rate, epochs)
