"""An exchange for people, line by line: every line that a model or a file wrote stands behind a bar."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.items import Request
from hybrid.machine.terminal import clean, clean_line
from hybrid.records import Output
from hybrid.show.exchanges import Exchange
from hybrid.show.rendering import Prompt

BAR = "  | "
LINE = 400
"""Most characters of a fact."""


def lines_of(number: int, exchange: Exchange, prompt: Prompt, longest: int) -> Iterator[str]:
    """The lines of an exchange, clean for a terminal; of each text at most `longest` characters, 0 for all."""
    output, request = exchange.output, exchange.request
    named = f"{output.question}{_view(output.view)}, sample {output.sample}, key {output.key}"
    yield clean_line(f"== {number}. {named}", LINE)
    if request is not None:
        yield from _facts(exchange, request)
        yield from _asked(output, request, prompt, longest)
    if output.thought:
        yield "thought:"
        yield from barred(output.thought, longest)
    if output.error is not None:
        yield f"failed ({clean_line(output.error.kind, 40)}):"
        yield from barred(output.error.message, longest)
    else:
        yield f"answer{_how(output)}:"
        yield from barred(output.text or "", longest)
    if output.reference is not None:
        yield clean_line(f"reference: {_json(output.reference)}", LINE)
    yield ""


def _facts(exchange: Exchange, request: Request) -> Iterator[str]:
    """How it was asked."""
    how = request.sampling
    stop = f", stop {', '.join(map(_json, how.stop))}" if how.stop else ""
    drawn = f"temperature {how.temperature:g}, top_p {how.top_p:g}, seed {how.seed}" if how.temperature else "greedy"
    if not request.embed:
        yield clean_line(f"sampling: {drawn}, max_tokens {how.max_tokens}{stop}", LINE)
    if exchange.model:
        yield clean_line(f"model: {exchange.model}{f', the {exchange.role}' if exchange.role else ''}", LINE)
    if exchange.adapter:
        yield clean_line(f"adapter: {exchange.adapter[:16]}")
    if exchange.tuning:
        yield clean_line(f"trained first: {exchange.tuning[:16]}")
    if request.template:
        yield clean_line(f"template: {_json(dict(request.template))}", LINE)
    if request.schema is not None:
        yield clean_line(f"schema: {_json(dict(request.schema))}", 10 * LINE)


def _asked(output: Output, request: Request, prompt: Prompt, longest: int) -> Iterator[str]:
    """The prompt as the model saw it, else the messages and why they are not rendered."""
    note = f"; {clean_line(prompt.note, LINE)}" if prompt.note else ""
    counted = _counted(output, prompt)
    if prompt.text is not None:
        yield f"prompt{counted}{note}:"
        yield from barred(prompt.text, longest)
        return
    yield f"messages{counted}, not rendered{note}:"
    for message in request.messages:
        yield f"  {message.role}"
        yield from barred(message.content, longest)


def _counted(output: Output, prompt: Prompt) -> str:
    recorded = output.tokens[0]
    if not recorded:
        return "" if prompt.tokens is None else f" ({prompt.tokens:,} tokens)"
    if prompt.tokens in (None, recorded):
        return f" ({recorded:,} tokens)"
    return f" ({recorded:,} tokens by the record, {prompt.tokens:,} by the files here: are they of the same model?)"


def _how(output: Output) -> str:
    facts = [output.finish] if output.finish else []
    facts += [f"{output.tokens[1]:,} tokens"] if output.tokens[1] else []
    facts += [f"log-probability {output.logprob:.3f}"] if output.logprob is not None else []
    facts += [f"{output.seconds:.1f} s"] if output.seconds else []
    facts += [f"a vector of {len(output.vector):,} numbers"] if output.vector is not None else []
    return f" ({clean_line(', '.join(facts), LINE)})" if facts else ""


def barred(text: str, longest: int) -> Iterator[str]:
    """The lines of a text, each behind a bar; `(empty)` for none, and what is left out is counted."""
    if not text:
        yield f"{BAR[:-1]} (empty)"
        return
    shown = text[:longest] if longest else text
    for line in clean(shown).split("\n"):
        yield f"{BAR}{line}"
    if len(shown) < len(text):
        yield f"  ({len(text) - len(shown):,} of {len(text):,} characters left out: --text 0 shows all)"


def as_json(exchange: Exchange, prompt: Prompt) -> dict[str, Json]:
    """All that is known of an exchange, as one JSON object."""
    output, request = exchange.output, exchange.request
    known: Mapping[str, Any] = output.to_json()
    return {
        **known,
        "logprob": output.logprob,
        "seconds": output.seconds,
        "request": json.loads(request.encoded()) if request else None,
        "model": exchange.model,
        "role": exchange.role,
        "tuning": exchange.tuning or None,
        "prompt": prompt.text,
        "prompt_tokens": prompt.tokens,
        "note": prompt.note,
    }


def _view(view: Mapping[str, Any]) -> str:
    return f" {_json(dict(view))[:200]}" if view else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
