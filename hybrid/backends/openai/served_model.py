"""What a server says of a model: which server it is, how long a prompt may be, and what the model is known by.

OpenAI's interface says hardly more than a name. llama.cpp's server and vLLM say more: file, size, context, template.
The weights themselves are never seen, and the records say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx

from hybrid.backends.chat_templates import ChatTemplate
from hybrid.backends.openai.address import root_of
from hybrid.backends.openai.refusals import cannot_use, no_such_model
from hybrid.backends.openai.rendering import probed
from hybrid.backends.servers.connection import Endpoint, Timeouts
from hybrid.backends.servers.questions import Questions
from hybrid.backends.servers.replies import ErrorReply
from hybrid.canonical import Json, digest
from hybrid.errors import BadData, CannotRun
from hybrid.machine.terminal import clean_line
from hybrid.thoughts import thinking_provenance

Kind = Literal["llama.cpp", "vllm", ""]
"""Servers whose further abilities are used; "" for any other."""

KINDS: Mapping[str, Kind] = {"llamacpp": "llama.cpp", "vllm": "vllm"}
"""What a server says that owns its models -> which server it is."""

CONTEXTS = ("max_model_len", "loaded_context_length", "max_context_length", "context_length", "context_window")
"""Under which names servers tell how many tokens prompt and completion may have together."""

UNVERIFIED = "not verified: only what the server says of them"
CLOCK = re.compile(r"\bstrftime_now\b")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as its server describes it."""

    name: str
    kind: Kind = ""
    version: str = ""
    context: int = 0  # tokens of prompt and completion together; 0 when the server does not say
    slots: int = 0  # requests that the server computes at a time; 0 when it does not say
    identity: Mapping[str, Json] = field(default_factory=dict)
    chat_template: ChatTemplate = field(default_factory=ChatTemplate)
    template: str = ""  # its text, where the server shows it

    @property
    def digest(self) -> str:
        """By what the server says of the model. The address is no part of it: a server may move."""
        return digest({"engine": "openai", **self.identity})

    @property
    def dated(self) -> bool:
        """Whether the template writes the date of the day."""
        return bool(CLOCK.search(self.template))

    def about(self, endpoint: Endpoint) -> dict[str, Any]:
        """What the records keep about the model."""
        url = httpx.URL(endpoint.url)
        return {
            "engine": "openai",
            "version": f"{self.kind or 'unknown server'} {self.version}".strip(),
            **({"host": url.host} if url.scheme == "https" else {}),
            "weights": UNVERIFIED,
            "told": dict(self.identity),
            **thinking_provenance(self.template),
            **({"date": "the template writes the date of the day"} if self.dated else {}),
            **self.chat_template.about(),
        }


def read_served_model(endpoint: Endpoint, name: str) -> ServedModel:
    """The model `name` of the server, without a look at its chat template. Raises CannotRun, Temporary, BadData."""
    with Questions(endpoint, Timeouts()) as questions:
        return _described(questions, name)


def open_served_model(endpoint: Endpoint, name: str, timeouts: Timeouts) -> ServedModel:
    """The same, with what its chat template supports, where the server renders chats."""
    with Questions(endpoint, timeouts) as questions:
        found = _described(questions, name)
        return replace(found, chat_template=probed(questions, found.kind, name, found.template))


def _described(questions: Questions, name: str) -> ServedModel:
    endpoint = questions.endpoint
    try:
        listed = questions.ask("/models").get("data")
    except ErrorReply as error:
        raise cannot_use(error, endpoint, name) from error
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else None
    if rows is None:
        raise BadData(f"{endpoint.name} does not list its models as OpenAI does", hint="most addresses end in /v1")
    row = entry_of(rows, name)
    if row is None:
        raise no_such_model(endpoint, name, [str(one.get("id", "")) for one in rows])
    kind = KINDS.get(str(row.get("owned_by")), "")
    _refuse_ollama(questions, row)
    model = ServedModel(name, kind, context=_context(row), identity={"model": name, "server": kind, **told_of(row)})
    if kind == "llama.cpp":
        return _with_properties(model, _optional(questions, "/props"))
    if kind == "vllm":
        return replace(model, version=_text(_optional(questions, "/version"), "version"))
    return model


def entry_of(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """What the list of models says of `name`."""
    for row in rows:
        aliases = row.get("aliases")
        if row.get("id") == name or (isinstance(aliases, list) and name in aliases):
            return row
    return None


def _refuse_ollama(questions: Questions, row: Mapping[str, Any]) -> None:
    """Raise CannotRun for a server of Ollama: in this interface it cuts prompts that are too long, and silently."""
    if row.get("owned_by") == "library" and _text(_optional(questions, "/api/version"), "version"):
        host = httpx.URL(questions.endpoint.url)
        raise CannotRun(
            f"{questions.endpoint.name} is Ollama, which cuts long prompts without saying so when asked in this way",
            hint=f"--backend ollama --backend-option host={host.scheme}://{host.host}:{host.port or 80}",
        )


def _optional(questions: Questions, path: str) -> dict[str, Any]:
    """What a server says beside OpenAI's interface; {} where it has no such thing."""
    try:
        return questions.ask(root_of(questions.endpoint.url) + path)
    except (ErrorReply, BadData):
        return {}


def told_of(row: Mapping[str, Any]) -> dict[str, Json]:
    """What identifies the model in its entry of the list, without what the same model may have otherwise tomorrow."""
    root, meta = _text(row, "root"), row.get("meta")
    sizes = meta if isinstance(meta, dict) else {}
    told: dict[str, Json] = {
        "owned_by": _text(row, "owned_by"),
        "root": root.rpartition("/")[2] if root.startswith("/") else root,
        **{name: _whole(sizes, name) for name in ("n_params", "size", "n_vocab", "n_embd")},
        "ftype": _text(sizes, "ftype"),
    }
    return {name: clean_line(value)[:200] if isinstance(value, str) else value for name, value in told.items() if value}


def _with_properties(model: ServedModel, properties: Mapping[str, Any]) -> ServedModel:
    """The model with what llama.cpp's server says of itself."""
    settings = properties.get("default_generation_settings")
    template, path = _text(properties, "chat_template"), _text(properties, "model_path")
    file = re.split(r"[/\\]", path)[-1]
    told = {
        **({"file": clean_line(file)[:200]} if file else {}),
        **({"chat_template": digest(template)} if template else {}),
    }
    return replace(
        model,
        version=_text(properties, "build_info"),
        context=_whole(settings if isinstance(settings, dict) else {}, "n_ctx") or model.context,
        slots=_whole(properties, "total_slots"),
        identity={**model.identity, **told},
        template=template,
    )


def _context(row: Mapping[str, Any]) -> int:
    return next((found for name in CONTEXTS if (found := _whole(row, name))), 0)


def _whole(value: Mapping[str, Any], name: str) -> int:
    found = value.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found < 1 << 40 else 0


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""
