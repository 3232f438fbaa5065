"""What opening a model takes, for chats and for embeddings: the options that both have, and loading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hybrid.backends.ollama.client import Refused, cannot_use, model_name
from hybrid.backends.ollama.link import Waits
from hybrid.backends.ollama.rendering import form_by_server
from hybrid.backends.ollama.server import Server
from hybrid.backends.ollama.tag import Tag
from hybrid.backends.ollama.window import Window
from hybrid.backends.options import whole_number
from hybrid.errors import UsageError

KEEP_ALIVE = "30m"
LASTS = re.compile(r"-?\d+(\.\d+)?(ms|s|m|h)")
MOST_THREADS = 4096


@dataclass(frozen=True, slots=True)
class Loading:
    """How the model is loaded, which every request repeats: another number of threads would load it anew."""

    keep_alive: str | int
    threads: int = 0  # 0: what the model's file says, else the server's choice

    def body(self, model: str, context: int) -> dict[str, Any]:
        """What every request says, with a context of so many tokens."""
        threads = {"num_thread": self.threads} if self.threads else {}
        return {"model": model, "keep_alive": self.keep_alive, "options": {"num_ctx": context, **threads}}


def loading_of(options: Mapping[str, str]) -> Loading:
    """What is said about it among the options. Raises UsageError."""
    return Loading(keep_alive_of(options), whole_number(options, "threads", 0, low=1, high=MOST_THREADS))


def load(server: Server, tag: Tag, window: Window, loading: Loading, seconds: float) -> None:
    """Have the model loaded, however long it takes: a short time limit would make the server give up each time."""
    body = loading.body(tag.name, window.size)
    try:
        server.ask("/api/generate", body, seconds=seconds)
    except Refused as error:
        raise cannot_use(error, tag.name) from error
    window.worked(window.size)


def rendered(server: Server, tag: Tag, window: Window, loading: Loading) -> Tag:
    """The tag of a loaded model, with what its template really carries. Raises HybridError."""
    body = loading.body(tag.name, window.size)
    if "thinking" in tag.capabilities:
        body["think"] = False
    form, dated = form_by_server(server, body, tag.form)
    ends = () if tag.parsed else tuple(end for end in form.stops if end not in tag.stops)
    return replace(tag, form=replace(form, stops=ends), dated=tag.dated or dated)


def loaded_context(server: Server, name: str) -> int:
    """With how large a context the model is loaded already; 0 when it is not."""
    try:
        running = server.loaded()
    except Refused:
        return 0
    sizes = (one.context_length for one in running if model_name(one.name or "") == model_name(name))
    return next((size for size in sizes if size), 0)


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
