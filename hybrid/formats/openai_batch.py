"""Output of an OpenAI batch: a row for each request, in any order; failures in three shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.formats.lines import json_rows
from hybrid.formats.messages import text_in
from hybrid.formats.reading import Answer, BadRow, Found, id_of, record, row_in, whole
from hybrid.outputs.source import OutputsSource
from hybrid.records import unanswered

UNKNOWN = "model digest, settings, seeds, time; without --input also what was asked, the references and what is missing"
KIND = re.compile(r"[^A-Za-z0-9_-]+")


class OpenAiBatch:
    """A file of outputs or errors, or both one after the other."""

    def __init__(self, source: OutputsSource) -> None:
        self._source = source
        model = self._model()
        self.run: Mapping[str, Json] = {
            **({"model": model} if model else {}),
            "about": {"format": "OpenAI batch output", "unknown": UNKNOWN},
        }
        about = {"named by": "the output of a batch, which holds no digest"}
        self.models: list[Json] = [{"name": model, "digest": "", "about": about}] if model else []

    def _model(self) -> str:
        """The model that the first answer names; "" when none does."""
        for found in json_rows(self._source):
            try:
                body = _body(row_in(found.content))
            except BadRow:
                continue
            if isinstance(body.get("model"), str):
                return str(body["model"])[:200]
        return ""

    def rows(self) -> Iterator[Found]:
        """The rows in file order."""
        return json_rows(self._source)

    def records(self, content: Any) -> list[dict[str, Json]]:
        """The records of a row, one for each choice. Raises BadRow."""
        row = row_in(content)
        id = id_of(row.get("custom_id"), "custom_id")
        failure = _failure(row)
        if failure is not None:
            return [record(id, Answer(None, failure))]
        body = _body(row)
        return [_record(id, number, choice, body) for number, choice in enumerate(_choices(body))]

    def lacks(self, rows: int) -> str:
        """What is missing is known by the inputs alone."""
        return "" if rows else "it holds no rows"


def _body(row: Mapping[str, Any]) -> dict[str, Any]:
    response = row.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    return body if isinstance(body, dict) else {}


def _failure(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The failure of a row: an error and no response, another status than 200, or a body without an answer."""
    if row.get("error"):
        return _told(row["error"], "error")
    response = row.get("response")
    if not isinstance(response, dict):
        return "error", "neither a response nor an error"
    status = response.get("status_code", 200)
    if status != 200:
        return _told(_body(row).get("error"), f"http-{status}")
    body = _body(row)
    if body.get("error"):
        return _told(body["error"], "error")
    return None if _choices(body) else ("error", "the response holds no answer")


def _told(error: Any, otherwise: str) -> tuple[str, str]:
    """Kind and message of an error of the interface."""
    if not isinstance(error, dict):
        return otherwise, str(error or otherwise)
    code = error.get("code") or error.get("type")
    kind = KIND.sub("-", str(code))[:40].strip("-") if code else ""
    return kind or otherwise, str(error.get("message") or otherwise)


def _choices(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers in a body of chat completions, completions, or responses."""
    found = body.get("choices")
    if isinstance(found, list):
        return [one for one in found if isinstance(one, dict)]
    listed = body.get("output")
    said = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    messages = [one for one in said if one.get("type") == "message"]
    if not messages:
        return []
    content = [part for one in messages for part in (one.get("content") or []) if isinstance(part, dict)]
    cut = body.get("status") == "incomplete"
    return [{"message": {"content": content}, "finish_reason": "length" if cut else "stop"}]


def _record(id: str, number: int, choice: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Json]:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {"content": choice.get("text")}
    content = message.get("content")
    text = None if content is None else text_in(content)
    if text is None and isinstance(message.get("refusal"), str):
        text = str(message["refusal"])
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    thought = thought if isinstance(thought, str) else ""
    usage = body.get("usage") if number == 0 else None  # of all choices together
    finish = str(choice.get("finish_reason", ""))
    nothing = unanswered(thought).message if thought else "the answer holds no text"
    answer = Answer(
        text,
        ("no-answer", nothing) if text is None or (thought and not text) else None,
        finish if finish in ("stop", "length") else "",
        _tokens(usage if isinstance(usage, dict) else {}),
        thought,
    )
    return record(id, answer, key=f"{id}#{number}" if number else id, sample=number)


def _tokens(usage: Mapping[str, Any]) -> tuple[int, int]:
    return (
        whole(usage.get("prompt_tokens", usage.get("input_tokens"))),
        whole(usage.get("completion_tokens", usage.get("output_tokens"))),
    )
