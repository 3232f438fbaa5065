"""Notes: small files by which the two sides exchange messages. Written once, numbered, self-verifying.

runs/<run>/beats/<attempt>/<batch>/beat-<number>-<sha16>.json.zst     a worker: heartbeat and lease
runs/<run>/logs/<attempt>/<batch>/log-<number>-<sha16>.json.zst       a worker: log lines
runs/<run>/acks/<reader>/<batch>/ack-<number>-<sha16>.json.zst        a laptop: receipts of verified shards
runs/<run>/orders/<reader>/<batch>/order-<number>-<sha16>.json.zst    a laptop: cancel, resume, retry

A note is one zstd frame of canonical JSON. A note that does not verify counts as missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping
from typing import Any

import zstandard

from hybrid.canonical import Json, decode, encode
from hybrid.errors import BadData, HybridError
from hybrid.folder.medium import Medium
from hybrid.folder.names import NoteName, allowed, checked
from hybrid.machine.files import unpack

MAX_PACKED = 1024 * 1024
MAX_NOTE = 8 * 1024 * 1024

Note = Mapping[str, Any]


def pack_note(run: str, kind: str, by: str, number: int, body: Mapping[str, Json]) -> tuple[str, bytes]:
    """The path and the bytes of a note of `kind` that `by` writes about `run`. Raises BadData when it is too large."""
    head: dict[str, Json] = {"format": f"hybrid/{kind}", "version": 1, "run": run, "by": by, "number": number}
    content = encode({**body, **head})
    data = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content)
    if len(content) > MAX_NOTE or len(data) > MAX_PACKED:
        raise BadData(f"{run}: a note of {len(content):,} bytes, which is more than a note may have")
    name = NoteName(kind, number, hashlib.sha256(content).hexdigest()[:16])
    return f"{writer_place(run, kind, by)}/{name.batch}/{name}", data


def writer_place(run: str, kind: str, by: str) -> str:
    """Where one writer's notes of a kind are."""
    return f"runs/{run}/{kind}s/{checked(by, what='writer of a note')}"


def verify_note(path: str, data: bytes) -> Note:
    """The note in the bytes of the file at `path`; run, writer and number must be those of the path. Raises BadData."""
    _, run, folder, by, _, name = (path.split("/") + [""] * 6)[:6]
    parsed = NoteName.parse(name, folder.removesuffix("s"))
    if parsed is None:
        raise BadData(f"{path}: not the name of a note")
    content = unpack(data, MAX_NOTE, path)
    if not hashlib.sha256(content).hexdigest().startswith(parsed.sha16):
        raise BadData(f"{path}: does not match the hash in its name: truncated, damaged or still on its way")
    note = decode(content, what=path)
    said = {"format": f"hybrid/{parsed.kind}", "version": 1, "run": run, "by": by, "number": parsed.number}
    if not isinstance(note, dict) or any(note.get(key) != value for key, value in said.items()):
        raise BadData(f"{path}: does not say of itself what its path says")
    return note


def writers(medium: Medium, run: str, kind: str) -> list[str]:
    """The writers of notes of a kind, sorted. Raises Temporary."""
    return _sorted(medium, f"runs/{run}/{kind}s", "folder")


def note_paths(medium: Medium, run: str, kind: str, by: str) -> Iterator[str]:
    """The paths of one writer's notes, the latest number first. Raises Temporary."""
    place = writer_place(run, kind, by)
    for batch in reversed(_sorted(medium, place, "folder")):
        names = _sorted(medium, f"{place}/{batch}", "file")
        yield from (f"{place}/{batch}/{name}" for name in reversed(names) if NoteName.parse(name, kind))


def read_notes(
    medium: Medium, run: str, kind: str, *, known: Container[str] = (), refused: list[str]
) -> Iterator[tuple[str, Note]]:
    """Every note of a kind that verifies and is not in `known`, by writer and number. Raises Temporary for listings."""
    for by in writers(medium, run, kind):
        for path in reversed(list(note_paths(medium, run, kind, by))):
            if path not in known and (note := _read(medium, path, refused)) is not None:
                yield path, note


def latest_note(medium: Medium, run: str, kind: str, by: str, refused: list[str]) -> Note | None:
    """One writer's note of the highest number that verifies. Raises Temporary for listings."""
    for path in note_paths(medium, run, kind, by):
        if (note := _read(medium, path, refused)) is not None:
            return note
    return None


def _read(medium: Medium, path: str, refused: list[str]) -> Note | None:
    try:
        return verify_note(path, medium.read(path, MAX_PACKED))
    except HybridError as error:
        refused.append(error.message)
        return None


def _sorted(medium: Medium, place: str, kind: str) -> list[str]:
    return sorted({one.name for one in medium.entries(place) if one.kind == kind and allowed(one.name)})
