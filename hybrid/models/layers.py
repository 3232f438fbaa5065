"""Layers in the shared folder: written and read part by part, at most two parts in memory, each verified by its sha256.

The sha256 of the layer and of the part are computed in two threads, while the calling thread reads or writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from hybrid.errors import BadData, HybridError
from hybrid.folder.medium import Medium, NotThere
from hybrid.folder.runs import check_mark
from hybrid.machine.files import explain_errors
from hybrid.models.manifest import Layer, Model, Part, parts_of

OnProgress = Callable[[int], None]
"""Called with the number of bytes that were done since the last call."""

WRITE_SIZE = 256 * 1024
"""Bytes per call to write: larger calls need large memory allocations, which are slow on a virtual machine."""

REPAIR = "pack the model again where it still is: only what is missing or damaged is written"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a local file for reading, unbuffered.

    Raises BadData when it is not a regular file, and what `explain_errors` raises.
    """
    with explain_errors(path, doing="reading it"):
        if not path.is_file():
            raise BadData(f"{path}: not there, or not a regular file")
        with path.open("rb", buffering=0) as stream:
            yield stream


class ParallelHasher:
    """Computes the sha256 of a layer and of each of its parts, in two threads."""

    def __init__(self) -> None:
        self._whole, self.size = hashlib.sha256(), 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="sha256")
        self._last: Future[None] | None = None

    def add(self, data: bytes) -> Future[str]:
        """Start hashing the next part. Returns the future of its sha256."""
        self.size += len(data)
        self._wait()
        self._last = self._threads.submit(self._whole.update, data)
        return self._threads.submit(_sha256, data)

    def whole(self) -> str:
        """The sha256 of all parts so far."""
        self._wait()
        return self._whole.hexdigest()

    def close(self) -> None:
        self._threads.shutdown()

    def _wait(self) -> None:
        if self._last:
            self._last.result()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_layer(folder: Medium, file: Path, layer: Layer, part_size: int, on_progress: OnProgress) -> Layer:
    """Write a local file into the folder as `layer`; returns it with its parts. Existing parts are only compared.

    While a part is hashed, the one before it is written. Raises BadData when the file does not have the layer's size
    and sha256; the parts that were written are then in no manifest. Raises what `Medium.write` raises.
    """
    hashes: list[str] = []
    before = b""
    with opened(file) as stream, closing(ParallelHasher()) as hasher:
        while (data := _next(stream, part_size)) and hasher.size < layer.size:
            part_hash = hasher.add(data)
            _write_last_part(folder, layer, part_size, hashes, before)
            hashes.append(part_hash.result())
            on_progress(len(data))
            before = data
        if (hasher.whole(), hasher.size) != (layer.sha256, layer.size):
            raise BadData(
                f"{file}: is not the {layer.size:,} bytes of sha256 {layer.sha256[:12]} that it should be",
                hint="this copy of the model is damaged: pull, download or create it again",
            )
        _write_last_part(folder, layer, part_size, hashes, before)
    return replace(layer, parts=parts_of(layer, part_size, hashes))


def _next(stream: BinaryIO, size: int) -> bytes:
    """The next part; shorter only at the end of the file."""
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _write_last_part(folder: Medium, layer: Layer, part_size: int, hashes: list[str], data: bytes) -> None:
    """Write the last of the parts with these hashes. The folder's mark is checked first: its mount may be gone."""
    if data:
        check_mark(folder)
        folder.write(parts_of(layer, part_size, hashes)[-1].path, data, heal=True)


def _verify(part: Part, data: bytes, sha256: str) -> None:
    """Raise BadData when `data`, whose sha256 is given, is not the part."""
    if len(data) < part.size:
        what = f"cut short, or still on its way: {len(data):,} of {part.size:,} bytes are here"
        raise BadData(f"{part.path}: {what}", hint=f"wait for the sync; if it stays so, {REPAIR}")
    if sha256 != part.sha256:
        raise BadData(f"{part.path}: damaged: does not match the sha256 in its name", hint=REPAIR)


def read_layer(folder: Medium, layer: Layer, into: BinaryIO, on_progress: OnProgress) -> None:
    """Write a layer into an open local file. Parts that the file holds already are verified and kept.

    Nothing unverified is left in the file. Raises NotThere, BadData, and what `Medium.read` raises.
    """
    with closing(ParallelHasher()) as hasher:
        done = _resumed(layer, into, hasher, on_progress)
        for part in layer.parts[done:]:
            end = into.tell()
            try:
                data = folder.read(part.path, part.size)
                part_hash = hasher.add(data)
                _fill(into, data)
                _verify(part, data, part_hash.result())
            except HybridError:
                into.truncate(end)
                raise
            on_progress(part.size)
        into.truncate()
        if hasher.whole() != layer.sha256:
            raise BadData(
                f"{layer.place}: its parts together are not what it is named by", hint="this model cannot be trusted"
            )


def _resumed(layer: Layer, into: BinaryIO, hasher: ParallelHasher, on_progress: OnProgress) -> int:
    """The number of valid parts at the start of the file, which is then positioned at their end."""
    for number, part in enumerate(layer.parts):
        start = into.tell()
        data = into.read(part.size)
        if len(data) < part.size or _sha256(data) != part.sha256:
            into.seek(start)
            return number
        hasher.add(data)
        on_progress(part.size)
    return len(layer.parts)


def _fill(into: BinaryIO, data: bytes) -> None:
    """Write all of it in pieces, so that the system starts to write them to disk meanwhile."""
    view = memoryview(data)
    while view:
        view = view[into.write(view[:WRITE_SIZE]) :]


def check_layer(folder: Medium, layer: Layer, on_progress: OnProgress) -> list[HybridError]:
    """Read a whole layer.

    Returns the errors of missing or damaged parts; without any, checks the layer's sha256 too.
    """
    wrong: list[HybridError] = []
    with closing(ParallelHasher()) as hasher:
        for part in layer.parts:
            try:
                data = folder.read(part.path, part.size)
                _verify(part, data, hasher.add(data).result())
            except (NotThere, BadData) as error:
                wrong.append(error)
            on_progress(part.size)
        if not wrong and hasher.whole() != layer.sha256:
            wrong.append(BadData(f"{layer.place}: its parts together are not what it is named by"))
    return wrong


def present(folder: Medium, model: Model) -> set[str]:
    """The paths of the model's parts that are listed in the folder. Their content is not checked."""
    parts = model.parts
    listed = {
        f"{place}/{entry.name}"
        for place in {path.rpartition("/")[0] for path in parts}
        for entry in folder.entries(place)
        if entry.kind == "file"
    }
    return listed & parts.keys()
