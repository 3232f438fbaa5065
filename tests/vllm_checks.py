"""Runs in a process of its own (vLLM changes the one it is in): one engine, every check, a JSON line each.

python tests/vllm_checks.py MODEL ADAPTER ADAPTER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hybrid import testing
from hybrid.backends.registry import open_backend
from hybrid.protocols import Backend
from hybrid.records import Adapter, Request

QUESTIONS = ("Count from one to ten.", "Name three colours.", "What is water?")


def greedy(backend: Backend) -> Any:
    """Texts and log-probabilities, for comparing with another backend."""
    requests = [replace(testing.ask(question), logprobs=True) for question in QUESTIONS]
    return {key: [done.text, done.logprob] for key, done in testing.answers(backend, *requests).items()}


def adapters(backend: Backend) -> Any:
    """The same question to the base and to two adapters in one batch, then alone; and to one that is not there."""
    first, second = (Adapter(name * 64, path) for name, path in zip("ab", sys.argv[2:4], strict=True))
    named: dict[str, Request] = {
        name: replace(testing.ask(QUESTIONS[0], name), adapter=adapter, logprobs=True)
        for name, adapter in [
            ("base", None),
            ("first", first),
            ("second", second),
            ("away", Adapter("c" * 64, "/nowhere")),
        ]
    }
    together = testing.answers(backend, *named.values())
    alone = {name: testing.answers(backend, request)[name] for name, request in named.items()}
    return {
        "together": {name: [done.text, done.logprob] for name, done in together.items()},
        "alone": {name: [done.text, done.logprob] for name, done in alone.items()},
        "away": together["away"].error.kind if together["away"].error else None,
    }


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


def main() -> None:
    """Everything, in order."""
    backend = open_backend("vllm", sys.argv[1], {"loras": "2", "lora_rank": "8", "context": "2048"})
    tell("about", lambda opened: {**opened.model.about, "context": opened.model.context}, backend)
    for check in testing.BACKEND_CHECKS:
        tell(check.__name__, check, backend)
    for work in (greedy, adapters, prefix):
        tell(work.__name__, work, backend)
    backend.close()


if __name__ == "__main__":
    main()
