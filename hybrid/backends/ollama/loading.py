"""Loading a model on the server, and the options that chats and embeddings share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hybrid.backends.ollama.api import cannot_use, model_name
from hybrid.backends.ollama.context_window import ContextWindow
from hybrid.backends.ollama.model_info import ModelInfo
from hybrid.backends.ollama.rendering import chat_template_from_server
from hybrid.backends.ollama.server import Server
from hybrid.backends.options import whole_number
from hybrid.backends.servers.connection import Timeouts
from hybrid.backends.servers.replies import ErrorReply
from hybrid.errors import UsageError

KEEP_ALIVE = "30m"
DURATION = re.compile(r"-?\d+(\.\d+)?(ms|s|m|h)")
MOST_THREADS = 4096


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How the model is loaded. Every request repeats it, since another number of threads reloads the model."""

    keep_alive: str | int
    threads: int = 0  # 0: as the Modelfile says, else the server's default

    def body(self, model: str, context: int) -> dict[str, Any]:
        """The part of a body that all requests share; `context` in tokens."""
        threads = {"num_thread": self.threads} if self.threads else {}
        return {"model": model, "keep_alive": self.keep_alive, "options": {"num_ctx": context, **threads}}


def load_settings_of(options: Mapping[str, str]) -> LoadSettings:
    """The load settings among the backend options. Raises UsageError."""
    return LoadSettings(keep_alive_of(options), whole_number(options, "threads", 0, low=1, high=MOST_THREADS))


def load(server: Server, info: ModelInfo, window: ContextWindow, load_settings: LoadSettings, seconds: float) -> None:
    """Load the model, with a time-out of its own: after a short one the server would abandon each attempt."""
    body = load_settings.body(info.name, window.size)
    try:
        server.ask("/api/generate", body, seconds=seconds)
    except ErrorReply as error:
        raise cannot_use(error, info.name) from error
    window.loaded_with(window.size)


def with_rendered_template(
    server: Server, info: ModelInfo, window: ContextWindow, load_settings: LoadSettings
) -> ModelInfo:
    """`info` of a loaded model, with the chat template as the server renders it. Raises HybridError."""
    body = load_settings.body(info.name, window.size)
    if "thinking" in info.capabilities:
        body["think"] = False
    chat_template, dated = chat_template_from_server(server, body, info.chat_template)
    ends = () if info.parsed else tuple(end for end in chat_template.stops if end not in info.stops)
    return replace(info, chat_template=replace(chat_template, stops=ends), dated=info.dated or dated)


def loaded_context(server: Server, name: str) -> int:
    """The context size, in tokens, with which the model is loaded already; 0 when it is not loaded."""
    try:
        running = server.loaded()
    except ErrorReply:
        return 0
    sizes = (one.context_length for one in running if model_name(one.name or "") == model_name(name))
    return next((size for size in sizes if size), 0)


def timeouts_of(options: Mapping[str, str]) -> Timeouts:
    """The time-outs among the backend options. Raises UsageError."""

    def seconds(name: str, default: float) -> float:
        return float(whole_number(options, name, int(default), low=1, high=7 * 24 * 3600))

    usual = Timeouts()
    return Timeouts(
        load=seconds("load_timeout", usual.load),
        first=seconds("first_timeout", usual.first),
        idle=seconds("idle_timeout", usual.idle),
        patience=seconds("patience", usual.patience),
    )


def keep_alive_of(options: Mapping[str, str]) -> str | int:
    """The option `keep_alive` in Ollama's form: seconds as a number, or a duration such as 30m. Raises UsageError."""
    text = options.get("keep_alive", "").strip() or KEEP_ALIVE
    if re.fullmatch(r"-?\d{1,9}", text):
        return int(text)
    if DURATION.fullmatch(text):
        return text
    raise UsageError(f"the backend option keep_alive={text} is no duration", hint="such as 30m, 2h, 0, or -1: for ever")
