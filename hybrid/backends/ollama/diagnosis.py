"""The state of the Ollama server, for `hybrid doctor`: reachable, version, models, memory, chat templates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from operator import itemgetter

from hybrid.backends.chat_templates import ChatTemplate
from hybrid.backends.memory import available
from hybrid.backends.ollama.api import is_recent, model_name, too_old
from hybrid.backends.ollama.model_info import chat_template_in
from hybrid.backends.ollama.rendering import HINT
from hybrid.backends.ollama.server import Server
from hybrid.backends.servers.replies import ErrorReply
from hybrid.errors import HybridError
from hybrid.machine.terminal import clean_line

REPLY_SECONDS = 2.0
"""Time-out of each request, and of all requests about single models together."""

GIB = 1 << 30
Finding = tuple[str, str]
"""What was found, and what to do about it ("" for nothing)."""


def diagnose(gpu_free: int = 0) -> Iterator[Finding]:
    """At least one finding.

    `gpu_free`: free GPU memory in bytes, which a model may use in addition to the machine's.
    """
    try:
        server = Server(seconds=REPLY_SECONDS)
    except HybridError as error:
        yield error.message, error.hint
        return
    try:
        yield from _findings(server, gpu_free)
    except HybridError as error:
        yield error.message, error.hint
    except ErrorReply as error:
        yield (
            f"what runs at {server.url} does not answer as Ollama does: {error.message}",
            "OLLAMA_HOST names the server",
        )
    finally:
        server.close()


def _findings(server: Server, gpu_free: int) -> Iterator[Finding]:
    version = server.version()
    if not is_recent(version):
        old = too_old(version)
        yield old.message, old.hint
        return
    models, loaded = server.models(), server.loaded()
    names = ", ".join(f"{_name(one.model)} (context {one.context_length or '?'})" for one in loaded) or "none"
    hint = "" if models else "hybrid models pull NAME, such as llama3.2"
    number = f"{len(models):,} model{'' if len(models) == 1 else 's'}"
    yield f"Ollama {version} runs at {server.url}: {number}; loaded: {names}", hint
    largest, name = max(((one.size or 0, one.model) for one in models), default=(0, ""), key=itemgetter(0))
    free = available()
    if free is not None and largest > free + gpu_free:
        sizes = f"{largest / GIB:.1f} GiB, and {(free + gpu_free) / GIB:.1f} GiB of memory are free"
        yield (
            f"Ollama has too little memory for its largest model: {_name(name)} has {sizes}",
            "close other programs, or use a smaller model or quantisation",
        )
    chat_templates = list(_chat_templates(server, [one.model or "" for one in models]))
    if unusable := [chat_template.name for chat_template in chat_templates if chat_template.refusal]:
        yield f"Ollama models without a usable chat template, which no chat can be asked: {', '.join(unusable)}", HINT
    if merging := [chat_template.name for chat_template in chat_templates if not chat_template.system]:
        text = "Ollama models whose template has no system message; it is put before the user's first"
        yield f"{text}: {', '.join(merging)}", ""


def _chat_templates(server: Server, models: Iterable[str]) -> Iterator[ChatTemplate]:
    """The chat templates, by their text, of the models that can chat; of as many as there is time for."""
    until = time.monotonic() + REPLY_SECONDS
    for one in models:
        if time.monotonic() > until:
            return
        try:
            shown = server.describe(one)
        except ErrorReply:
            continue  # removed meanwhile, or damaged: an error when it is used
        if "completion" in (shown.get("capabilities") or ()) and not shown.get("remote_host"):
            yield chat_template_in(_name(one), shown)


def _name(model: str | None) -> str:
    return clean_line(model_name(model or "?"))[:80].removesuffix(":latest")
