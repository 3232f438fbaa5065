"""What the server reports about a model: its digest, context, capabilities, and what it adds to a chat."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.backends.chat_templates import ChatTemplate
from hybrid.backends.ollama.api import cannot_use, digest_among, is_recent, no_model, rows, too_old
from hybrid.backends.ollama.context_window import tokens_of
from hybrid.backends.ollama.rendering import DATE, chat_template_from_text
from hybrid.backends.ollama.server import Server
from hybrid.backends.servers.replies import ErrorReply
from hybrid.canonical import digest
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line

STOP_LINE = re.compile(r'^stop +("(?:[^"\\]|\\.)*") *$', re.MULTILINE)
PARSER_LINE = re.compile(r"^PARSER +\S", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model in the server's store, as /api/tags and /api/show describe it."""

    name: str
    digest: str  # sha256 of its manifest: weights, template, system prompt, parameters
    version: str  # of the server
    context: int  # tokens that the model was trained for
    capabilities: frozenset[str]
    stops: tuple[str, ...]  # its own stop strings
    overhead: int  # tokens that its own system prompt and messages add to a chat, an upper estimate
    dated: bool  # its template writes today's date
    parsed: bool  # a PARSER of the server processes its replies
    drops_schema: bool  # /api/chat ignores the schema: a thinking model with a PARSER
    template_digest: str
    chat_template: ChatTemplate  # what it supports; a guess until the server has rendered a chat
    details: Mapping[str, str]

    def about(self) -> dict[str, Any]:
        """What the records keep about the model."""
        return {
            "engine": "ollama",
            "version": f"ollama {self.version}",
            **self.details,
            "chat_template": self.template_digest,
            **({"thinking": "off"} if "thinking" in self.capabilities else {}),
            **({"date": "the template writes the date of the day"} if self.dated else {}),
            **self.chat_template.about(),
        }


def read_model_info(server: Server, name: str) -> ModelInfo:
    """The description of the model `name` on the server. Raises CannotRun, Temporary."""
    version = server.version()
    if not is_recent(version):
        raise too_old(version)
    try:
        here = {one.model or "": one.digest or "" for one in server.models()}
        found = digest_among(here.items(), name)
        if not found:
            raise no_model(name, list(here))
        shown = server.describe(name)
    except ErrorReply as error:
        raise cannot_use(error, name) from error
    if shown.get("remote_host") or shown.get("remote_model"):
        raise CannotRun(
            f"'{clean_line(name)}' does not run on this machine but in a cloud: nothing says which model answers",
            hint="take a model that `ollama list` shows with a size",
        )
    return _described(name, found, version, shown)


def _described(name: str, found: str, version: str, shown: Mapping[str, Any]) -> ModelInfo:
    info, details, capabilities = shown.get("model_info"), shown.get("details"), shown.get("capabilities")
    template = _text(shown, "template")
    listed = capabilities if isinstance(capabilities, list) else []
    known = frozenset(one for one in listed if isinstance(one, str))
    parsed = bool(PARSER_LINE.search(_text(shown, "modelfile")))
    messages = [_text(message, "content") for message in rows(shown, "messages")]
    return ModelInfo(
        name=name,
        digest=found,
        version=version,
        context=_context(info if isinstance(info, dict) else {}),
        capabilities=known,
        stops=tuple(_stops(_text(shown, "parameters"))),
        overhead=sum(map(tokens_of, [_text(shown, "system"), *messages])),
        parsed=parsed,
        drops_schema="thinking" in known and parsed,
        dated=bool(DATE.search(template)),
        template_digest=digest(template),
        chat_template=chat_template_in(name, shown),
        details=_details(details if isinstance(details, dict) else {}),
    )


def chat_template_in(name: str, shown: Mapping[str, Any]) -> ChatTemplate:
    """The chat template in a reply of /api/show, judged by its text alone."""
    return chat_template_from_text(name, _text(shown, "template"), _text(shown, "modelfile"))


def _details(details: Mapping[str, Any]) -> dict[str, str]:
    kept = {"format": "format", "family": "family", "size": "parameter_size", "type": "quantization_level"}
    return {name: clean_line(_text(details, source))[:80] for name, source in kept.items() if details.get(source)}


def _context(info: Mapping[str, Any]) -> int:
    """Tokens that the model was trained for; 4096, as Ollama assumes, when the reply does not say."""
    length = info.get(f"{info.get('general.architecture', '')}.context_length")
    return length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else 4096


def _stops(parameters: str) -> list[str]:
    """The stop strings in `parameters`, which are quoted as Go quotes strings."""
    found = []
    for text in STOP_LINE.findall(parameters):
        try:
            found.append(str(json.loads(text)))
        except json.JSONDecodeError:  # an escape that JSON does not have: only Ollama itself can apply it
            continue
    return found


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""
