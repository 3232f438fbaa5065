"""Names in the folder: legal on every system, unique ignoring case, at most 120 bytes."""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from hybrid.canonical import Json, digest
from hybrid.errors import BadData

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,118}[a-z0-9])?")
RESERVED = frozenset({"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)})
DIGEST = re.compile(r"[0-9a-f]{64}")
"""A sha256 in hex, as in specs, headers and records."""

SHARD = re.compile(r"shard-(\d{5})-(\d{1,7})-([0-9a-f]{16})\.jsonl\.zst")
NOTE = re.compile(r"([a-z]{1,10})-(\d{6})-([0-9a-f]{16})\.json\.zst")
TENSOR = re.compile(r"part-(\d{9})-(\d{3})-(\d{3})-([0-9a-f]{32})-([0-9a-f]{16})\.bin")
SEGMENT = re.compile(r"segment-(\d{6})-([a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?)-([0-9a-f]{16})\.zst")
ATTEMPT = re.compile(r"(\d{8}t\d{6}z)-")
FILES_PER_FOLDER = 250

NOTES = ("beats", "logs", "acks", "orders")
"""The folders of notes in a run's folder."""
TENSORS = "tensors"
"""The folder of checkpoints and adapters in a run's folder."""
SEGMENTS = "segments"
"""The folder of what the loops of a run have published."""
ON_LAPTOP = "-laptop"
"""The end of the names of the attempts of workers that do the laptop side alone."""
BESIDE_STAGES = (*NOTES, TENSORS, SEGMENTS)
"""The folders of a run that are not stages; no stage may have such a name."""


def allowed(name: str) -> bool:
    """Whether a name may stand in the folder: no upper case, no separators, no device names of Windows."""
    return bool(NAME.fullmatch(name)) and ".." not in name and name.partition(".")[0] not in RESERVED


def checked(name: str, *, what: str) -> str:
    """`name` if it is allowed in the folder. Raises BadData."""
    if not allowed(name):
        raise BadData(
            f"{what}: {name[:60]!r} cannot be a name in the folder", hint="use a-z, 0-9 and ._- between, at most 120"
        )
    return name


def stage_name(name: str) -> str:
    """`name` if a stage may have it. Raises BadData."""
    if name in BESIDE_STAGES:
        raise BadData(f"stage: {name!r} is the name of something else in a run", hint="give the stage another name")
    return checked(name, what="stage")


def run_id(spec: Json, pipeline: str) -> str:
    """The run's id: the pipeline's name and the first 12 hex digits of the spec's digest."""
    return checked(f"{pipeline}-{digest(spec)[:12]}", what="run id")


def new_attempt(*, on_laptop: bool = False) -> str:
    """A unique name for one attempt: one process at work on runs. Its time is for people only.

    By the end of the names of those `on_laptop` a program that syncs knows which side writes their files.
    """
    return f"{datetime.now(UTC):%Y%m%dt%H%M%Sz}-{secrets.token_hex(4)}{ON_LAPTOP if on_laptop else ''}"


def began_at(attempt: str) -> datetime | None:
    """When an attempt began, by its name and its machine's clock; None when the name does not say it."""
    found = ATTEMPT.match(attempt)
    with suppress(ValueError):
        return datetime.strptime(found[1] if found else "", "%Y%m%dt%H%M%Sz").replace(tzinfo=UTC)
    return None


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
        return f"{self.seq // FILES_PER_FOLDER:03d}"

    @classmethod
    def parse(cls, name: str) -> ShardName | None:
        """The parts of a shard's name, None when it is not one (a conflict copy, a partial download)."""
        match = SHARD.fullmatch(name)
        return cls(int(match[1]), int(match[2]), match[3]) if match else None


@dataclass(frozen=True, slots=True)
class NoteName:
    """`<kind>-<number>-<first 16 hex digits of the content's sha256>.json.zst`."""

    kind: str
    number: int
    sha16: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.number:06d}-{self.sha16}.json.zst"

    @property
    def batch(self) -> str:
        """The subfolder, so that no folder holds more than 250 notes."""
        return f"{self.number // FILES_PER_FOLDER:03d}"

    @classmethod
    def parse(cls, name: str, kind: str) -> NoteName | None:
        """The parts of the name of a note of that kind, None when it is not one."""
        match = NOTE.fullmatch(name)
        return cls(kind, int(match[2]), match[3]) if match and match[1] == kind else None


@dataclass(frozen=True, slots=True)
class TensorName:
    """`part-<number>-<part>-<of>-<first 32 hex digits of the whole's sha256>-<first 16 of the part's>.bin`."""

    number: int
    part: int
    of: int
    whole: str
    sha16: str

    def __str__(self) -> str:
        return f"part-{self.number:09d}-{self.part:03d}-{self.of:03d}-{self.whole}-{self.sha16}.bin"

    @property
    def batch(self) -> str:
        """The subfolder: one for each number."""
        return f"{self.number:09d}"

    @classmethod
    def parse(cls, name: str) -> TensorName | None:
        """The parts of the name of a part of tensors, None when it is not one."""
        match = TENSOR.fullmatch(name)
        found = cls(int(match[1]), int(match[2]), int(match[3]), match[4], match[5]) if match else None
        return found if found and found.part < found.of else None


@dataclass(frozen=True, slots=True)
class SegmentName:
    """`segment-<number>-<name>-<first 16 hex digits of the file's sha256>.zst`; a name has at most 60 characters."""

    number: int
    name: str
    sha16: str

    def __str__(self) -> str:
        return f"segment-{self.number:06d}-{self.name}-{self.sha16}.zst"

    @classmethod
    def parse(cls, name: str) -> SegmentName | None:
        """The parts of a segment's name, None when it is not one."""
        match = SEGMENT.fullmatch(name)
        return cls(int(match[1]), match[2], match[3]) if match else None
