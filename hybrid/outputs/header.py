"""The header (format, run, models, tasks) and the trailer (count, sha256) of an outputs file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hybrid.canonical import MAX_DEPTH, Json, encode, too_deep
from hybrid.errors import BadData

FORMAT = "hybrid/outputs"
VERSION = 1
HEAD = ("format", "version", "run", "models", "tasks")
TAIL = ("count", "sha256")
MAX_TASKS = 512 * 1024 * 1024
"""Most bytes of all tasks together as canonical JSON."""

HINT_AGAIN = "wait for the sync to finish, or make the file again: hybrid grade RUN puts it together anew"
HINT_FOREIGN = "name a file that hybrid wrote: an outputs.json, or a .jsonl of its records"


def canonical(value: Json, where: str) -> bytes:
    """`value` as canonical JSON. Raises BadData for lone surrogates and too many levels of nesting."""
    try:
        data = encode(value)
    except (ValueError, TypeError) as error:
        raise BadData(f"{where}: cannot be written as JSON: {error}", hint=HINT_FOREIGN) from error
    except BadData as error:
        raise _too_deep(where) from error
    refuse_depth(value, data, where)
    return data


def refuse_depth(value: Any, data: bytes, where: str) -> None:
    """Raise BadData when `value`, which is `data` in JSON, has more than MAX_DEPTH levels of objects and arrays."""
    if too_deep(value, data):
        raise _too_deep(where)


def _too_deep(where: str) -> BadData:
    return BadData(f"{where}: more than {MAX_DEPTH} levels", hint=HINT_FOREIGN)


class TaskTable(Mapping[str, Any]):
    """Task -> its data, kept as JSON bytes (a fifth of the memory) and decoded when looked up."""

    def __init__(self) -> None:
        self._json: dict[str, bytes] = {}
        self._size = 0

    def put(self, name: str, value: Json, where: str) -> None:
        """Add one task. Raises BadData when it is there already, or when all of them are too large."""
        if name in self._json:
            raise BadData(f"{where}: the task {name!r:.80} is there twice", hint=HINT_AGAIN)
        canonical(name, where)
        self._json[name] = canonical(value, where)
        self._size += len(self._json[name])
        if self._size > MAX_TASKS:
            raise BadData(f"{where}: the tasks have more than the {MAX_TASKS:,} bytes allowed")

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._json[name])  # not orjson, which rounds whole numbers beyond 64 bits

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    def lines(self) -> Iterator[bytes]:
        """The bytes of each task that go into the digest, sorted by name."""
        for name in sorted(self._json):
            yield b"[%s,%s]\n" % (encode(name), self._json[name])


@dataclass(slots=True)
class Header:
    """The header. In bare JSON lines `run` is None and `models` empty.

    The version is checked only once the format is known, whichever comes first in the file.
    """

    ours: bool = False
    version: Any = VERSION
    run: Mapping[str, Any] | None = None
    models: list[Any] = field(default_factory=list)
    tasks: TaskTable = field(default_factory=TaskTable)

    def hashed(self) -> hashlib._Hash:
        """The sha256 of the header, to be updated with the records."""
        hashed = hashlib.sha256(encode(self.run) + b"\n" + encode(self.models) + b"\n")
        for line in self.tasks.lines():
            hashed.update(line)
        return hashed

    def put(self, name: str, value: Any, where: str) -> None:
        """Check and store one member of HEAD except the tasks. Raises BadData."""
        if name == "format" and value != FORMAT:
            raise BadData(f"{where}: not an outputs file: its format is {value!r:.60}", hint=HINT_FOREIGN)
        self.ours = self.ours or name == "format"
        self.version = value if name == "version" else self.version
        if self.ours and (self.version != VERSION or isinstance(self.version, bool)):
            raise BadData(
                f"{where}: outputs of version {self.version!r:.20}, this hybrid reads {VERSION}",
                hint="update hybrid, or grade it with the version that wrote it",
            )
        canonical(value, where)
        if name == "run":
            self.run = checked(value, dict | None, "run", where)
        if name == "models":
            self.models = checked(value, list, "models", where)


@dataclass(frozen=True, slots=True)
class Trailer:
    """The count and sha256 that the file states at its end."""

    count: int
    sha256: str

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Trailer:
        """Raises BadData when count or sha256 is missing or of another type."""
        count, sha256 = values.get("count"), values.get("sha256")
        if isinstance(count, bool) or not isinstance(count, int) or not isinstance(sha256, str):
            raise BadData(f"{where}: has no count and sha256 at its end: not whole", hint=HINT_AGAIN)
        return cls(count, sha256)


def checked(value: Any, kind: Any, name: str, where: str) -> Any:
    """`value`, which must be of `kind`. Raises BadData."""
    if not isinstance(value, kind):
        raise BadData(f"{where}: '{name}' is not what it should be: {value!r:.40}", hint=HINT_FOREIGN)
    return value


def duplicates_refused(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` that raises ValueError when a name stands twice in an object."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one JSON object")
    return value


class RecordBlock(NamedTuple):
    """Consecutive records that were read together."""

    values: list[Any]
    content: bytes  # the canonical JSON of each with a newline after it, as it goes into the digest
    place: str  # prefix of a record's place in messages: `FILE, line`
    first: int  # line or record number of the first

    def where(self, number: int) -> str:
        """The place of `values[number]` in messages."""
        return f"{self.place} {self.first + number}"
