"""One sample of an inspect_ai log as a record: the last answer, the target, the tokens, the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.formats.exported import in_metadata
from hybrid.formats.inspect_scores import numbers_in, recorded
from hybrid.formats.messages import question_in, text_in, thought_in
from hybrid.formats.reading import Answer, BadRow, id_of, object_in, plain, record, whole
from hybrid.records import unanswered

FINISH: Mapping[str, str] = {"stop": "stop", "max_tokens": "length", "model_length": "length"}
NO_OUTPUT = ("no-output", "the log holds no output of the model for this sample")


def record_of(value: Any, model: str, scorer: str) -> dict[str, Json]:
    """The record of a sample. `model` is the one that the log is about, `scorer` the name of a version 1 log's score.

    The sample's id is the question, its epochs are the samples of it. Raises BadRow.
    """
    sample = object_in(value, "the sample")
    id, epoch = id_of(sample.get("id"), "id"), sample.get("epoch", 1)
    if type(epoch) is not int or not 1 <= epoch < 2**31:
        raise BadRow(f"its epoch is {epoch!r:.40}, no whole number from 1 on")
    output, attached = _object(sample, "output"), _object(sample, "attachments")
    text, thought, finish = _answer(output, sample.get("messages"), attached)
    failure = _failure(sample, output, text)
    if failure is None and not text and thought:
        failure = ("no-answer", unanswered(thought).message)
    answer = Answer(text, failure, FINISH.get(finish, ""), _tokens(sample, output, model), thought)
    named, view = in_metadata(sample.get("metadata")), _view(sample, attached, scorer)
    return record(
        named.question if named else id,
        answer,
        task=named.task if named else "",
        key=named.key if named else f"{id}#{epoch}",
        reference=plain(sample.get("target")) or None,  # an empty target is how a log says that there is none
        view={**view, **named.view} if named else view,
        sample=epoch - 1,
    )


def _object(sample: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The member of that name if it is an object, else an empty one."""
    found = sample.get(name)
    return found if isinstance(found, dict) else {}


def _answer(output: Mapping[str, Any], messages: Any, attached: Mapping[str, Any]) -> tuple[str | None, str, str]:
    """The text of the answer or None, the thought before it, and why the model stopped."""
    choices = output.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = first.get("message") if isinstance(first.get("message"), dict) else None
    completion = output.get("completion")
    if message is None and isinstance(completion, str):
        message = {"content": completion}
    if message is None and not output and isinstance(messages, list):
        said = [one for one in messages if isinstance(one, dict) and one.get("role") == "assistant"]
        message = said[-1] if said else None
    if message is None:
        return None, "", ""
    content = message.get("content")
    return text_in(content, attached), thought_in(content), str(first.get("stop_reason", ""))


def _failure(sample: Mapping[str, Any], output: Mapping[str, Any], text: str | None) -> tuple[str, str] | None:
    error = sample.get("error") or (output.get("error") if not text else None)
    if isinstance(error, dict):
        return "error", str(error.get("message") or "the log says no more")
    if error:
        return "error", str(error)
    return NO_OUTPUT if text is None else None


def _view(sample: Mapping[str, Any], attached: Mapping[str, Any], scorer: str) -> dict[str, Json]:
    view: dict[str, Json] = {}
    if question := question_in(sample.get("input"), attached):
        view["question"] = question
    if isinstance(choices := sample.get("choices"), list) and choices:
        view["choices"] = plain(choices)
    if isinstance(limit := sample.get("limit"), dict):
        view["limit"] = str(limit.get("type", ""))
    scores = sample.get("scores")
    if scores is None and isinstance(sample.get("score"), dict):
        scores = {scorer or "score": sample["score"]}
    return {**view, **recorded(*numbers_in(scores))}


def _tokens(sample: Mapping[str, Any], output: Mapping[str, Any], model: str) -> tuple[int, int]:
    """Tokens in and out of all calls of the model for this sample, else of its last one; 0 when the log says none."""
    usages = sample.get("model_usage")
    usage = usages.get(model) if isinstance(usages, dict) else None
    usage = usage if isinstance(usage, dict) else output.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    cached = whole(usage.get("input_tokens_cache_read")) + whole(usage.get("input_tokens_cache_write"))
    return whole(usage.get("input_tokens")) + cached, whole(usage.get("output_tokens"))
