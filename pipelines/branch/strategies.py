"""How candidates are asked for: `iid`, `verbalized`, `listed`, `facets`, `string-seed`.

A strategy makes the request of one call and reads the texts of its answer. Requests depend on where in the tree they
are made, on the number of the attempt, and, for `listed`, on the texts that are there already; on nothing else.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, Protocol

from hybrid.records import Failure, Message, Output, Request, Sampling
from hybrid.sampling import item_seed
from pipelines.branch.acceptance import cleaned
from pipelines.branch.scenario import FACETS, Level, Scenario

Name = Literal["iid", "verbalized", "listed", "facets", "string-seed"]
SHOWN = 24
"""Texts whose gists are shown to the model at most: the newest ones."""
GIST = 14
"""Words of a gist."""
SEED_LENGTH = 12
SENTENCE = re.compile(r"[^.!?\n]{1,400}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the tree something is asked: under the node `parent`, whose `story` leads to the `level`."""

    scenario: Scenario
    level: Level
    parent: str
    story: Sequence[tuple[str, str]]
    seed: int
    date: str = ""
    logprobs: bool = False


class Strategy(Protocol):
    """One way of asking."""

    @property
    def texts_a_call(self) -> int:
        """How many texts an answer holds."""
        ...

    @property
    def rounds(self) -> int:
        """In how many turns the wanted texts are asked for, so that later turns see the earlier ones."""
        ...

    def request(self, place: Place, attempt: int, others: Sequence[str]) -> Request:
        """What is asked at a place; `others` are the texts that are accepted there and beside it already."""
        ...

    def read(self, output: Output) -> list[str | Failure]:
        """The texts in the answer, or why there is none."""
        ...


@dataclass(frozen=True)
class Iid:
    """The same question again and again: only the seed differs."""

    texts_a_call: int = 1
    rounds: int = 1

    def request(self, place: Place, attempt: int, others: Sequence[str]) -> Request:
        """The plain question."""
        return asked(place, attempt, "iid", question(place))

    def read(self, output: Output) -> list[str | Failure]:
        """The whole answer is the text."""
        return [_one(output)]


@dataclass(frozen=True)
class Listed(Iid):
    """Shows in a line each what is there already, and asks for something that differs from all of it."""

    rounds: int = 3

    def request(self, place: Place, attempt: int, others: Sequence[str]) -> Request:
        """The question, after the gists of the others."""
        if not others:
            return asked(place, attempt, "listed", question(place))
        lines = "\n".join(f"- {gist(text)}" for text in others[-SHOWN:])
        more = f"These have been written already:\n{lines}\nWrite one whose idea differs from all of them."
        return asked(place, attempt, "listed", f"{question(place)}\n\n{more}")


@dataclass(frozen=True)
class Facets(Iid):
    """A grid of tone, viewpoint and device: each attempt has another cell, in an order that the seed draws."""

    def request(self, place: Place, attempt: int, others: Sequence[str]) -> Request:
        """The question with its cell."""
        cell = cell_of(place, attempt)
        more = " ".join(f"{name.capitalize()}: {value}." for name, value in cell.items())
        return asked(place, attempt, "facets", f"{question(place)}\n\n{more}" if more else question(place))


@dataclass(frozen=True)
class StringSeed(Iid):
    """A random string stands in the question, and its letters are to decide what the text is about."""

    def request(self, place: Place, attempt: int, others: Sequence[str]) -> Request:
        """The question with its string."""
        drawn = random.Random(item_seed(place.seed, place.parent, "string", attempt))
        letters = "".join(drawn.choices(string.ascii_letters + string.digits, k=SEED_LENGTH))
        more = (
            f"Random string: {letters}\nLet the characters of this string decide names, places, objects and the turn "
            "of events. Do not mention the string."
        )
        return asked(place, attempt, "string-seed", f"{question(place)}\n\n{more}")


