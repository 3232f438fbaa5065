"""The address of a server, and requests to find out whether one answers there."""

from __future__ import annotations

import http.client
import ipaddress
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from hybrid.errors import CannotRun, UsageError
from hybrid.machine.terminal import clean_line

PORT = 11434
SECONDS = 5.0
MAX_REPLY = 4 * 1024**2
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Ignores the proxies of the environment: the server is on this machine."""


@dataclass(frozen=True, slots=True)
class Address:
    """A port of this machine. `host` is an IP address of the loopback interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self}"


def parse(text: str) -> Address:
    """`127.0.0.1:11434`, `localhost`, `:8080`, `[::1]:8080` or `http://...` of one. Raises UsageError.

    Only loopback addresses are accepted, since Ollama has no authentication.
    """
    plain = text.strip().strip("\"'").removeprefix("http://").rstrip("/")
    host, port = _split(plain)
    try:
        number = int(port or PORT)
        local = ipaddress.ip_address("127.0.0.1" if host in ("", "localhost") else host)
    except ValueError as error:
        raise UsageError(f"'{text}' is no address of this machine", hint="--host 127.0.0.1:PORT") from error
    if not local.is_loopback:
        raise UsageError(
            f"'{text}' can be reached from other machines, and Ollama has no authentication",
            hint=f"--host 127.0.0.1:{number}; from elsewhere through a tunnel, such as ssh -L",
        )
    if not 0 < number < 65536:
        raise UsageError(f"'{text}' has no port from 1 to 65535", hint="--host 127.0.0.1:PORT")
    return Address(str(local), number)


def _split(plain: str) -> tuple[str, str]:
    if plain.startswith("["):
        host, _, port = plain[1:].partition("]")
        return host, port.removeprefix(":")
    if plain.count(":") > 1:  # an IPv6 address without a port
        return plain, ""
    host, _, port = plain.partition(":")
    return host, port


def version(address: Address) -> str | None:
    """The version of the Ollama server at the address; None when nothing listens there.

    Raises CannotRun when another program listens, or when it does not answer in time.
    """
    try:
        found = ask(address, "/api/version")
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            return None
        raise _not_ollama(address, str(error)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _not_ollama(address, str(error) or type(error).__name__) from error
    if not isinstance(found, dict) or not isinstance(found.get("version"), str):
        raise _not_ollama(address, "its reply is none of Ollama's")
    return clean_line(found["version"], 40)


def models(address: Address) -> list[str]:
    """The names of the server's models, safe to print; empty when the request fails."""
    try:
        found = ask(address, "/api/tags")
    except (OSError, ValueError, http.client.HTTPException):
        return []
    rows = found.get("models") if isinstance(found, dict) else None
    names = [row.get("name") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [clean_line(name, 100) for name in names if isinstance(name, str)]


def ask(address: Address, path: str) -> Any:
    """The JSON reply to a GET request. Raises OSError, ValueError and http.client.HTTPException."""
    with DIRECT.open(f"{address.url}{path}", timeout=SECONDS) as reply:
        body = reply.read(MAX_REPLY + 1)
    if len(body) > MAX_REPLY:
        raise ValueError("an endless reply")
    return json.loads(body)


def _not_ollama(address: Address, why: str) -> CannotRun:
    other = address.port + 1 if address.port < 65535 else PORT
    return CannotRun(
        f"something at {address} does not answer as Ollama does: {clean_line(why, 200)}",
        hint=f"end it, or take another port: --host {address.host}:{other}",
    )
