"""A row of a table as a prompt: every field with its type checked, texts that a model can be sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json, decode, encode
from hybrid.errors import BadData
from hybrid.machine.terminal import clean_line

ROLES = ("system", "user", "assistant")
LONGEST_NAME = 200
"""Characters of an id or a group."""
MOST_TOKENS = 1_000_000
MOST_STOPS = 16


class BadRow(ValueError):
    """What is wrong with a row, without its place."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row: `asked` is what a stage may read of it, which never has the reference. `id` and `group` may be ""."""

    id: str
    group: str
    reference: Json
    asked: Mapping[str, Json]

    @property
    def task(self) -> str:
        """The cluster of the statistics: the group, else the row itself."""
        return self.group or self.id

    @property
    def question(self) -> str:
        """The name of the question."""
        return f"{self.group}/{self.id}" if self.group else self.id


def prompt_of(fields: Mapping[str, Any], cells: Mapping[str, str]) -> Prompt:
    """The prompt in the fields of a row; `cells` are those that templates show. Raises BadRow.

    `asked` has `messages` as pairs of role and text, without the system message, which is `system`.
    """
    asked: dict[str, Json] = {"cells": dict(cells)} if cells else {}
    if "messages" in fields:
        chat = _chat(fields["messages"])
        if chat and chat[0][0] == "system":
            asked["system"] = chat.pop(0)[1]
        asked["messages"] = _with_question(chat)
    elif "prompt" in fields:
        asked["messages"] = [["user", text_of(fields["prompt"], "prompt")]]
    for name, check in CHECKS.items():
        if name in fields:
            asked[name] = check(fields[name], name)
    reference = fields.get("reference")
    try:
        encode([reference, asked])
    except (ValueError, BadData) as error:
        raise BadRow(f"it is no JSON: {error}") from error
    return Prompt(_name(fields.get("id"), "id"), _name(fields.get("group"), "group"), reference, asked)


def text_of(value: Any, name: str) -> str:
    """A text that every model can be sent; a number is one, too. Raises BadRow."""
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise BadRow(f"'{name}' is not a text")
    if "\0" in text:
        raise BadRow(f"'{name}' holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"'{name}' holds half a character: {error.reason}") from error
    return text


def _chat(value: Any) -> list[list[str]]:
    """Role and text of each message; a table of texts has them as JSON."""
    messages = _json(value, "messages")
    if not isinstance(messages, list):
        raise BadRow("'messages' is not a list")
    return [_message(one, number) for number, one in enumerate(messages, start=1)]


def _message(value: Any, number: int) -> list[str]:
    role = value.get("role") if isinstance(value, Mapping) else None
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise BadRow(f"message {number} has no role of {', '.join(ROLES)}")
    if role == "system" and number > 1:
        raise BadRow(f"message {number} is of the system: only the first can be")
    return [role, _content(value.get("content"), f"content of message {number}")]


def _content(value: Any, name: str) -> str:
    """The text of a message, or of its parts."""
    if not isinstance(value, list):
        return text_of(value, name)
    parts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in value]
    if None in parts:
        raise BadRow(f"the {name} has a part that is no text: only texts can be asked")
    return "".join(text_of(part, name) for part in parts)


def _with_question(chat: list[list[str]]) -> list[list[str]]:
    if not chat or chat[-1][0] != "user":
        raise BadRow("the last message is not of the user: there is nothing to answer")
    return chat


def _schema(value: Any, name: str) -> Mapping[str, Any]:
    schema = _json(value, name)
    if not isinstance(schema, Mapping):
        raise BadRow(f"'{name}' is not a JSON schema: an object")
    return schema


def _json(value: Any, name: str) -> Any:
    """`value`, read as JSON where it is a text, as it is in a CSV."""
    if not isinstance(value, str):
        return value
    try:
        return decode(value, what=f"'{name}'")
    except BadData as error:
        raise BadRow(error.message) from error


def _stops(value: Any, name: str) -> list[str]:
    listed = _json(value, name) if isinstance(value, str) and value.startswith("[") else value
    stops = [text_of(one, name) for one in (listed if isinstance(listed, list) else [listed])]
    if len(stops) > MOST_STOPS or not all(stops):
        raise BadRow(f"'{name}' is not one to {MOST_STOPS} texts, none of them empty")
    return stops


def _within(low: float, high: float, *, whole: bool = False, over: bool = False) -> Callable[[Any, str], Any]:
    """A check of a number from `low` (with `over`, above it) to `high`; a text that is one counts."""

    def check(value: Any, name: str) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not low <= number <= high or (over and number == low) or (whole and number != int(number)):
            words = "a whole number" if whole else "a number"
            raise BadRow(f"'{name}' is {value!r:.40}, not {words} {'over' if over else 'from'} {low:,} to {high:,}")
        return int(number) if whole else number

    return check


CHECKS: Mapping[str, Callable[[Any, str], Any]] = {
    "system": text_of,
    "schema": _schema,
    "stop": _stops,
    "max_tokens": _within(1, MOST_TOKENS, whole=True),
    "temperature": _within(0, 100),
    "top_p": _within(0, 1, over=True),
    "seed": _within(0, 2**31 - 1, whole=True),
}
"""How the further fields are read."""


def _name(value: Any, what: str) -> str:
    """An id or a group: a text, or a whole number as a text; "" for none."""
    if value is None:
        return ""
    name = text_of(value, what).strip()
    if not name or len(name) > LONGEST_NAME or clean_line(name) != name:
        raise BadRow(f"'{what}' is not a text of 1 to {LONGEST_NAME} characters on one line")
    return name
