"""Answers read from a file, for tests and dry runs: no model, the same protocol.

The model is a JSON file `{"answers": {"<last message>": "<text>"}, "chats": [[MESSAGE, ...]], "default": "<text>",
"context": 8192}`. A chat is all messages of a request and the answer as a last one, `{"role": "assistant", "content":
"<text>"}`; so views of one question that end with the same message can have different answers. `chats` takes precedence
over `answers`. A prompt without an answer and without a default is an error completion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from hybrid.backends.completions import separate_thought
from hybrid.backends.options import whole_number
from hybrid.backends.prompts import BadRequest, check, refused
from hybrid.canonical import decode_once
from hybrid.errors import BadData, nearest
from hybrid.machine.files import explained_error
from hybrid.machine.text_files import utf8
from hybrid.model_files.location import digest_of
from hybrid.protocols import Model
from hybrid.records import Completion, Failure, Request
from hybrid.thoughts import opened_by

MAX_FILE = 256 * 1024 * 1024
CONTEXT = 8192
LARGEST_CONTEXT = 1 << 30
LONGEST_HOLD = 900.0
"""Most seconds that an answer waits at a gate: whoever was to open it may be gone."""
LOOK_S = 0.02
SCRIPT = 'a script is {"answers": {"<last message>": "<text>"}, "chats": [[{"role": ..., "content": ...}, ...]], ...}'

MEMBERS = {"answers", "chats", "default", "context"}

Chat = tuple[tuple[str, str], ...]
"""Role and content of each message."""


class ScriptedBackend:
    """Answers the requests one after another, in order. A token is one character."""

    options: ClassVar[Mapping[str, str]] = {
        "delay_ms": "milliseconds an answer takes (default 0)",
        "calls": "file that gets one line a call: the item's key",
        "gate": "file with a number: as many answers are given, the others wait until it is larger or the file is gone",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        path = Path(model)
        script = decode_once(utf8(path.read_bytes(), str(path)), what=str(path), limit=MAX_FILE)
        self._answers, self._default, context = _checked(script, path)
        self._chats = _chats(script.get("chats", []), path)
        self._delay = whole_number(options, "delay_ms", 0, low=0, high=3_600_000) / 1000
        self._calls = Path(options["calls"]) if "calls" in options else None
        self._gate, self._numbers = options.get("gate"), count(1)
        self.model = Model(model, digest_of(path), context, {"engine": "scripted"})

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Answer in order, one at a time."""
        for request in filter(None, requests):
            if self._calls:
                with self._calls.open("a", encoding="utf-8") as handle:
                    handle.write(request.key + "\n")
            time.sleep(self._delay)
            if self._gate:
                _pass(Path(self._gate), next(self._numbers))
            yield self._answer(request)

    def close(self) -> None:
        """There is nothing to free."""

    def _answer(self, request: Request) -> Completion:
        try:
            if request.tuning is None:  # a request may ask for a training alone
                check(request)
        except BadRequest as error:
            return refused(request, error)
        asked = request.messages[-1].content if request.messages else request.prompt
        length = sum(len(message.content) for message in request.messages) or len(asked)
        if length + request.sampling.max_tokens > self.model.context:
            message = f"prompt of {length} and {request.sampling.max_tokens} new tokens: context {self.model.context}"
            return Completion(request.key, error=Failure("too-long", message))
        chat = tuple((message.role, message.content) for message in request.messages)
        text = self._chats.get(chat, self._answers.get(asked, self._default))
        if text is None:
            return Completion(request.key, error=Failure("no-answer", "the script has no answer to this prompt"))
        for stop in request.sampling.stop:
            text = text.partition(stop)[0]
        cut = text[: request.sampling.max_tokens]
        written = Completion(
            request.key,
            text=cut,
            finish="stop" if cut == text else "length",
            prompt_tokens=length,
            completion_tokens=len(cut),
            seconds=self._delay,
        )
        return separate_thought(request, written, opened_by(request.prompt))


def _pass(gate: Path, number: int) -> None:
    """Wait until a gate lets an answer with this number through."""
    until = time.monotonic() + LONGEST_HOLD
    while _allowed(gate) < number and time.monotonic() < until:
        time.sleep(LOOK_S)


def _allowed(gate: Path) -> float:
    """How many answers a gate lets through; none while it is being written."""
    try:
        text = utf8(gate.read_bytes(), str(gate)).strip()
    except FileNotFoundError:
        return math.inf
    except OSError as error:
        raise explained_error(error, gate, doing="reading the gate") from error
    return float(text) if text.isdigit() else 0


def _checked(script: Any, path: Path) -> tuple[dict[str, str], str | None, int]:
    """Answers, default and context of a script. Raises BadData when one of them has the wrong type or range."""
    if isinstance(script, dict) and (odd := sorted(script.keys() - MEMBERS)):
        raise BadData(f"{path}: not a script: no member is called '{odd[0]:.60}'", hint=nearest(odd[0][:60], MEMBERS))
    if not isinstance(script, dict) or not isinstance(script.get("answers", {} if "chats" in script else None), dict):
        raise BadData(f"{path}: not a script: it has no object 'answers'", hint=SCRIPT)
    answers, default, context = script.get("answers", {}), script.get("default"), script.get("context", CONTEXT)
    wrong = next((asked for asked, answer in answers.items() if not isinstance(answer, str)), None)
    if wrong is not None:
        raise BadData(f"{path}: the answer to {wrong!r:.60} is not a text", hint=SCRIPT)
    if not isinstance(default, str | None):
        raise BadData(f"{path}: 'default' is not a text", hint=SCRIPT)
    if isinstance(context, bool) or not isinstance(context, int) or not 1 <= context <= LARGEST_CONTEXT:
        raise BadData(f"{path}: 'context' is not a whole number from 1 to {LARGEST_CONTEXT:,}", hint=SCRIPT)
    return answers, default, context


def _chats(chats: Any, path: Path) -> dict[Chat, str]:
    """The answer to each chat. Raises BadData for what is not a chat, and for two answers to the same chat."""
    if not isinstance(chats, list):
        raise BadData(f"{path}: 'chats' is not a list", hint=SCRIPT)
    found: dict[Chat, str] = {}
    for number, chat in enumerate(chats, start=1):
        if not (isinstance(chat, list) and len(chat) > 1 and all(map(_is_message, chat))):
            raise BadData(f"{path}: chat {number} is not a list of messages with role and content", hint=SCRIPT)
        *asked, answer = ((message["role"], message["content"]) for message in chat)
        if answer[0] != "assistant":
            raise BadData(f"{path}: chat {number} does not end with a message of the assistant", hint=SCRIPT)
        if found.setdefault(tuple(asked), answer[1]) != answer[1]:
            raise BadData(f"{path}: chat {number} has another answer than an earlier one that is the same", hint=SCRIPT)
    return found


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"role", "content"}
        and value["role"] in ("system", "user", "assistant")
        and isinstance(value["content"], str)
    )
