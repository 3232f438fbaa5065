"""What opening a model takes, for chats and for embeddings: the options that both have, and loading."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hybrid.backends.ollama.client import Refused, Server, cannot_use, model_name, rows
from hybrid.backends.ollama.link import Waits
from hybrid.backends.ollama.tag import Tag
from hybrid.backends.ollama.window import Window
from hybrid.backends.options import whole_number
from hybrid.errors import UsageError

KEEP_ALIVE = "30m"
LASTS = re.compile(r"-?\d+(\.\d+)?(ms|s|m|h)")


def load(server: Server, tag: Tag, window: Window, keep_alive: str | int, seconds: float) -> None:
    """Have the model loaded, however long it takes: a short time limit would make the server give up each time."""
    body = {"model": tag.name, "keep_alive": keep_alive, "options": {"num_ctx": window.size}}
    try:
        server.ask("/api/generate", body, seconds=seconds)
    except Refused as error:
        raise cannot_use(error, tag.name) from error
    window.worked(window.size)


def loaded_context(server: Server, name: str) -> int:
    """With how large a context the model is loaded already; 0 when it is not."""
    try:
        running = server.ask("/api/ps")
    except Refused:
        return 0
    for one in rows(running, "models"):
        if model_name(str(one.get("name", ""))) == model_name(name) and isinstance(one.get("context_length"), int):
            return int(one["context_length"])
    return 0


def waits_of(options: Mapping[str, str]) -> Waits:
    """The time limits among the options."""

    def seconds(name: str, default: float) -> float:
        return float(whole_number(options, name, int(default), low=1, high=7 * 24 * 3600))

    usual = Waits()
    return Waits(
        load=seconds("load_timeout", usual.load),
        first=seconds("first_timeout", usual.first),
        idle=seconds("idle_timeout", usual.idle),
        patience=seconds("patience", usual.patience),
    )


def keep_alive_of(options: Mapping[str, str]) -> str | int:
    """As Ollama takes it: seconds as a number, or a duration such as 30m. Raises UsageError."""
    text = options.get("keep_alive", "").strip() or KEEP_ALIVE
    if re.fullmatch(r"-?\d{1,9}", text):
        return int(text)
    if LASTS.fullmatch(text):
        return text
    raise UsageError(f"the backend option keep_alive={text} is no duration", hint="such as 30m, 2h, 0, or -1: for ever")
