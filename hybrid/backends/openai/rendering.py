"""What a model's chat template supports, where the server renders chats for us: llama.cpp's server and vLLM do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybrid.backends.chat_templates import USER, ChatTemplate, probe_template
from hybrid.backends.openai.address import root_of
from hybrid.backends.servers.questions import Questions
from hybrid.backends.servers.replies import ErrorReply
from hybrid.errors import BadData, HybridError
from hybrid.records import Message
from hybrid.thoughts import OFF_VALUES, disabling_variables, opened_by


def template_settings(kind: str, template: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the chat template for a request: thinking is off unless `wanted` says otherwise.

    vLLM does not show its template, and passes over settings that this does not have.
    """
    return {**(OFF_VALUES if kind == "vllm" else disabling_variables(template)), **wanted}


def probed(questions: Questions, kind: str, name: str, template: str) -> ChatTemplate:
    """What the chat template supports; of a server that renders no chats it is taken to support everything.

    Raises HybridError when the server does not answer.
    """
    if not kind:
        return ChatTemplate(name)
    broken: list[HybridError] = []

    def render(chat: Sequence[Message], open_turn: bool) -> str:
        try:
            return _rendered(questions, kind, name, chat, template_settings(kind, template, {}), open_turn=open_turn)
        except HybridError as error:  # it is not the template that fails
            broken.append(error)
            raise

    try:
        question = render([USER], True)
    except ErrorReply as error:
        if error.status in (404, 405, 501):  # a server that does not show how it renders
            return ChatTemplate(name)
        question = ""
    found = probe_template(name, render, lambda _: None)
    if broken:
        raise broken[0]
    return replace(found, opens=opened_by(question))


def _rendered(
    questions: Questions, kind: str, name: str, chat: Sequence[Message], settings: Mapping[str, Any], *, open_turn: bool
) -> str:
    root = root_of(questions.endpoint.url)
    messages = [{"role": message.role, "content": message.content} for message in chat]
    body = {"messages": messages, "chat_template_kwargs": settings, "add_generation_prompt": open_turn}
    if kind == "llama.cpp":
        return _text(questions.ask(f"{root}/apply-template", body), "prompt")
    tokens = questions.ask(f"{root}/tokenize", {**body, "model": name}).get("tokens")
    return _text(questions.ask(f"{root}/detokenize", {"model": name, "tokens": tokens}), "prompt")


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise BadData(f"the server shows no chat as its model sees it: its reply has no '{name}'")
    return found
