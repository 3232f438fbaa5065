"""Tensors: the checkpoints and adapters of training, stored in parts whose names hold the sha256 of their content.

runs/<run>/tensors/<name>/<attempt>/<number>/part-<number>-<part>-<of>-<sha32 of all>-<sha16 of the part>.bin

A reader takes the version with the highest number whose parts are all there. Parts of one version are the same
whichever attempt wrote them, so they may be mixed. A part that does not verify counts as missing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from hybrid.errors import BadData, HybridError, Temporary
from hybrid.folder.medium import Medium, NotThere, Store
from hybrid.folder.names import DIGEST, TENSORS, TensorName, allowed, checked
from hybrid.machine.terminal import clean_line
from hybrid.protocols import KeptTensors

LOG = logging.getLogger("hybrid")
T = TypeVar("T")
PART = 32 * 1024 * 1024
"""Most bytes of a part: a mount uploads a file when it is closed, and a call to it may take only so long."""
MOST_PARTS = 480
"""Most parts of a version, 15 GiB in all: no folder gets more than 500 entries."""
MAX_TOTAL = MOST_PARTS * PART
MOST_NUMBER = 999_999_999


class RunTensors:
    """The tensors of one run (protocols.Tensors). Writes go to `own`; reads look into `own`, then `others`."""

    def __init__(self, run: str, attempt: str, own: Store, others: tuple[Medium, ...] = ()) -> None:
        self._place, self._attempt = f"runs/{run}/{TENSORS}", checked(attempt, what="attempt")
        self._own, self._media = own, (own, *others)

    def keep(self, name: str, number: int, data: bytes) -> None:
        """Store `data` under a name (64 hex digits) and a number, then delete this attempt's versions of lower numbers.

        Raises Temporary when there is no room, BadData for what cannot be kept.
        """
        if not DIGEST.fullmatch(name) or not 0 <= number <= MOST_NUMBER:
            raise BadData(f"tensors: {name!r:.80} {number} is not a name of 64 hex digits and a number")
        mine = f"{self._place}/{name}/{self._attempt}"
        for part, content in pack_tensors(number, data):
            self._own.write(f"{mine}/{part.batch}/{part}", content, heal=True)
        for path in list(_files(self._own, mine, 1)):
            found = TensorName.parse(path.rpartition("/")[2])
            if found and found.number < number:
                self._own.remove(path)

    def newest(self, name: str, after: int = -1) -> tuple[int, bytes] | None:
        """The highest number above `after` whose bytes verify, and these; of two of a number the lower sha256.

        A folder that does not answer counts as empty.
        """
        for version in self.versions(name, after):
            if (data := version.read()) is not None:
                return version.number, data
        return None

    def versions(self, name: str, after: int = -1, below: int = MOST_NUMBER + 1) -> Iterator[KeptTensors]:
        """The versions of the numbers above `after` and below `below`, complete or not: the highest number first, of
        those of a number the lowest sha256. The folder is listed once; one that does not answer counts as empty.
        """
        if not DIGEST.fullmatch(name):
            raise BadData(f"tensors: {name!r:.80} is not a name of 64 hex digits")
        found = (one for one in self._listed(name) if after < one.number < below)
        for one in sorted(found, key=lambda one: (-one.number, one.sha32, one.of)):
            yield KeptTensors(one.number, one.sha32, one.read)

    def _listed(self, name: str) -> list[TensorVersion]:
        """All versions that the listings show under a name, complete or not."""
        versions: dict[tuple[int, str, int], TensorVersion] = {}
        for medium in self._media:
            for path in _listed(medium, f"{self._place}/{name}"):
                found = TensorName.parse(path.rpartition("/")[2])
                if found and found.of <= MOST_PARTS:
                    key = found.number, found.whole, found.of
                    version = versions.setdefault(key, TensorVersion(*key))
                    version.parts.setdefault(found.part, []).append((medium, path))
        return list(versions.values())


@dataclass(frozen=True, slots=True)
class TensorVersion:
    """One version of tensors in the listings: for each part, the places where it may be read."""

    number: int
    sha32: str
    of: int
    parts: dict[int, list[tuple[Medium, str]]] = field(default_factory=dict)

    def read(self) -> bytes | None:
        """The bytes of the version; None when a part is missing or does not verify."""
        if len(self.parts) < self.of:
            return None
        found = []
        for part in range(self.of):
            data = next((one for place in self.parts[part] if (one := _read(*place)) is not None), None)
            if data is None:
                return None
            found.append(data)
        data = b"".join(found)
        return data if hashlib.sha256(data).hexdigest().startswith(self.sha32) else None


def pack_tensors(number: int, data: bytes) -> Iterator[tuple[TensorName, bytes]]:
    """The names and bytes of the parts, in order. Raises BadData when there are too many."""
    of = max(1, -(-len(data) // PART))
    if of > MOST_PARTS:
        raise BadData(f"{len(data):,} bytes of tensors, {MAX_TOTAL:,} are the most that is kept under one name")
    whole = hashlib.sha256(data).hexdigest()[:32]
    for part in range(of):
        content = data[part * PART : (part + 1) * PART]
        yield TensorName(number, part, of, whole, hashlib.sha256(content).hexdigest()[:16]), content


def verify_part(path: str, data: bytes) -> TensorName:
    """The name of the part in the bytes of the file at `path`. Raises BadData that says what is wrong with it."""
    name = TensorName.parse(path.rpartition("/")[2])
    if name is None or name.of > MOST_PARTS or path.split("/")[-2:-1] != [name.batch]:
        raise BadData(f"{path}: not the name and place of a part of tensors")
    if len(data) < PART and name.part < name.of - 1:
        raise BadData(f"{path}: has {len(data):,} of its {PART:,} bytes: cut short, or still on its way")
    if not hashlib.sha256(data).hexdigest().startswith(name.sha16):
        raise BadData(f"{path}: does not match the sha256 in its name: cut short, damaged or still on its way")
    return name


def is_tensors(path: str) -> bool:
    """Whether the file at `path` is a part of tensors."""
    return TensorName.parse(path.rpartition("/")[2]) is not None


def is_adapter(path: str) -> bool:
    """Whether it is a part of an adapter: its name is the sha256 of its content, and records may refer to it."""
    name = TensorName.parse(path.rpartition("/")[2])
    return name is not None and path.split("/")[3].startswith(name.whole)


def _again(ask: Callable[[], T]) -> T:
    """The result of `ask`, with one retry: a single failed call to a mount must not cost hours of training."""
    try:
        return ask()
    except Temporary:
        return ask()


def _read(medium: Medium, path: str) -> bytes | None:
    try:
        data = _again(lambda: medium.read(path, PART))
        verify_part(path, data)
    except NotThere:  # its writer has replaced it since it was listed
        return None
    except HybridError as error:
        LOG.warning("passed over: %s", clean_line(error.message, 500))
        return None
    return data


def _listed(medium: Medium, place: str) -> list[str]:
    """The files below `place`; as many as were listed before the folder stopped to answer."""
    found: list[str] = []

    def ask() -> None:
        found.clear()
        found.extend(_files(medium, place, 2))

    try:
        _again(ask)
    except HybridError as error:
        LOG.warning("cannot look for tensors: %s", clean_line(error.message, 500))
    return found


def _files(medium: Medium, place: str, levels: int) -> Iterator[str]:
    """The paths of the parts `levels` levels below `place`, sorted. Raises what listing raises."""
    for entry in sorted(medium.entries(place), key=lambda one: one.name):
        if levels and entry.kind == "folder" and allowed(entry.name):
            yield from _files(medium, f"{place}/{entry.name}", levels - 1)
        elif not levels and entry.kind == "file" and TensorName.parse(entry.name):
            yield f"{place}/{entry.name}"
