"""Ports of this machine for servers that tests start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

import pytest

CHOICE = random.SystemRandom()
"""Tests and libraries seed the other one, and several processes that test would then choose alike."""


def free_port() -> int:
    """A free port of loopback, below those that the system gives to outgoing connections.

    Nobody else gets it while a server is killed and started again.
    """
    for port in CHOICE.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("no free port on 127.0.0.1")
