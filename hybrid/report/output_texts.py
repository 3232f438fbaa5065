"""The texts of outputs in a folded list: one row per output, each text truncated with its full length stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid.canonical import encode
from hybrid.execution.requests import Requests
from hybrid.records import Output
from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.sources import QuestionResult

MAX_MESSAGES = 40
"""Most messages of a request that are shown."""


def view_name(view: Mapping[str, Any]) -> str:
    """The view of a question on one line: `rot90, demonstrations 2 0 1, seal`. The question itself stands elsewhere."""
    parts = []
    for key, value in view.items():
        if key == "question":
            continue
        if key == "transform":
            parts.append(str(value))
        elif key == "train" and isinstance(value, list):
            parts.append("demonstrations " + " ".join(map(str, value)))
        else:
            parts.append(str(value) if key == "format" else f"{key} {value}")
    return ", ".join(parts)


def folded_outputs(result: QuestionResult, longest: int, requests: Requests | None = None) -> Html:
    """The outputs of one question, each with its request where these are given, in a fold of its own.

    Of each text at most `longest` characters are shown.
    """
    if not result.outputs:
        return Html("")
    rows = [_entry(number, output, longest, requests) for number, output in enumerate(result.outputs, start=1)]
    left = result.count - len(result.outputs)
    if left:
        rows.append(el("li", f"{count_of(left, 'more output')} not shown", cls="none"))
    failed = f", {result.failed} failed" if result.failed else ""
    return el(
        "details", el("summary", f"{count_of(result.count, 'output')} as written{failed}"), el("ol", *rows), cls="raw"
    )


def _entry(number: int, output: Output, longest: int, requests: Requests | None) -> Html:
    facts = [f"{number}", view_name(output.view) or "as is", f"sample {output.sample}"]
    if output.finish:
        facts.append(f"finish: {output.finish}")
    if any(output.tokens):
        facts.append(f"{output.tokens[0]} + {output.tokens[1]} tokens")
    request = requests.of(output.key) if requests else None
    asked = _request(request, longest) if request else Html("")
    return el("li", el("p", " · ".join(facts), cls="facts"), asked, output_text(output, longest))


def _request(request: Mapping[str, Any], longest: int) -> Html:
    """What was asked, folded: how, and the messages before the chat template, or the raw prompt."""
    how = {name: value for name, value in request["sampling"].items() if value}
    settings = {name: request[name] for name in ("schema", "template", "adapter") if request.get(name)}
    facts = "sampling " + encode({**how, **settings}).decode()
    messages: list[dict[str, str]] = request["messages"][:MAX_MESSAGES]
    turns = [part for one in messages for part in (el("p", one["role"], cls="facts"), boxed(one["content"], longest))]
    left = len(request["messages"]) - len(messages)
    more = [el("p", f"{count_of(left, 'more message')} not shown", cls="none")] if left else []
    raw = [boxed(request["prompt"], longest)] if request["prompt"] else []
    said = [*turns, *more, *raw]
    return el("details", el("summary", "asked"), el("p", truncated(facts, longest), cls="facts"), *said, cls="thought")


def output_text(output: Output, longest: int) -> Html:
    """The text of one output, or its failure; before it the thought, folded."""
    shown = _text_or_failure(output, longest)
    if not output.thought:
        return shown
    return join([el("details", el("summary", "thought"), boxed(output.thought, longest), cls="thought"), shown])


def _text_or_failure(output: Output, longest: int) -> Html:
    if output.error is not None:
        return el(
            "p", el("b", f"failed: {output.error.kind}"), " ", truncated(output.error.message, longest), cls="error"
        )
    return boxed(output.text, longest) if output.text else el("p", "(empty text)", cls="none")


def boxed(text: str, longest: int) -> Html:
    """The text in a box, cut to `longest` characters, which is said."""
    box = el("pre", text[:longest], dir="ltr", tabindex="0")
    if len(text) <= longest:
        return box
    return join([box, el("p", f"{longest:,} of {len(text):,} characters shown", cls="cut")])


def truncated(value: str, longest: int) -> str:
    """`value`, cut to `longest` characters with its full length stated."""
    return value if len(value) <= longest else f"{value[:longest]}… ({len(value):,} characters)"


def counted_names(names: Sequence[Any]) -> str:
    """`identity ×4, rot90`: the names in order of first appearance, with their counts."""
    counts: dict[str, int] = {}
    for name in map(str, names):
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(name if times == 1 else f"{name} ×{times}" for name, times in counts.items())
