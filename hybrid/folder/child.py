"""Access a folder through a child process: a mount that hangs or dies blocks that process, never the one that computes.

A request is a line of JSON, {"do","path","limit","size"}, and a body of `size` bytes. The reply is a line of JSON,
{"size"} or {"error","message","hint","size"}, and a body. A request for several files has their paths as its body; the
body of its reply begins with a line of sizes and errors. `python -m hybrid.folder.child ROOT` serves its
standard streams.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from hybrid.errors import BadData, CannotRun, HybridError, Temporary, UsageError
from hybrid.folder.medium import Entry, Medium, NotThere, Removes, read_or_error
from hybrid.folder.object_store import medium_at
from hybrid.machine import home

ERRORS: dict[str, type[HybridError]] = {
    kind.__name__: kind for kind in (BadData, CannotRun, NotThere, Temporary, UsageError)
}
STARTING = 30.0
"""Seconds that the process may take to start, in addition to the time limit of its first request."""

ENOUGH, LONG_ENOUGH = 4 * 1024 * 1024, 1.0
"""Bytes and seconds after which a reply with several files is sent with those read so far."""

Reply = tuple[dict[str, Any], bytes]


class IsolatedFolder:
    """The folder at `root`, accessed through a child process. A call that takes longer than `seconds` raises Temporary.

    Serves one call at a time, from any thread. A child that hangs is killed, or abandoned where the kernel does not let
    it die; the next call starts another.
    """

    def __init__(self, root: Path, *, seconds: float = 120.0) -> None:
        self.root, self._seconds = root, seconds
        self._child: _Child | None = None
        self._turn = threading.Lock()
        self._several = True

    def __str__(self) -> str:
        return home.store_url(self.root) or str(self.root)

    def entries(self, place: str) -> list[Entry]:
        return [Entry(name, kind) for name, kind in json.loads(self._ask("entries", place))]

    def read(self, path: str, limit: int) -> bytes:
        return self._ask("read", path, limit=limit)

    def read_several(self, paths: Sequence[str], limit: int) -> list[bytes | HybridError]:
        if self._several and len(paths) > 1:
            try:
                return _unpacked(self._ask("several", paths[0], json.dumps(list(paths)).encode(), limit))
            except Temporary:  # from now on one file a call, to find the one that failed
                self._several = False
        return [read_or_error(self, paths[0], limit)]

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        self._ask("heal" if heal else "write", path, data)

    def remove(self, path: str) -> None:
        self._ask("remove", path)

    def close(self) -> None:
        """End the child."""
        if self._child:
            self._child.kill()
            self._child = None

    def _ask(self, do: str, path: str, body: bytes = b"", limit: int = 0) -> bytes:
        with self._turn:
            return self._answered(do, path, body, limit)

    def _answered(self, do: str, path: str, body: bytes, limit: int) -> bytes:
        seconds = self._seconds
        if self._child is None:
            self._child, seconds = _Child(self.root), seconds + STARTING
        try:
            head, data = self._child.ask({"do": do, "path": path, "limit": limit, "size": len(body)}, body, seconds)
        except (queue.Empty, OSError, ValueError) as error:
            self.close()
            why = f"did not answer for {seconds:.0f} s" if isinstance(error, queue.Empty) else "went away"
            what, there = ("store", "there") if home.store_url(self.root) else ("mount", "mounted")
            raise Temporary(
                f"{self}: the {what} {why} at {path} ({do})",
                hint=f"is it still {there}? what was computed is kept on this machine's own disk",
            ) from error
        if "error" in head:
            raise _error([head["error"], head["message"], head["hint"]])
        return data


def _error(told: Sequence[Any]) -> HybridError:
    kind, message, hint = map(str, told)
    return ERRORS.get(kind, Temporary)(message, hint=hint)


def _unpacked(data: bytes) -> list[bytes | HybridError]:
    """The files or errors in a body that `_several` packed."""
    at = data.index(b"\n") + 1
    found: list[bytes | HybridError] = []
    for told in json.loads(data[:at]):
        if isinstance(told, int):
            found.append(data[at : at + told])
            at += told
        else:
            found.append(_error(told))
    return found


class _Child:
    """The process, and a thread that talks to it, so that a caller can stop waiting."""

    def __init__(self, root: Path) -> None:
        # -P and our own path: never import from the current folder, which anybody may have written
        command = [sys.executable, "-P", "-m", "hybrid.folder.child", str(root.absolute())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
        own_group: Any = {"start_new_session": True} if sys.platform != "win32" else {"creationflags": 0x200}
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **own_group
        )
        self._asked: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Reply | OSError | ValueError] = queue.SimpleQueue()
        threading.Thread(target=self._talk, name="folder-child", daemon=True).start()

    def ask(self, head: dict[str, Any], body: bytes, seconds: float) -> Reply:
        """The reply. Raises queue.Empty after `seconds`, OSError or ValueError when the process is gone."""
        self._asked.put((head, body))
        answer = self._answers.get(timeout=seconds)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        self._asked.put(None)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a call that hangs in the kernel survives the kill
            self._process.wait(2)

    def _talk(self) -> None:
        assert self._process.stdin, "made with a pipe"  # noqa: S101
        assert self._process.stdout, "made with a pipe"  # noqa: S101
        while (asked := self._asked.get()) is not None:
            try:
                _send(self._process.stdin, *asked)
                self._answers.put(_receive(self._process.stdout))
            except (OSError, ValueError) as error:
                self._answers.put(error)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def _send(stream: IO[bytes], head: dict[str, Any], body: bytes) -> None:
    stream.write(json.dumps(head).encode() + b"\n" + body)
    stream.flush()


def _receive(stream: IO[bytes]) -> Reply:
    head = json.loads(stream.readline())
    body = stream.read(head["size"])
    if len(body) != head["size"]:
        raise ValueError("the other end went away")
    return head, body


def serve(root: Path, asked: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until their stream ends."""
    medium = medium_at(root)
    while True:
        try:
            head, body = _receive(asked)
        except ValueError:
            return
        try:
            data = _do(medium, head, body)
            _send(answers, {"size": len(data)}, data)
        except HybridError as error:
            said = {"error": type(error).__name__, "message": error.message, "hint": error.hint, "size": 0}
            _send(answers, said, b"")


def _do(medium: Medium, head: dict[str, Any], body: bytes) -> bytes:
    if head["do"] == "entries":
        return json.dumps([[entry.name, entry.kind] for entry in medium.entries(head["path"])]).encode()
    if head["do"] == "several":
        return _several(medium, json.loads(body), head["limit"])
    if head["do"] == "read":
        return medium.read(head["path"], head["limit"])
    if head["do"] != "remove":
        medium.write(head["path"], body, heal=head["do"] == "heal")
    elif isinstance(medium, Removes):
        medium.remove(head["path"])
    return b""


def _several(medium: Medium, paths: Sequence[str], limit: int) -> bytes:
    """A line of JSON with each file's size or error, and the contents of the files."""
    told: list[int | list[str]] = []
    files: list[bytes] = []
    began = time.monotonic()
    for path in paths:
        found = read_or_error(medium, path, limit)
        if isinstance(found, bytes):
            files.append(found)
            told.append(len(found))
        else:
            told.append([type(found).__name__, found.message, found.hint])
        if sum(map(len, files)) > ENOUGH or time.monotonic() - began > LONG_ENOUGH:
            break
    return b"".join([json.dumps(told).encode(), b"\n", *files])


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
