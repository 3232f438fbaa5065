"""How a server's address decides on proxies and certificates."""

from __future__ import annotations

import ipaddress
import ssl

import httpx


def is_local(url: str) -> bool:
    """Whether `url` is an address of this machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def trusts_proxies(url: str) -> bool:
    """Whether the proxies of the environment apply to `url`: never to an address of this machine."""
    return not is_local(url)


def certificates(url: str) -> bool | ssl.SSLContext:
    """The `verify` argument of httpx. Without TLS the trusted certificates are not loaded, since that is slow."""
    return True if url.startswith("https") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
