"""From a request to a body of OpenAI's interface, with what llama.cpp's server and vLLM need beside it.

These two have defaults of their own for what a request does not name (top_k 40; a model's generation_config.json): here
they are switched off. Other servers get only what OpenAI's interface has, since many refuse what they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.backends.openai.rendering import template_settings
from hybrid.backends.openai.served_model import Kind, ServedModel
from hybrid.records import Request

UNBIASED: Mapping[Kind, Mapping[str, Any]] = {
    "llama.cpp": {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    "vllm": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
    "": {},
}
"""What switches a server's own defaults off."""

SEEDS: Mapping[Kind, int] = {"llama.cpp": (1 << 32) - 1}
"""How many seeds a server has: for llama.cpp the next one means a random seed. For others half of it is safe."""

OMITTABLE = ("temperature", "top_p", "seed", "stop", "logprobs", "stream_options")


@dataclass(frozen=True, slots=True)
class BodyBuilder:
    """Makes the bodies of the requests to one model. `omitted` members are left out, `reuse` is llama.cpp's cache."""

    model: ServedModel
    official: bool = False  # OpenAI's own server, where max_tokens has another name
    omitted: frozenset[str] = frozenset()
    reuse: bool = True

    def path_and_body(self, request: Request) -> tuple[str, dict[str, Any]]:
        """Where a request goes, and its body."""
        body = {**self._sampling(request), **UNBIASED[self.model.kind]}
        if self.model.kind == "llama.cpp":
            body["cache_prompt"] = self.reuse
        if not request.messages:
            return "/completions", self._kept({**body, "prompt": request.prompt, **self._raw_extras(request)})
        chat = [{"role": message.role, "content": message.content} for message in request.messages]
        return "/chat/completions", self._kept({**body, "messages": chat, **self._chat_extras(request)})

    def _kept(self, body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name not in self.omitted}

    def _sampling(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        most = "max_completion_tokens" if self.official and request.messages else "max_tokens"
        return {
            "model": self.model.name,
            most: sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed % SEEDS.get(self.model.kind, (1 << 31) - 1),
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
        }

    def _chat_extras(self, request: Request) -> dict[str, Any]:
        model, extras = self.model, dict[str, Any]()
        if model.kind:
            extras["chat_template_kwargs"] = template_settings(model.kind, model.template, request.template)
        if request.schema is not None:
            extras["response_format"] = json_schema(request.schema)
        if request.logprobs:
            extras["logprobs"] = True
            if model.kind == "llama.cpp":  # else it tells twenty alternatives for each token
                extras["top_logprobs"] = 1
        return extras

    def _raw_extras(self, request: Request) -> dict[str, Any]:
        extras: dict[str, Any] = {"logprobs": 1} if request.logprobs else {}
        if request.schema is None:
            return extras
        if self.model.kind == "llama.cpp":  # it takes response_format for chats alone, and passes over it silently
            return {**extras, "json_schema": dict(request.schema)}
        return {**extras, "response_format": json_schema(request.schema)}


def json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as OpenAI's interface takes it. It is enforced only if it is `strict`, as hosted servers see it."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)}}
