"""Where the server is, and the key for it: from this machine's options and environment alone, never from a run.

A run in a shared folder may name this backend. It can neither choose the server nor get at a key: without an address
that this machine's user gave, nothing is sent anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import httpx

from hybrid.backends.options import one_of
from hybrid.backends.servers.addresses import is_local
from hybrid.backends.servers.connection import Endpoint
from hybrid.errors import CannotRun, Temporary, UsageError
from hybrid.machine.terminal import clean_line

URL_VARIABLE = "HYBRID_OPENAI_URL"
KEY_VARIABLE = "HYBRID_OPENAI_KEY"
OFFICIAL, OFFICIAL_KEY_VARIABLE = "api.openai.com", "OPENAI_API_KEY"
"""The host for which the usual variable of a key is read, too: other servers must not get that key unasked."""

ADDRESS = "--backend-option url=http://127.0.0.1:8080/v1, or the environment variable HYBRID_OPENAI_URL"

OPTIONS: Mapping[str, str] = {
    "url": f"the server's address, such as http://127.0.0.1:1234/v1 (default: {URL_VARIABLE})",
    "key_from": f"the environment variable with the key, or none (default {KEY_VARIABLE}; for {OFFICIAL} also "
    f"{OFFICIAL_KEY_VARIABLE})",
    "plain_http": "true or false: send the key without encryption to another machine (default false)",
}


def endpoint_of(options: Mapping[str, str]) -> Endpoint:
    """The server that the backend options name, with its key. Raises UsageError, CannotRun."""
    url = _url(options)
    variable, key = _key(options, httpx.URL(url).host)
    safe = url.startswith("https:") or is_local(url) or one_of(options, "plain_http", ("false", "true")) == "true"
    if key and not safe:
        raise CannotRun(
            f"the key in {variable} would go to {url} without encryption, for all to read",
            hint="take https, or a tunnel (ssh -L) to this machine; in a network that you trust: "
            "--backend-option plain_http=true",
        )
    return Endpoint(
        url=url,
        name=f"the server {url}",
        unreachable=_unreachable,
        error_in=error_in,
        restart="its log says why; restart it if it is yours",
        when_busy=", or with fewer requests at a time: --backend-option parallel=1",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        secret=key,
    )


def key_advice(endpoint: Endpoint) -> str:
    """What to do when the server refuses the key, or the lack of one."""
    host = httpx.URL(endpoint.url).host
    named = f"{KEY_VARIABLE} or {OFFICIAL_KEY_VARIABLE}" if host == OFFICIAL else KEY_VARIABLE
    did = "the key that was sent is not taken" if endpoint.secret else "no key was sent"
    return f"{did}: the environment variable {named} is to hold it, or the one named by --backend-option key_from=NAME"


def root_of(url: str) -> str:
    """The address without the version at its end: where servers have what is not OpenAI's."""
    return url.removesuffix("/v1")


def error_in(data: bytes) -> str:
    """The message of an error reply, in the forms that servers have; else the beginning of the reply."""
    said: Any = error_object(data)
    for name in ("message", "detail", "error", "msg"):
        if isinstance(found := said.get(name), str) and found:
            return found
    return data[:300].decode(errors="replace") or "no reason given"


def error_object(data: bytes) -> dict[str, Any]:
    """What an error reply says of its error: the object `error` in it, else the reply; {} when it is no JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if isinstance(value, list) and value:
        value = value[0]
    inner = value.get("error") if isinstance(value, dict) else None
    found = inner if isinstance(inner, dict) else value
    return found if isinstance(found, dict) else {}


def _url(options: Mapping[str, str]) -> str:
    text = options.get("url", "").strip() or os.environ.get(URL_VARIABLE, "").strip()
    if not text:
        raise UsageError("the backend 'openai' needs the address of its server", hint=ADDRESS)
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
        usable = url.scheme in ("http", "https") and bool(url.host) and not url.query and not url.fragment
    except (httpx.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise UsageError(f"'{clean_line(text)[:200]}' is no address of a server", hint=ADDRESS)
    if url.userinfo:
        raise UsageError("the address of the server holds a password", hint=f"a key goes into {KEY_VARIABLE}")
    plain = str(url).rstrip("/").removesuffix("/chat/completions")
    return plain if url.path.strip("/") else f"{plain}/v1"


def _key(options: Mapping[str, str], host: str) -> tuple[str, str]:
    """The name of the variable that has the key, and the key; "" for none. Raises UsageError."""
    named = options.get("key_from", "").strip()
    if named == "none":
        return "", ""
    usual = (KEY_VARIABLE, OFFICIAL_KEY_VARIABLE) if host == OFFICIAL else (KEY_VARIABLE,)
    for variable in (named,) if named else usual:
        key = os.environ.get(variable, "").strip()
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise UsageError(f"the environment variable {clean_line(variable)[:100]} holds odd characters, not a key")
        if key:
            return variable, key
    if named:
        raise UsageError(f"the environment variable {clean_line(named)[:100]} is not set", hint="key_from names one")
    return "", ""


def _unreachable(url: str, error: Exception) -> Temporary:
    return Temporary(
        f"no server answers at {url} ({clean_line(str(error))[:200]})",
        hint=f"is it running, and is this its address? {ADDRESS}",
    )