@dataclass(frozen=True)
class Verbalized:
    """One call asks for several texts, each with the probability that the model gives it, as JSON."""

    texts_a_call: int = 4
    rounds: int = 1

    def request(self, place: Place, attempt: int, others: Sequence[str]) -> Request:
        """The question for several texts at once, with the schema of the answer."""
        more = (
            f"Give {self.texts_a_call} different answers, each with the probability that you would have given it. "
            "Sample from the whole range of answers, unlikely ones too."
        )
        text = f"{question(place)}\n\n{more}"
        return asked(place, attempt, "verbalized", text, schema=self._schema())

    def read(self, output: Output) -> list[str | Failure]:
        """The texts of the JSON object; a call whose answer is not one is as many failures as texts were wanted."""
        whole = _one(output)
        if isinstance(whole, Failure):
            return [whole] * self.texts_a_call
        try:
            found = [one["text"] for one in json.loads(whole)["answers"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            cut = "it was cut: raise max_tokens" if output.finish == "length" else "the model does not keep to JSON"
            return [Failure("format", f"the answer is no JSON object with {self.texts_a_call} texts; {cut}")] * (
                self.texts_a_call
            )
        texts = [cleaned(one) if isinstance(one, str) else "" for one in found[: self.texts_a_call]]
        return [text or Failure("empty", "an empty text in the list") for text in texts] or [
            Failure("empty", "the list of texts is empty")
        ]

    def _schema(self) -> dict[str, object]:
        one = {
            "type": "object",
            "properties": {"text": {"type": "string"}, "probability": {"type": "number"}},
            "required": ["text", "probability"],
            "additionalProperties": False,
        }
        many = {"type": "array", "items": one, "minItems": self.texts_a_call, "maxItems": self.texts_a_call}
        return {
            "type": "object",
            "properties": {"answers": many},
            "required": ["answers"],
            "additionalProperties": False,
        }


STRATEGIES: dict[str, Strategy] = {
    "iid": Iid(),
    "verbalized": Verbalized(),
    "listed": Listed(),
    "facets": Facets(),
    "string-seed": StringSeed(),
}
OVERHEAD = 24
"""Tokens of JSON around each text of a verbalized answer."""


def tokens_a_call(strategy: Strategy, level: Level) -> int:
    """The most tokens that one call generates."""
    many = strategy.texts_a_call
    return level.max_tokens if many == 1 else many * (level.max_tokens + OVERHEAD)


def question(place: Place) -> str:
    """What is asked for, after what was written so far."""
    told = "\n\n".join(f"{name.capitalize()}: {text}" for name, text in place.story)
    so_far = f"\n\nWhat is written so far:\n\n{told}" if told else ""
    return f"{place.scenario.brief}{so_far}\n\n{place.level.ask}"


def asked(place: Place, attempt: int, strategy: str, text: str, *, schema: dict[str, object] | None = None) -> Request:
    """The request of one call, with a seed of its own."""
    level, scenario = place.level, place.scenario
    sampling = Sampling(
        max_tokens=tokens_a_call(STRATEGIES[strategy], level),
        temperature=scenario.temperature,
        top_p=scenario.top_p,
        seed=item_seed(place.seed, place.parent, strategy, attempt),
        stop=("\n\n",) if level.paragraphs == 1 and schema is None else (),
    )
    messages = (Message("system", scenario.system), Message("user", text))
    template = {"date_string": place.date} if place.date else {}
    return Request(sampling, messages, template=template, schema=schema, logprobs=place.logprobs and schema is None)


def cell_of(place: Place, attempt: int) -> dict[str, str]:
    """Tone, viewpoint and device of an attempt: every cell of the grid once before one comes again."""
    names = [name for name in FACETS if place.scenario.facets.get(name)]
    cells = list(product(*(place.scenario.facets[name] for name in names)))
    random.Random(item_seed(place.seed, place.scenario.name, place.level.name, place.parent)).shuffle(cells)
    return dict(zip(names, cells[attempt % len(cells)], strict=True))


def gist(text: str) -> str:
    """The first words of the first sentence."""
    found = SENTENCE.search(text)
    words = (found.group() if found else text[:400]).split()
    return " ".join(words[:GIST]) + ("..." if len(words) > GIST else "")


def _one(output: Output) -> str | Failure:
    if output.error:
        return output.error
    if text := cleaned(output.text or ""):
        return text
    cut = "; max_tokens bounds thought and answer together" if output.finish == "length" else ""
    return Failure("empty", f"the model gave an empty answer{cut}")
