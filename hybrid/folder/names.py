"""Names in the folder: legal on every system, unique ignoring case, at most 120 bytes."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from hybrid.canonical import Json, digest
from hybrid.errors import BadData

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,118}[a-z0-9])?")
RESERVED = frozenset({"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)})
DIGEST = re.compile(r"[0-9a-f]{64}")
"""A sha256 as it stands in specs, headers and records."""

SHARD = re.compile(r"shard-(\d{5})-(\d{1,7})-([0-9a-f]{16})\.jsonl\.zst")
SHARDS_PER_FOLDER = 250


def checked(name: str, *, what: str) -> str:
    """`name` if it may stand in the folder. Raises BadData: upper case, separators, device names of Windows."""
    if not NAME.fullmatch(name) or ".." in name or name.partition(".")[0] in RESERVED:
        raise BadData(
            f"{what}: {name[:60]!r} cannot be a name in the folder", hint="use a-z, 0-9 and ._- between, at most 120"
        )
    return name


def run_id(spec: Json, pipeline: str) -> str:
    """The run's id: the pipeline's name and the first 12 hex digits of the spec's digest."""
    return checked(f"{pipeline}-{digest(spec)[:12]}", what="run id")


def new_attempt() -> str:
    """A name for one worker process at work. The time is for people; nothing is decided by it."""
    return f"{datetime.now(UTC):%Y%m%dt%H%M%Sz}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class ShardName:
    """`shard-<seq>-<records>-<first 16 hex digits of the payload's sha256>.jsonl.zst`."""

    seq: int
    count: int
    sha16: str

    def __str__(self) -> str:
        return f"shard-{self.seq:05d}-{self.count}-{self.sha16}.jsonl.zst"

    @property
    def batch(self) -> str:
        """The subfolder, so that no folder holds more than 250 shards."""
        return f"{self.seq // SHARDS_PER_FOLDER:03d}"

    @classmethod
    def parse(cls, name: str) -> ShardName | None:
        """The parts of a shard's name, None when it is not one (a conflict copy, a partial download)."""
        match = SHARD.fullmatch(name)
        return cls(int(match[1]), int(match[2]), match[3]) if match else None
