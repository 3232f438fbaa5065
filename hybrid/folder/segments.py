"""Segments: what the loops of a stage publish for good, one file each, named by its number, its name and its content.

runs/<run>/segments/<stage16>/<group>/<window>/segment-<number>-<name>-<sha16>.zst

<stage16> stands for the stage and its model. A window has the files of neighbouring numbers, so many that it has at
most 400 entries when every series publishes under two names; a group has 250 windows. So who follows a stage lists one
folder. <sha16> is of the file, a zstd frame of a line of JSON and the published bytes: what is cut or changed does not
verify, and counts as missing. Whoever writes the same path writes the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import zstandard

from hybrid.canonical import Json, decode, encode
from hybrid.canonical import digest as digest_of
from hybrid.errors import BadData, HybridError
from hybrid.folder.medium import Medium
from hybrid.folder.names import FILES_PER_FOLDER, SEGMENTS, SegmentName, allowed
from hybrid.folder.runs import Run
from hybrid.loops import Segment
from hybrid.machine.files import unpack
from hybrid.protocols import Stage

FORMAT = "hybrid/segment"
MAX_PACKED = 8 * 1024 * 1024
MAX_SEGMENT = 32 * 1024 * 1024
"""Bytes of a segment, the line before it included."""
MOST_NUMBER = 999_999
NAMES_PER_SERIES = 2
MOST_IN_WINDOW, LONGEST_WINDOW = 400, 100
"""Files of a window when every series publishes under NAMES_PER_SERIES names, and numbers of a window."""


def stage_place(run: str, identity: str, model: str) -> str:
    """Where the segments of a stage are: `identity` is that of the stage, `model` the digest of its model."""
    return f"runs/{run}/{SEGMENTS}/{digest_of([identity, model])[:16]}"


def window_length(series: int) -> int:
    """How many numbers a window has in a stage of so many series."""
    return max(1, min(LONGEST_WINDOW, MOST_IN_WINDOW // (NAMES_PER_SERIES * max(1, series))))


def window_place(place: str, window: int) -> str:
    """The folder of a window."""
    return f"{place}/{window // FILES_PER_FOLDER:04d}/{window:06d}"


def pack_segment(place: str, length: int, name: str, number: int, data: bytes) -> tuple[str, bytes]:
    """The path and the bytes of a segment's file. Raises BadData for what cannot be published."""
    _, run, _, stage = place.split("/")
    if type(number) is not int or not 0 <= number <= MOST_NUMBER:
        raise BadData(f"segment {name!r:.80}: {number!r:.40} is no number from 0 to {MOST_NUMBER:,}")
    content = _head(run, stage, name, number) + data
    packed = zstandard.ZstdCompressor(level=10, write_checksum=True).compress(content)
    if len(content) > MAX_SEGMENT or len(packed) > MAX_PACKED:
        raise BadData(
            f"segment {name!r:.80} {number}: {len(data):,} bytes, {len(packed):,} packed, are more than "
            f"the {MAX_SEGMENT:,} and {MAX_PACKED:,} that a segment may have",
            hint="publish less at a time",
        )
    found = SegmentName(number, name, hashlib.sha256(packed).hexdigest()[:16])
    if SegmentName.parse(str(found)) != found:
        raise BadData(f"segment {name!r:.80}: a name has 1 to 60 of a-z, 0-9 and - between")
    return f"{window_place(place, number // length)}/{found}", packed


def verify_segment(path: str, packed: bytes) -> Segment:
    """The segment in the bytes of the file at `path`. Raises BadData that says what is wrong with it."""
    run, stage, found = (path.split("/") + [""] * 4)[1], (path.split("/") + [""] * 4)[3], name_of(path)
    if found is None:
        raise BadData(f"{path}: not the name of a segment")
    if len(packed) > MAX_PACKED:
        raise BadData(f"{path}: larger than the {MAX_PACKED:,} bytes allowed")
    if not hashlib.sha256(packed).hexdigest().startswith(found.sha16):
        raise BadData(f"{path}: does not match the sha256 in its name: cut short, damaged or still on its way")
    content = unpack(packed, MAX_SEGMENT, path)
    head, line, data = content.partition(b"\n")
    if head + line != _head(run, stage, found.name, found.number):
        said = decode(head, what=path, limit=4096)
        if not isinstance(said, dict) or (said.get("format"), said.get("version")) != (FORMAT, 1):
            raise BadData(f"{path}: not a segment of this format")
        raise BadData(f"{path}: does not say of itself what its path says")
    return Segment(found.name, found.number, data, hashlib.sha256(data).hexdigest())


def name_of(path: str) -> SegmentName | None:
    """The name of the segment at `path`; None when it is no segment."""
    return SegmentName.parse(path.rpartition("/")[2])


def is_segment(path: str) -> bool:
    """Whether the file at `path` has the name of a segment."""
    return name_of(path) is not None


def segment_paths(medium: Medium, place: str, levels: int) -> Iterator[str]:
    """The path of every segment that is `levels` folders below `place`, sorted. Raises what listing raises."""
    for entry in sorted(medium.entries(place), key=lambda one: one.name):
        path = f"{place}/{entry.name}"
        if levels and entry.kind == "folder" and allowed(entry.name):
            yield from segment_paths(medium, path, levels - 1)
        elif not levels and entry.kind == "file" and is_segment(path):
            yield path


class StoredSegments:
    """The segments at a stage's `place` in all `media`, as they are when they are first read: for looking at them
    afterwards. Whoever follows a stage has a `segment_shelf.SegmentShelf`.
    """

    def __init__(self, media: tuple[Medium, ...], place: str) -> None:
        self._media, self._place = media, place
        self._found: dict[tuple[str, int], dict[str, list[Medium]]] | None = None

    def read(self, name: str, number: int) -> list[Segment]:
        """The segments of a name and number that are whole in one of the media, sorted by id. Raises Temporary."""
        found: dict[str, Segment] = {}
        for path, media in self._paths().get((name, number), {}).items():
            for medium in media:
                try:
                    segment = verify_segment(path, medium.read(path, MAX_PACKED))
                except HybridError:
                    continue
                found[segment.id] = segment
                break
        return [found[id] for id in sorted(found)]

    def _paths(self) -> dict[tuple[str, int], dict[str, list[Medium]]]:
        if self._found is None:
            self._found = {}
            for medium in self._media:
                for path in segment_paths(medium, self._place, 2):
                    if name := name_of(path):
                        self._found.setdefault((name.name, name.number), {}).setdefault(path, []).append(medium)
        return self._found


def segments_of(run: Run, stage: Stage) -> StoredSegments:
    """What the loops of a stage have published, as far as it is in the run's folder or on this machine."""
    place = stage_place(run.id, stage.identity, run.model_digest(stage.name))
    return StoredSegments(run.sources or (run.folder,), place)


def _head(run: str, stage: str, name: str, number: int) -> bytes:
    head: dict[str, Json] = {
        "format": FORMAT, "version": 1, "run": run, "stage": stage, "name": name, "number": number,
    }  # fmt: skip
    return encode(head) + b"\n"
