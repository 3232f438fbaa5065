"""How an Ollama server stands, for a person: is it there, which version, which models, is there memory for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from operator import itemgetter

from hybrid.backends.memory import available
from hybrid.backends.ollama.client import Refused, is_recent, model_name, too_old
from hybrid.backends.ollama.rendering import HINT
from hybrid.backends.ollama.server import Server
from hybrid.backends.ollama.tag import form_shown
from hybrid.backends.turns import Form
from hybrid.errors import HybridError
from hybrid.machine.terminal import clean_line

LOOK_SECONDS = 2.0
"""For each question, which a server answers from its disk; and for those about single models together."""

GIB = 1 << 30
Said = tuple[str, str]
"""What there is, and what to do or type; empty when nothing."""


def standing(gpu_free: int = 0) -> Iterator[Said]:
    """One line or more. `gpu_free` is the free memory of GPUs, in bytes, which a model may use beside the machine's."""
    try:
        server = Server(seconds=LOOK_SECONDS)
    except HybridError as error:
        yield error.message, error.hint
        return
    try:
        yield from _told(server, gpu_free)
    except HybridError as error:
        yield error.message, error.hint
    except Refused as error:
        yield (
            f"what runs at {server.url} does not answer as Ollama does: {error.message}",
            "OLLAMA_HOST names the server",
        )
    finally:
        server.close()


def _told(server: Server, gpu_free: int) -> Iterator[Said]:
    version = server.version()
    if not is_recent(version):
        old = too_old(version)
        yield old.message, old.hint
        return
    models, loaded = server.models(), server.loaded()
    names = ", ".join(f"{_name(one.model)} (context {one.context_length or '?'})" for one in loaded) or "none"
    do = "" if models else "hybrid models pull NAME, such as llama3.2"
    number = f"{len(models):,} model{'' if len(models) == 1 else 's'}"
    yield f"Ollama {version} runs at {server.url}: {number}; loaded: {names}", do
    largest, name = max(((one.size or 0, one.model) for one in models), default=(0, ""), key=itemgetter(0))
    free = available()
    if free is not None and largest > free + gpu_free:
        sizes = f"{largest / GIB:.1f} GiB, and {(free + gpu_free) / GIB:.1f} GiB of memory are free"
        yield (
            f"Ollama has too little memory for its largest model: {_name(name)} has {sizes}",
            "close other programs, or use a smaller model or quantisation",
        )
    forms = list(_forms(server, [one.model or "" for one in models]))
    if bare := [form.name for form in forms if form.refusal]:
        yield f"Ollama models without a usable chat template, which no chat can be asked: {', '.join(bare)}", HINT
    if merging := [form.name for form in forms if not form.system]:
        told = "Ollama models whose template has no system message; it is put before the user's first"
        yield f"{told}: {', '.join(merging)}", ""


def _forms(server: Server, models: Iterable[str]) -> Iterator[Form]:
    """What the templates of models that chat carry, by their text; of as many as there is time for."""
    until = time.monotonic() + LOOK_SECONDS
    for one in models:
        if time.monotonic() > until:
            return
        try:
            shown = server.describe(one)
        except Refused:
            continue  # removed meanwhile, or damaged: whoever uses it is told
        if "completion" in (shown.get("capabilities") or ()) and not shown.get("remote_host"):
            yield form_shown(_name(one), shown)


def _name(model: str | None) -> str:
    return clean_line(model_name(model or "?"))[:80].removesuffix(":latest")
