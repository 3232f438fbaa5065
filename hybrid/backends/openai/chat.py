"""The backend `openai`: chats by /chat/completions, raw prompts by /completions, always streamed.

A stream tells a slow server from a stuck one and a whole answer from one that was cut off, and when its connection is
closed, the server stops computing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import ClassVar

import httpx

from hybrid.backends.openai.address import OFFICIAL, OPTIONS, endpoint_of
from hybrid.backends.openai.body import OMITTABLE, BodyBuilder
from hybrid.backends.openai.limit import RequestLimit
from hybrid.backends.openai.model_check import refuse_changed
from hybrid.backends.openai.requests import Asking
from hybrid.backends.openai.schemas import SchemaSupport
from hybrid.backends.openai.served_model import open_served_model, read_served_model
from hybrid.backends.options import one_of, whole_number
from hybrid.backends.servers.connection import Timeouts
from hybrid.backends.servers.request_pool import RequestPool
from hybrid.errors import UsageError, nearest
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Model
from hybrid.records import Completion, Request

LOG = logging.getLogger("hybrid")

USUAL: Mapping[str, int] = {"vllm": 64, "llama.cpp": 1}
"""Requests in flight, for a server that does not say how many it computes at a time."""

OTHERWISE = 4
MOST = 1024
WEEK = 7 * 24 * 3600


class OpenaiBackend:
    """A model of a server with OpenAI's HTTP interface."""

    options: ClassVar[Mapping[str, str]] = {
        **OPTIONS,
        "parallel": "requests in flight (default: llama.cpp's slots, vLLM 64, others 4); fewer while it is busy",
        "context": "tokens of prompt and completion together (default: what the server says)",
        "reuse": "of llama.cpp's server, true or false: keep computed beginnings of prompts (default true)",
        "omit": f"members that the server does not take, such as seed,top_p; of {', '.join(OMITTABLE)}",
        "first_timeout": "seconds until a reply's first token (default 600)",
        "idle_timeout": "seconds between two tokens (default 60)",
        "busy_timeout": "seconds to go on asking a server that says it is busy (default 600)",
        "patience": "seconds to wait for a server that has become unavailable (default 30)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self._endpoint = endpoint_of(options)
        self._timeouts = timeouts_of(options)
        parallel = whole_number(options, "parallel", 0, low=1, high=MOST)
        context = whole_number(options, "context", 0, low=16, high=1 << 30)
        omitted, reuse = _omitted(options), one_of(options, "reuse", ("true", "false")) == "true"
        served = open_served_model(self._endpoint, model, self._timeouts)
        self._parallel = parallel or served.slots or USUAL.get(served.kind, OTHERWISE)
        context = min(context or served.context, served.context or context)
        official = httpx.URL(self._endpoint.url).host == OFFICIAL
        self._asking = Asking(BodyBuilder(served, official, omitted, reuse), context)
        self._has_check = bool(served.kind)
        about = {**served.about(self._endpoint), "options": {"parallel": self._parallel, "omit": sorted(omitted)}}
        self.model = Model(name=model, digest=served.digest, context=context, about=about)
        served.chat_template.warn()
        if served.dated:
            LOG.warning("the template of '%s' writes the date of the day into each prompt", clean_line(model))

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Completions as they finish."""
        limit = RequestLimit(self._parallel)
        schemas = SchemaSupport(self._asking.builder, self._asking.schemas)
        return RequestPool(
            partial(self._asking.answer, schemas=schemas, limit=limit),
            requests,
            endpoint=self._endpoint,
            timeouts=self._timeouts,
            concurrency=limit,
            check=partial(refuse_changed, model=self._asking.builder.model) if self._has_check else None,
        ).results()

    def close(self) -> None:
        """There is nothing to free here: the model is the server's."""


def digest_of_name(model: str, options: Mapping[str, str]) -> str:
    """The digest of a model on the server that these backend options name. Raises UsageError, CannotRun, Temporary."""
    return read_served_model(endpoint_of(options), model).digest


def timeouts_of(options: Mapping[str, str]) -> Timeouts:
    """The time-outs among the backend options. Raises UsageError."""
    usual = Timeouts()
    return Timeouts(
        load=float(whole_number(options, "busy_timeout", int(usual.load), low=1, high=WEEK)),
        first=float(whole_number(options, "first_timeout", int(usual.first), low=1, high=WEEK)),
        idle=float(whole_number(options, "idle_timeout", int(usual.idle), low=1, high=WEEK)),
        patience=float(whole_number(options, "patience", int(usual.patience), low=1, high=WEEK)),
    )


def _omitted(options: Mapping[str, str]) -> frozenset[str]:
    """The members of a body that the server does not take. Raises UsageError."""
    names = [name.strip() for name in options.get("omit", "").split(",") if name.strip()]
    for name in names:
        if name not in OMITTABLE:
            raise UsageError(f"the backend option omit names '{clean_line(name)[:100]}'", hint=nearest(name, OMITTABLE))
    return frozenset(names)
