"""Rows of OpenAI's batch input as rows of prompts: `{"custom_id", "method", "url", "body": {"messages", ...}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid.canonical import Json
from pipelines.prompts.row import BadRow

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PASSED_ON = ("messages", "prompt", "temperature", "top_p", "seed", "stop")
UNSUPPORTED = ("tools", "functions", "audio", "modalities")
"""What a body may ask for that no text is an answer to."""


def is_batch(values: Mapping[str, Json]) -> bool:
    """Whether a row is a request of a batch."""
    return "custom_id" in values and "body" in values


def unpacked(values: Mapping[str, Json]) -> dict[str, Any]:
    """The fields of the request. What else stands beside the body, such as a reference, stays. Raises BadRow."""
    body, url = values["body"], values.get("url", CHAT)
    if not isinstance(body, Mapping):
        raise BadRow("'body' is not an object")
    if url not in (CHAT, TEXT):
        raise BadRow(f"a request to {url!r:.60}: {CHAT} and {TEXT} are read")
    if asked := next((name for name in UNSUPPORTED if body.get(name)), ""):
        raise BadRow(f"its body asks for '{asked}', which no text answers")
    if body.get("n") not in (None, 1):
        raise BadRow(f"its body asks for n={body['n']!r:.20} answers: the setting 'samples' says how many")
    beside = {name: value for name, value in values.items() if name not in ("custom_id", "method", "url", "body")}
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    return {
        **beside,
        "id": values["custom_id"],
        **{name: body[name] for name in PASSED_ON if body.get(name) is not None},
        **({} if most is None else {"max_tokens": most}),
        **_schema(body.get("response_format")),
    }


def _schema(wanted: Any) -> dict[str, Any]:
    """The JSON schema that a response format asks for. Raises BadRow."""
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if wanted is None or kind == "text":
        return {}
    if kind == "json_object":
        return {"schema": {"type": "object"}}
    named = wanted.get("json_schema") if kind == "json_schema" else None
    schema = named.get("schema") if isinstance(named, Mapping) else None
    if not isinstance(schema, Mapping):
        raise BadRow("its response_format is no text, json_object or json_schema with a schema")
    return {"schema": schema}
