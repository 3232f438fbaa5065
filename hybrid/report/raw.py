"""What the model wrote, word for word, behind a fold: one row an output, the text bounded and its true length named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid.records import Output
from hybrid.report.markup import Html, el, join
from hybrid.report.sources import Asked
from hybrid.report.words import count


def view_name(view: Mapping[str, Any]) -> str:
    """How the question was shown, in one line: `rot90, demonstrations 2 0 1, seal`."""
    parts = []
    for key, value in view.items():
        if key == "transform":
            parts.append(str(value))
        elif key == "train" and isinstance(value, list):
            parts.append("demonstrations " + " ".join(map(str, value)))
        else:
            parts.append(str(value) if key == "format" else f"{key} {value}")
    return ", ".join(parts)


def fold(asked: Asked, longest: int) -> Html:
    """The outputs of one question; `longest` bounds the characters shown of each text."""
    if not asked.outputs:
        return Html("")
    rows = [_entry(number, output, longest) for number, output in enumerate(asked.outputs, start=1)]
    left = asked.count - len(asked.outputs)
    if left:
        rows.append(el("li", f"{count(left, 'more output')} not shown", cls="none"))
    failed = f", {asked.failed} failed" if asked.failed else ""
    return el(
        "details", el("summary", f"{count(asked.count, 'output')} as written{failed}"), el("ol", *rows), cls="raw"
    )


def _entry(number: int, output: Output, longest: int) -> Html:
    facts = [f"{number}", view_name(output.view) or "as is", f"sample {output.sample}"]
    if output.finish:
        facts.append(f"finish: {output.finish}")
    if any(output.tokens):
        facts.append(f"{output.tokens[0]} + {output.tokens[1]} tokens")
    return el("li", el("p", " · ".join(facts), cls="facts"), body(output, longest))


def body(output: Output, longest: int) -> Html:
    """The text of one output in a box, or the failure in its place; a thought before it behind a fold of its own."""
    said = _said(output, longest)
    if not output.thought:
        return said
    return join([el("details", el("summary", "thought"), _boxed(output.thought, longest), cls="thought"), said])


def _said(output: Output, longest: int) -> Html:
    if output.error is not None:
        return el("p", el("b", f"failed: {output.error.kind}"), " ", cut(output.error.message, longest), cls="error")
    return _boxed(output.text, longest) if output.text else el("p", "(empty text)", cls="none")


def _boxed(text: str, longest: int) -> Html:
    boxed = el("pre", text[:longest], dir="ltr", tabindex="0")
    if len(text) <= longest:
        return boxed
    return join([boxed, el("p", f"{longest:,} of {len(text):,} characters shown", cls="cut")])


def cut(value: str, longest: int) -> str:
    """`value`, or its start and its true length."""
    return value if len(value) <= longest else f"{value[:longest]}… ({len(value):,} characters)"


def listed(names: Sequence[Any]) -> str:
    """`identity ×4, rot90`: names in the order of their first appearance, with how often each comes."""
    counts: dict[str, int] = {}
    for name in map(str, names):
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(name if times == 1 else f"{name} ×{times}" for name, times in counts.items())
