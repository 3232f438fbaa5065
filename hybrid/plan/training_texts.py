"""The texts of a stage's trainings, measured on some of them: making those of all takes longer than a plan may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from hybrid.backends.prompts import BadRequest
from hybrid.backends.tuned.examples import texts_of
from hybrid.items import Example, Request, Sampling
from hybrid.plan.counting import CHARACTERS, Exact, TokenCounter, characters
from hybrid.tuning import Tuning
from hybrid.work import Tune

LOOKED_AT = 2
"""Trainings whose texts are made."""
TOKENIZED = 24
"""Texts of a training that are tokenized; of the others the characters are counted."""
NO_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class TrainingTexts:
    """The texts of the trainings of a stage: their number, that of a training on average, tokens and labels of all
    epochs of all trainings, optimizer steps of all, and of some trainings the largest text as (tokens, labels).
    """

    trainings: int
    tokens: int
    labels: int
    steps: int
    largest: tuple[tuple[int, int], ...]
    exact: bool = False


def training_texts(
    work: Tune, tasks: Mapping[str, Any], trainings: Sequence[tuple[Tuning, int]], counter: TokenCounter
) -> TrainingTexts:
    """The texts of trainings, each with how many adapters are trained so. Raises what the pipeline raises."""
    count, step = sum(times for _, times in trainings), max(1, len(trainings) // LOOKED_AT)
    some = [one for one, _ in trainings[::step]][:LOOKED_AT]
    found = [_of_one(work.examples(tasks, one.examples), one, counter) for one in some]
    tokens, labels, steps = (
        round(count * sum(getattr(one, name) for one in found) / max(1, len(found)))
        for name in ("tokens", "labels", "steps")
    )
    exact = count == len(found) and all(one.exact for one in found)
    return TrainingTexts(count, tokens, labels, steps, tuple(one.largest[0] for one in found), exact)


def _of_one(examples: Sequence[Example], tuning: Tuning, counter: TokenCounter) -> TrainingTexts:
    """The texts of one training: some are tokenized, the others follow by their characters."""
    sizes = [_characters(one) for one in examples]
    order = sorted(range(len(examples)), key=lambda place: -sizes[place])
    some = [examples[place] for place in order[:: max(1, len(order) // TOKENIZED)]]
    known = [_tokens(one, tuning, counter) for one in some]
    rate, share = _rates(known, sum(map(_characters, some)))
    total, exact = sum(sizes), len(some) == len(examples) and isinstance(counter, Exact)
    tokens = sum(one for one, _ in known) if exact else round(total * rate)
    steps = ceil(len(examples) / tuning.batch) * tuning.epochs
    largest = max(known, default=(1, 1))
    return TrainingTexts(1, tokens * tuning.epochs, round(tokens * share) * tuning.epochs, steps, (largest,), exact)


def _rates(known: Sequence[tuple[int, int]], size: int) -> tuple[float, float]:
    """Tokens a character, and labels a token."""
    tokens = sum(one for one, _ in known)
    return tokens / max(1, size), sum(labels for _, labels in known) / max(1, tokens)


def _tokens(example: Example, tuning: Tuning, counter: TokenCounter) -> tuple[int, int]:
    """Tokens and labels of an example, by the code that tokenizes for training where the tokenizer is here."""
    if isinstance(counter, Exact):
        try:
            made, _ = texts_of([example], replace(tuning, padding="masked"), counter.tokenizer, NO_LIMIT)
        except BadRequest:
            return 1, 1
        return len(made[0].ids), made[0].labelled
    answer = len(example.messages[-1].content) if example.messages else len(example.text)
    labels = max(1, int(answer / CHARACTERS))
    tokens = counter.tokens(_as_request(example))
    return max(tokens, labels), labels if tuning.learned == "answer" else tokens


def _characters(example: Example) -> int:
    return characters(_as_request(example))


def _as_request(example: Example) -> Request:
    """What is counted: the chat, or the raw text with what stands before it."""
    return Request(Sampling(1), example.messages, "" if example.messages else example.prompt + example.text)
