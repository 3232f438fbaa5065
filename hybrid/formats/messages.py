"""Texts in the messages of chats, as inspect and the OpenAI interfaces write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ATTACHED = "attachment://"
"""How inspect begins a text that is kept in the sample's `attachments` under the name that follows."""

TEXTS = frozenset({"text", "input_text", "output_text"})
"""Types of parts of a message that are text."""


def text_in(content: Any, attachments: Mapping[str, Any] | None = None) -> str:
    """The text of a message's content: a text, or parts, of which those of text are joined by newlines."""
    if isinstance(content, str):
        if attachments and content.startswith(ATTACHED):
            return str(attachments.get(content.removeprefix(ATTACHED), content))
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(
        text_in(one["text"], attachments)
        for one in parts
        if isinstance(one, dict) and one.get("type") in TEXTS and isinstance(one.get("text"), str)
    )


def thought_in(content: Any) -> str:
    """The reasoning among the parts of a message's content; "" when there is none, or the provider kept it."""
    parts = content if isinstance(content, list) else []
    return "\n".join(
        str(one["reasoning"])
        for one in parts
        if isinstance(one, dict) and one.get("type") == "reasoning" and isinstance(one.get("reasoning"), str)
    )


def question_in(asked: Any, attachments: Mapping[str, Any] | None = None) -> str:
    """What was asked: a prompt, or what the user said in a chat; "" when that is not known."""
    if not isinstance(asked, list):
        return text_in(asked, attachments)
    said = [one for one in asked if isinstance(one, dict) and one.get("role", "user") == "user"]
    return "\n\n".join(text_in(one.get("content"), attachments) for one in said)
