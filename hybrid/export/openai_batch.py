"""The OpenAI batch format: a run's answers as batch output, and its requests as batch input.

A `custom_id` is the key of an item in both, so that answers can be joined with requests and with the run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

from hybrid.canonical import Json, encode
from hybrid.errors import CannotRun
from hybrid.execution.requests import keyed_items
from hybrid.export.asked import folder_run, made_at, model_name
from hybrid.export.graded_run import GradedRun
from hybrid.machine.terminal import count_of
from hybrid.records import Item, Output

MOST_ROWS, MOST_BYTES = 50_000, 200_000_000
"""Of one batch, at OpenAI."""


def write_output(run: GradedRun, stream: BinaryIO) -> list[str]:
    """A line for each output: a response with status 200, or an error with its kind as `code`. It has no grades."""
    name, created = model_name(run), int(made_at(run).timestamp())
    for row in run:
        output = row.output
        failed = output.error is not None
        line: dict[str, Json] = {
            "id": f"batch_req_{output.key[:24]}",
            "custom_id": output.key,
            "response": None if failed else _response(output, name, created),
            "error": {"code": output.error.kind, "message": output.error.message} if output.error else None,
        }
        stream.write(encode(line) + b"\n")
    return ["grades and references are not in it: the format has no place for them"]


def _response(output: Output, name: str, created: int) -> dict[str, Json]:
    prompt, completion = output.tokens
    usage: dict[str, Json] = {"prompt_tokens": prompt, "total_tokens": prompt + completion}
    if output.vector is not None:
        data: Json = [{"object": "embedding", "index": 0, "embedding": list(output.vector)}]
        body: dict[str, Json] = {"object": "list", "data": data, "model": name, "usage": usage}
    else:
        said: dict[str, Json] = {"role": "assistant", "content": output.text}
        if output.thought:
            said["reasoning_content"] = output.thought
        choice: Json = {"index": 0, "message": said, "logprobs": None, "finish_reason": output.finish or None}
        body = {
            "id": f"chatcmpl-{output.key[:24]}",
            "object": "chat.completion",
            "created": created,
            "model": name,
            "choices": [choice],
            "usage": {**usage, "completion_tokens": completion},
        }
    return {"status_code": 200, "request_id": f"req_{output.key[:24]}", "body": body}


def write_input(run: GradedRun, stream: BinaryIO) -> list[str]:
    """A line for each item of the run: what its model was, or is to be, asked.

    Raises UsageError without the run's folder, CannotRun for requests that train a model: no batch can say them.
    """
    here = folder_run(run)
    rows = size = 0
    for key, item in keyed_items(here):
        url, body = _body(item)
        body["model"] = here.models[item.role].name
        line = encode({"custom_id": key, "method": "POST", "url": url, "body": body}) + b"\n"
        stream.write(line)
        rows, size = rows + 1, size + len(line)
    if rows > MOST_ROWS or size > MOST_BYTES:
        limits = f"{MOST_ROWS:,} rows or {MOST_BYTES // 1_000_000} MB"
        return [f"{count_of(rows, 'request')}, {size:,} bytes: services take {limits} at a time; split it by lines"]
    return []


def _body(item: Item) -> tuple[str, dict[str, Any]]:
    """The path of the service, and the body without the model."""
    request = item.request
    if request.tuning is not None or request.adapter is not None:
        raise CannotRun(
            f"the requests of {item.question:.200} train a model or use an adapter, which no batch can say",
            hint="run them with hybrid; --to openai-batch writes the answers",
        )
    if request.embed:
        return "/v1/embeddings", {"input": request.prompt}
    sampling = request.sampling
    body: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if request.logprobs:
        body["logprobs"] = True if request.messages else 1
    if request.schema is not None:
        body["response_format"] = _schema(request.schema)
    if request.messages:
        messages = [{"role": one.role, "content": one.content} for one in request.messages]
        return "/v1/chat/completions", {**body, "messages": messages}
    return "/v1/completions", {**body, "prompt": request.prompt}


def _schema(schema: Mapping[str, Any]) -> dict[str, Json]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema)}}
