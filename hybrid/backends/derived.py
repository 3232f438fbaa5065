"""The backend of derived stages, which use no model: the text of the answer is the prompt of the request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hybrid.protocols import Model
from hybrid.records import Completion, Failure, Request
from hybrid.work import ANSWER, FAILURE

CONTEXT = 1 << 30
"""Derived texts have no limit of their own."""


class DerivedBackend:
    """Returns prompts as answers.

    `name` and `digest` are those of the model whose answers the prompts were made from.
    """

    def __init__(self, name: str, digest: str) -> None:
        self.model = Model(name, digest, CONTEXT, {"engine": "derived"})

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """One completion a request, in order."""
        for request in filter(None, requests):
            if request.messages or request.tuning or request.adapter:
                why = "a derived item has a prompt alone: no messages, no tuning, no adapter"
                yield Completion(request.key, error=Failure("pipeline", why))
            elif failed := request.template.get(FAILURE):
                yield Completion(request.key, error=Failure(str(failed["kind"]), str(failed["message"])))
            else:
                known = request.template.get(ANSWER) or {"finish": "stop"}
                prompt, completion = known.get("tokens", (0, 0))
                yield Completion(
                    request.key,
                    text=request.prompt,
                    finish=known["finish"],
                    prompt_tokens=prompt,
                    completion_tokens=completion,
                    logprob=known.get("logprob"),
                    thought=known.get("thought", ""),
                )

    def close(self) -> None:
        """There is nothing to free."""
