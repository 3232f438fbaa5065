"""What llama.cpp tells of its model: through the library's own listener on the loopback interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybrid.backends.dates import for_llama_cpp
from hybrid.backends.prompts import BadRequest
from hybrid.backends.turns import MARKER, NO_TEMPLATE, Form, read_form, unusable
from hybrid.errors import CannotRun
from hybrid.records import Message
from hybrid.thoughts import CHANNEL_TOKENS, TOKENS, off

SECONDS = 600
"""For a reply. No more than a token is computed for one, but beside other requests."""


class Listener:
    """The listener of one open model, locked with `key`. `unusable`: why llama.cpp cannot use the model's template."""

    def __init__(self, address: str, key: str, template: str, unusable: str = "") -> None:
        self._address, self._key, self._template, self._unusable = address, key, template, unusable
        self.properties: Any = self._ask("/props")
        self.marks = sorted(TOKENS | (CHANNEL_TOKENS if "<|channel|>" in template else frozenset()))
        """Special tokens that texts must hold, since they mark a thought."""
        self.hidden_end = ""
        """A special token that ends a turn and is none of those that llama.cpp ends an answer at."""

    def form(self, name: str) -> Form:
        """What the model's template carries."""
        if not self._template:
            return Form(name, NO_TEMPLATE)
        if self._unusable:
            return Form(name, unusable(self._unusable))
        form = read_form(name, lambda chat, opened: self.written(chat, {}, opened=opened), self._end_token)
        able = self.properties.get("chat_template_caps") or {}
        if able.get("supports_system_role") is False:  # then it joins the messages by itself, in another way
            form = replace(form, system=False)
        return form

    def settings(self, template: Mapping[str, str]) -> dict[str, Any]:
        """The settings of a request's template: thinking off, and what it needs to write the pinned date."""
        return for_llama_cpp({**off(self._template), **template}, self._template)

    def written(self, messages: Sequence[Message], template: Mapping[str, str], *, opened: bool = True) -> str:
        """A chat as llama.cpp writes it with the model's template. Raises BadRequest when the template refuses it."""
        said = [{"role": message.role, "content": message.content} for message in messages]
        settings = self.settings(template)
        body = {"messages": said, "chat_template_kwargs": settings, "add_generation_prompt": opened}
        try:
            return str(self._ask("/apply-template", body)["prompt"])
        except urllib.error.HTTPError as error:
            raise BadRequest("bad-request", f"the prompt cannot be made: {error.read(2000)!r:.500}") from error

    def holds_to(self, schema: Mapping[str, Any]) -> bool:
        """Whether a raw prompt's answer is held to `schema`: llama.cpp says nothing when it cannot read one.

        It is asked for a token that no JSON begins with, which it then must not write.
        """
        try:
            return bool(self._forced(self._tokens("x")[-1], json_schema=dict(schema)).get("content") != "x")
        except urllib.error.HTTPError:
            return False

    def _end_token(self, text: str) -> int | None:
        """The special token that `text` begins with. Unless llama.cpp ends an answer there by itself: `hidden_end`."""
        found = MARKER.match(text)
        tokens = self._tokens(found[0]) if found else []
        if not found or len(tokens) != 1:
            return None
        done = self._forced(tokens[0])
        if done.get("stop_type") != "eos" and done.get("content"):
            return None  # an ordinary token, whose text a stop string finds
        self.hidden_end = "" if done.get("stop_type") == "eos" else found[0]
        return tokens[0]

    def _forced(self, token: int, **more: Any) -> Any:
        """What comes of an answer of one token, which is `token` unless something forbids it."""
        how = {"prompt": "a", "n_predict": 1, "temperature": 0, "logit_bias": [[token, 1000.0]]}
        return self._ask("/completion", {**how, **more})

    def _tokens(self, text: str) -> list[int]:
        """The tokens of a text, special ones among them."""
        return [int(one) for one in self._ask("/tokenize", {"content": text, "parse_special": True})["tokens"]]

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Raises HTTPError for a request that is refused."""
        ask = urllib.request.Request(  # noqa: S310 - the address is the library's own
            self._address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
        )
        try:  # no proxy of the environment is asked for the way to this process
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask, timeout=SECONDS) as reply:
                return json.load(reply)
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise CannotRun(f"llama.cpp does not answer on {self._address}: {error}") from error
