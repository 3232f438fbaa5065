"""The prompt as the model saw it: the chat rendered by the model's own template, from its files, without an engine.

The template, the pinned date and the switch for thinking are applied by the code that the engines use. Where the files
are not here, or a server renders the chats, the prompt is not shown and the reason is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.backends.chat_templates import ChatTemplate, chat_template_of, probe_template
from hybrid.backends.prompts import BadRequest, prompt_ids, render_chat
from hybrid.backends.registry import SERVED
from hybrid.errors import CannotRun, HybridError
from hybrid.folder.spec import ModelSpec
from hybrid.items import Message, Request
from hybrid.machine.terminal import clean_line
from hybrid.model_files.location import PACKAGED, locate
from hybrid.plan.light_tokenizer import LightTokenizer, light_tokenizer, template_alone

BY_FILES = ("llamacpp", "transformers", "vllm")
"""The backends whose models are files, which have the chat template."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text, None where it is not known; its tokens, None where they were not counted; a word on both."""

    text: str | None
    tokens: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders the prompts of one model. Without a template, `why` it does not."""

    tokenizer: LightTokenizer | None
    template: ChatTemplate = field(default_factory=ChatTemplate)
    why: str = ""

    def prompt(self, request: Request) -> Prompt:
        """The prompt that a request gave. Raises nothing."""
        if not (request.messages or request.prompt):
            return Prompt(None, note="it has no prompt: a training alone")
        if request.embed or (request.prompt and not request.messages):
            return self._raw(request)
        if self.tokenizer is None:
            return Prompt(None, note=self.why)
        try:
            fitted = self.template.fit(request)
            text = render_chat(self.tokenizer, fitted.messages, fitted.template)
        except (BadRequest, CannotRun) as error:
            return Prompt(None, note=f"it was not rendered: {error}")
        except Exception as error:  # noqa: BLE001 - templates are programs of the model's author and may raise anything
            return Prompt(None, note=f"the chat template raises {type(error).__name__}: {clean_line(str(error))[:200]}")
        return self._counted(fitted, text)

    def _raw(self, request: Request) -> Prompt:
        """A prompt that is sent as it is."""
        if self.tokenizer is None or request.embed:
            return Prompt(request.prompt, note="" if request.embed else "sent as it is")
        return self._counted(request, request.prompt)

    def _counted(self, request: Request, text: str) -> Prompt:
        """The prompt with its tokens, and a word on a first token that stands before the text."""
        tokenizer = self.tokenizer
        if tokenizer is None or tokenizer.encoder is None:
            return Prompt(text, note=self.why)
        try:
            ids = prompt_ids(tokenizer, request)
        except BadRequest as error:
            return Prompt(text, note=str(error))
        begin = tokenizer.names.get("bos_token", "")
        added = bool(begin) and ids[0] == tokenizer.bos_token_id and not text.startswith(begin)
        return Prompt(text, len(ids), f"with the token {begin} before it" if added else "")


def renderers(models: Mapping[str, ModelSpec], here: Mapping[str, str]) -> dict[str, Renderer]:
    """A renderer for each role of a run. `here`: name of a model -> where its files are on this machine."""
    return {role: _renderer(model, here) for role, model in models.items()}


def _renderer(model: ModelSpec, here: Mapping[str, str]) -> Renderer:
    name = clean_line(model.name)[:100]
    if model.backend in SERVED:
        return Renderer(None, why="the server renders the chats of its models, and does not record it")
    if model.backend not in BY_FILES:
        return Renderer(None, why=f"the backend {clean_line(model.backend)[:40]} has no chat template")
    place = here.get(model.name) or here.get("")
    if place is None and model.name not in PACKAGED:  # a run may name any path: only one that the user names is opened
        return Renderer(None, why=f"the files of {name} are not known here: --model PATH, or --model {name}=PATH")
    try:
        path = locate(place or model.name)
    except HybridError as error:
        return Renderer(None, why=error.message)
    return _from_files(path, name)


def _from_files(path: Path, name: str) -> Renderer:
    """By the tokenizer of the files; where that cannot be read, by their template alone."""
    try:
        tokenizer = light_tokenizer(path)
        return Renderer(tokenizer, chat_template_of(tokenizer, name))
    except CannotRun as error:
        why = error.message
    try:
        tokenizer = template_alone(path)
    except CannotRun as error:
        return Renderer(None, why=error.message)

    def render(chat: Sequence[Message], open_turn: bool) -> str:
        return render_chat(tokenizer, chat, {}, open_turn=open_turn)

    return Renderer(tokenizer, probe_template(name, render, lambda _: None), f"tokens were not counted: {why}")
