"""What can be wrong with a server's reply: it is an error, it is incomplete or invalid, or there is no server."""

from __future__ import annotations

from hybrid.machine.terminal import clean_line

MAX_REPLY = 64 << 20
"""Bytes of a reply that is not a stream; the description of a large model is some MiB."""

MAX_LINE = 4 << 20
"""Bytes of one line of a stream; the last one may hold a number per token of the prompt."""


class ErrorReply(Exception):
    """The server replied with an error.

    `status` is the HTTP status, or 0 for an error within a stream; `body` its reply as it came, at most 64 KiB of it;
    `retry_after` how many seconds it asks to wait, 0 when it does not say.
    """

    def __init__(self, status: int, message: str, body: bytes = b"", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.message = clean_line(message)[:500]
        self.body = body
        self.retry_after = retry_after


class ReplyError(Exception):
    """A reply that is incomplete or invalid; the request is retried. `kind` is that of the `Failure` it becomes."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class TruncatedReply(ReplyError):
    """A stream that ended without an error, but without its last line."""


class ServerUnavailable(Exception):
    """No connection: nothing listens at the server's address."""
