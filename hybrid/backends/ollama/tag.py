"""What the server tells of a model before it is used: its digest, its context, what it can, what it adds to a chat."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.backends.ollama.client import Refused, cannot_use, digest_among, is_recent, no_model, rows, too_old
from hybrid.backends.ollama.rendering import DATE, form_by_text
from hybrid.backends.ollama.server import Server
from hybrid.backends.ollama.window import tokens_of
from hybrid.backends.turns import Form
from hybrid.canonical import digest
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line

STOP_LINE = re.compile(r'^stop +("(?:[^"\\]|\\.)*") *$', re.MULTILINE)
PARSER_LINE = re.compile(r"^PARSER +\S", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tag:
    """A model in the server's store."""

    name: str
    digest: str  # sha256 of its manifest: weights, template, system prompt, parameters
    version: str  # of the server
    context: int  # tokens, what the model was made for
    capabilities: frozenset[str]
    stops: tuple[str, ...]  # its own stop strings
    overhead: int  # tokens that its own system prompt and messages add to a chat, a high guess
    dated: bool  # its template writes today's date
    parsed: bool  # a part of the server takes its replies to pieces
    drops_schema: bool  # in /api/chat: such a model that can think
    template: str  # its digest
    form: Form  # what of a chat the template carries; a guess, until the server has rendered one
    details: Mapping[str, str]

    def about(self) -> dict[str, Any]:
        """For the records' provenance."""
        return {
            "engine": "ollama",
            "version": f"ollama {self.version}",
            **self.details,
            "chat_template": self.template,
            **({"thinking": "off"} if "thinking" in self.capabilities else {}),
            **({"date": "the template writes the date of the day"} if self.dated else {}),
            **self.form.about(),
        }


def read_tag(server: Server, name: str) -> Tag:
    """What the server knows of the model `name`. Raises CannotRun, Temporary."""
    version = server.version()
    if not is_recent(version):
        raise too_old(version)
    try:
        here = {one.model or "": one.digest or "" for one in server.models()}
        found = digest_among(here.items(), name)
        if not found:
            raise no_model(name, list(here))
        shown = server.describe(name)
    except Refused as error:
        raise cannot_use(error, name) from error
    if shown.get("remote_host") or shown.get("remote_model"):
        raise CannotRun(
            f"'{clean_line(name)}' does not run on this machine but in a cloud: nothing says which model answers",
            hint="take a model that `ollama list` shows with a size",
        )
    return _tag(name, found, version, shown)


def _tag(name: str, found: str, version: str, shown: Mapping[str, Any]) -> Tag:
    info, details, able = shown.get("model_info"), shown.get("details"), shown.get("capabilities")
    template = _text(shown, "template")
    words = frozenset(one for one in able if isinstance(one, str)) if isinstance(able, list) else frozenset()
    parsed = bool(PARSER_LINE.search(_text(shown, "modelfile")))
    said = [_text(message, "content") for message in rows(shown, "messages")]
    return Tag(
        name=name,
        digest=found,
        version=version,
        context=_context(info if isinstance(info, dict) else {}),
        capabilities=words,
        stops=tuple(_stops(_text(shown, "parameters"))),
        overhead=sum(map(tokens_of, [_text(shown, "system"), *said])),
        parsed=parsed,
        drops_schema="thinking" in words and parsed,
        dated=bool(DATE.search(template)),
        template=digest(template),
        form=form_shown(name, shown),
        details=_details(details if isinstance(details, dict) else {}),
    )


def form_shown(name: str, shown: Mapping[str, Any]) -> Form:
    """What the template in a reply of /api/show carries, as far as its text tells."""
    return form_by_text(name, _text(shown, "template"), _text(shown, "modelfile"))


def _details(details: Mapping[str, Any]) -> dict[str, str]:
    kept = {"format": "format", "family": "family", "size": "parameter_size", "type": "quantization_level"}
    return {name: clean_line(_text(details, source))[:80] for name, source in kept.items() if details.get(source)}


def _context(info: Mapping[str, Any]) -> int:
    """Tokens the model was made for; 4096, which Ollama assumes too, when it does not say."""
    length = info.get(f"{info.get('general.architecture', '')}.context_length")
    return length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else 4096


def _stops(parameters: str) -> list[str]:
    """The stop strings in `parameters`, which holds them as Go writes texts."""
    found = []
    for text in STOP_LINE.findall(parameters):
        try:
            found.append(str(json.loads(text)))
        except json.JSONDecodeError:  # an escape that JSON does not have: Ollama then keeps to it only by itself
            continue
    return found


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""
