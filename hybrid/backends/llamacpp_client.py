"""A client of llama.cpp's HTTP server inside this process: it renders chats, tokenizes, and tells about the model."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybrid.backends.chat_templates import MARKER, NO_TEMPLATE, ChatTemplate, probe_template, unusable
from hybrid.backends.dates import llama_cpp_settings
from hybrid.backends.prompts import BadRequest
from hybrid.errors import CannotRun
from hybrid.records import Message
from hybrid.thoughts import CHANNEL_TOKENS, TOKENS, disabling_variables

REPLY_TIMEOUT_SECONDS = 600
"""Time-out of a reply. At most one token is computed for it, but beside other requests."""


class LlamaCppClient:
    """The server of one open model; `key` is its API key. `unusable`: why llama.cpp cannot use the model's template."""

    def __init__(self, address: str, key: str, template: str, unusable: str = "") -> None:
        self._address, self._key, self._template, self._unusable = address, key, template, unusable
        self.properties: Any = self._request("/props")
        self.thought_marks = sorted(TOKENS | (CHANNEL_TOKENS if "<|channel|>" in template else frozenset()))
        """Special tokens that must be kept in texts, since they mark a thought."""
        self.hidden_turn_end = ""
        """A special token that ends a turn and that llama.cpp does not treat as an end; "" when there is none."""

    def chat_template(self, name: str) -> ChatTemplate:
        """What the model's chat template supports."""
        if not self._template:
            return ChatTemplate(name, NO_TEMPLATE)
        if self._unusable:
            return ChatTemplate(name, unusable(self._unusable))

        def render(chat: Sequence[Message], open_turn: bool) -> str:
            return self.rendered(chat, {}, open_turn=open_turn)

        chat_template = probe_template(name, render, self._end_token)
        support = self.properties.get("chat_template_caps") or {}
        if support.get("supports_system_role") is False:  # llama.cpp would merge the messages in its own way
            chat_template = replace(chat_template, system=False)
        return chat_template

    def template_settings(self, template: Mapping[str, str]) -> dict[str, Any]:
        """The template settings of a request, with thinking switched off and the pinned date as defaults."""
        return llama_cpp_settings({**disabling_variables(self._template), **template}, self._template)

    def rendered(self, messages: Sequence[Message], template: Mapping[str, str], *, open_turn: bool = True) -> str:
        """A chat as llama.cpp renders it with the model's template. Raises BadRequest when the template refuses it."""
        chat = [{"role": message.role, "content": message.content} for message in messages]
        settings = self.template_settings(template)
        body = {"messages": chat, "chat_template_kwargs": settings, "add_generation_prompt": open_turn}
        try:
            return str(self._request("/apply-template", body)["prompt"])
        except urllib.error.HTTPError as error:
            raise BadRequest("bad-request", f"the prompt cannot be made: {error.read(2000)!r:.500}") from error

    def enforces(self, schema: Mapping[str, Any]) -> bool:
        """Whether llama.cpp enforces `schema` for a raw prompt: it ignores, without an error, a schema it cannot read.

        The request forces a token that no JSON text begins with; a schema that is enforced forbids it.
        """
        try:
            return bool(self._force_token(self._tokenize("x")[-1], json_schema=dict(schema)).get("content") != "x")
        except urllib.error.HTTPError:
            return False

    def _end_token(self, text: str) -> int | None:
        """The special token that `text` begins with; sets `hidden_turn_end` when llama.cpp goes on after it."""
        found = MARKER.match(text)
        tokens = self._tokenize(found[0]) if found else []
        if not found or len(tokens) != 1:
            return None
        done = self._force_token(tokens[0])
        if done.get("stop_type") != "eos" and done.get("content"):
            return None  # an ordinary token: its text serves as a stop string
        self.hidden_turn_end = "" if done.get("stop_type") == "eos" else found[0]
        return tokens[0]

    def _force_token(self, token: int, **more: Any) -> Any:
        """The reply to a request of one token, biased so that it is `token` unless a schema forbids it."""
        body = {"prompt": "a", "n_predict": 1, "temperature": 0, "logit_bias": [[token, 1000.0]]}
        return self._request("/completion", {**body, **more})

    def _tokenize(self, text: str) -> list[int]:
        """The tokens of a text, special tokens included."""
        return [int(one) for one in self._request("/tokenize", {"content": text, "parse_special": True})["tokens"]]

    def _request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON reply; a POST when there is a body. Raises HTTPError for an error reply, CannotRun without any."""
        request = urllib.request.Request(  # noqa: S310 - the address is the library's own
            self._address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignores the proxies of the environment
        try:
            with direct.open(request, timeout=REPLY_TIMEOUT_SECONDS) as reply:
                return json.load(reply)
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise CannotRun(f"llama.cpp does not answer on {self._address}: {error}") from error
