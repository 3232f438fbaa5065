"""What a state of a training does on a laptop: its contexts and its loss on a sample, and a text that it writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import UsageError
from hybrid.loops import Lab, Series, Tried
from pipelines.cvfp import phase2
from pipelines.cvfp.diagnostics import measured
from pipelines.cvfp.loop import WRITTEN, Training, loop
from pipelines.cvfp.pipeline import Cvfp
from pipelines.cvfp.results import GOOD_DIFFERENCE

SAMPLE = 1280
"""Tokens that contexts and losses are measured on: seconds on one core at the guide's width."""


def tried(settings: Cvfp, series: Series, lab: Lab, data: Mapping[str, Any], state: bytes, prompt: str) -> Tried:
    """Measures and a text with `state`: with its best weights, once phase 2 has some. Raises UsageError, BadData."""
    made = loop(settings, series, lab, data)
    if not isinstance(made, Training):
        raise UsageError(f"{series.name} is counts, which have no state to try", hint="a trained variant: cvfp/seed-0")
    made.load(state)
    made.take_best()
    pieces = max(1, SAMPLE // settings.length)
    contexts = {} if made.variant == "token-only" else measured(made.model, made.ids[:pieces])
    score = phase2.score(made.model, made.held_out[:pieces], made.second())
    began = time.monotonic()
    beginning, text = made.text_after(prompt)
    seconds = (time.monotonic() - began) / WRITTEN
    value: dict[str, Json] = {
        "contexts": dict(contexts), "held_out_loss": score.loss, "held_out_perplexity": score.perplexity,
        "held_out_tokens": score.tokens, "trained_for_text": bool(made.best), "prompt": beginning, "text": text,
        "seconds_a_token": seconds,
    }  # fmt: skip
    return Tried(value, list(_lines(made, contexts, score, beginning, text, seconds)))


def _lines(
    made: Training, contexts: Mapping[str, float], score: phase2.Score, beginning: str, text: str, seconds: float
) -> Iterator[str]:
    if contexts:
        of = contexts
        reached = of["growth"] < 1 and of["final_difference"] < GOOD_DIFFERENCE
        yield (
            f"contexts of a sample: effective rank {of['effective_rank']:.1%} of the width (of noise "
            f"{of['effective_rank_of_noise']:.1%}), context use {of['context_use']:.2f}"
        )
        yield (
            f"{'a' if reached else 'no'} fixed point: a small change grows {of['growth']:.3f} times a token, and two "
            f"passes differ by {of['final_difference']:.2g}"
        )
    yield f"held-out sample of {score.tokens:,} tokens: loss {score.loss:.3f}, perplexity {score.perplexity:,.1f}"
    if not made.best:
        yield "its head is not trained yet: that is phase 2, so the text is noise"
    yield f"{seconds * 1000:.1f} ms a token: {beginning} | {text}"
